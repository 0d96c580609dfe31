"""Which rows of a dataset make up one training sample: pure index arithmetic, masks always.

    episode      start · · · · · · · at · · · · · · end
    observed               at-h+1 … at                     (h,)   present: not before the start
    actions                for each observed row r: r … r+W-1   (h, W) mask: not past the end
    goal                                      later, g rows        (g,)

Rows that would fall outside the episode are clamped to its border and marked.

Legend: B batch, h history, W chunk, g goal steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Windows:
    """Rows of a batch of samples.

    Attributes:
        observed: (B, h) rows of states and images.
        present: (B, h) False where the row was clamped.
        actions: (B, h, W) rows of actions.
        mask: (B, h, W) False where the row was clamped or the step is not present.
    """

    observed: Rows
    present: Mask
    actions: Rows
    mask: Mask


@dataclass(frozen=True)
class FrameTable:
    """The frames of some episodes, each with its episode's borders.

    Attributes:
        at: (M,) rows.
        start: (M,) first row of the frame's episode.
        end: (M,) one past its last row.
        episode: (M,) its number.
    """

    at: Rows
    start: Rows
    end: Rows
    episode: Rows

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.at)

    def take(self, index: Rows) -> 'FrameTable':
        """Select frames."""
        return FrameTable(self.at[index], self.start[index], self.end[index], self.episode[index])


def split_episodes(demonstrations: Rows, val_fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Split episodes into training and validation, at random by seed.

    Those of one demonstration are nearly alike and stay together. At least one demonstration is
    kept for training; validation gets one as soon as the fraction is positive and there are two.

    Args:
        demonstrations: (E,) the number of each episode's demonstration.
        val_fraction: Share of the demonstrations.
        seed: Chooses them.

    Returns:
        Places in `demonstrations`, in order: of training, of validation.
    """
    numbers, of_episode = np.unique(demonstrations, return_inverse=True)
    count = len(numbers)
    order = np.random.default_rng(seed).permutation(count)
    kept_out = round(count * val_fraction)
    if val_fraction > 0 and count > 1:
        kept_out = max(1, kept_out)
    kept_out = min(kept_out, count - 1)
    is_val = np.isin(of_episode, order[:kept_out])
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def frame_table(episode_ends: Rows, episodes: Rows) -> FrameTable:
    """List the frames of the given episodes; `episode_ends` (E,) are ends of consecutive rows."""
    starts = np.concatenate([[0], episode_ends[:-1]]).astype(np.int64)
    lengths = episode_ends[episodes] - starts[episodes]
    start = np.repeat(starts[episodes], lengths)
    end = np.repeat(episode_ends[episodes], lengths)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    at = start + np.arange(len(start), dtype=np.int64) - first
    return FrameTable(at, start, end, np.repeat(episodes, lengths).astype(np.int64))


def parts_of(frames: FrameTable, most: int) -> Iterator[FrameTable]:
    """Yield the frames in parts of at most so many."""
    for begin in range(0, len(frames), most):
        yield frames.take(slice(begin, begin + most))  # type: ignore[arg-type]


def windows(frames: FrameTable, history: int, chunk: int) -> Windows:
    """Return the rows of the samples whose newest observations are the given frames."""
    start, end = frames.start[:, None], frames.end[:, None]
    wanted = frames.at[:, None] + np.arange(1 - history, 1)  # (B, h)
    present = wanted >= start
    observed = np.maximum(wanted, start)
    future = wanted[:, :, None] + np.arange(chunk)  # (B, h, W)
    mask = (future < end[:, :, None]) & present[:, :, None]
    actions = np.clip(future, start[:, :, None], end[:, :, None] - 1)
    return Windows(observed, present, actions, mask)


def goal_rows(frames: FrameTable, goal_steps: int, rng: np.random.Generator) -> Rows:
    """Draw hindsight goals: g consecutive later rows of the same episode (B, g).

    The start is uniform over the rows after the sample's newest observation; where fewer than g
    rows are left, the episode's last g rows are taken (its border repeated if it is shorter).
    """
    latest = np.maximum(frames.end - goal_steps, frames.start)
    earliest = np.minimum(frames.at + 1, latest)
    first = rng.integers(earliest, latest + 1)
    rows: Rows = np.minimum(first[:, None] + np.arange(goal_steps), frames.end[:, None] - 1)
    return rows


def batch_of(step: int, count: int, batch: int, seed: int) -> Rows:
    """Return the sample numbers of a training step.

    They depend on the arguments alone, so that a resumed training sees the same batches. Each
    pass over the samples is a new permutation; samples that do not fill a batch wait for the next.
    """
    batch = min(batch, count)
    per_epoch = count // batch
    epoch, position = divmod(step, per_epoch)
    return _permutation(count, seed, epoch)[position * batch : (position + 1) * batch]


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> Rows:
    return np.random.default_rng((seed, epoch)).permutation(count).astype(np.int64)
