"""How one chunk goes on from the chunks before it, so that the robot does not jump at the seam.

    replace       the newest chunk alone
    cross_fade    from the running plan to the newest chunk, over a few steps
    ensemble      the mean of all chunks that say something about a time; the oldest has the weight
                  1, the next exp(-m), then exp(-2 m) (Zhao et al., "Learning Fine-Grained
                  Bimanual Manipulation with Low-Cost Hardware", 2023, section IV-B)
    mode          the same mean, of those chunks that have the newest one's primary code: the mean
                  of two ways around an obstacle leads into it

Legend: W steps of a chunk, A numbers of an action, C codes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime_spec import BlendSettings

Vector = NDArray[np.float64]


def choose_primary(
    probabilities: NDArray[np.floating], running: int | None, threshold: float
) -> int | None:
    """Decide whether the policy stays with the primary code that the robot is executing.

    Args:
        probabilities: (C,) of the primary codes, for the newest observation.
        running: The code of the chunk that is being executed; None where there is none.
        threshold: How much more probable another code has to be, 0 to 1.

    Returns:
        The code to decode; None where nothing is running, so that the policy chooses as it always
        does.

    Raises:
        ValueError: The probabilities are no (C,) finite numbers, or there is no such code.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f'probabilities: got {values}, expected (C,) finite numbers')
    if running is None:
        return None
    if not 0 <= running < len(values):
        raise ValueError(f'running: got {running}, expected a code from 0 to {len(values) - 1}')
    best = int(values.argmax())
    return best if values[best] - values[running] > threshold else running


def blend(
    settings: BlendSettings,
    newest: Chunk,
    earlier: Sequence[Chunk],
    running: Chunk | None,
    now_ns: int,
) -> Vector:
    """Return the actions (W, A) that are executed of the newest chunk.

    Args:
        settings: How.
        newest: As the policy gave it.
        earlier: The chunks before it, as the policy gave them, oldest first.
        running: What is executed until now, if anything is.
        now_ns: Actions that are due by now are left as they are.
    """
    actions = np.array(newest.actions, dtype=np.float64)
    if settings.kind == 'cross_fade':
        return actions if running is None else _cross_fade(settings, newest, running, now_ns)
    if settings.kind in ('ensemble', 'mode'):
        same = [
            chunk
            for chunk in earlier
            if settings.kind == 'ensemble'
            or (newest.primary is not None and chunk.primary == newest.primary)
        ]
        return _ensemble(settings, newest, same, now_ns)
    return actions


def seam(actions: Vector, newest: Chunk, running: Chunk, now_ns: int) -> Vector | None:
    """Return by how much the plan for the first action after now changes, (A,).

    Returns:
        None where the running chunk said nothing about that time.
    """
    for time_ns, action in zip(newest.times_ns, actions, strict=True):
        if time_ns > now_ns:
            planned, covered = sample(running, [time_ns])
            return np.asarray(np.abs(action - planned[0])) if covered[0] else None
    return None


def sample(chunk: Chunk, times_ns: Sequence[int]) -> tuple[Vector, NDArray[np.bool_]]:
    """Return what a chunk plans at other times, linear between its actions.

    Returns:
        Values (W, A), and for which of them the chunk has something to say (W,): from its first
        action's time to its last's.
    """
    actions = np.asarray(chunk.actions, dtype=np.float64)
    place = (np.array(times_ns) - chunk.t_obs_ns) / chunk.period_ns - 1.0
    covered = (place >= 0) & (place <= len(actions) - 1)
    first = np.clip(np.floor(place).astype(int), 0, len(actions) - 1)
    last = np.minimum(first + 1, len(actions) - 1)
    weight = np.clip(place - first, 0.0, 1.0)[:, None]
    return actions[first] + weight * (actions[last] - actions[first]), covered


def _cross_fade(settings: BlendSettings, newest: Chunk, running: Chunk, now_ns: int) -> Vector:
    actions = np.array(newest.actions, dtype=np.float64)
    planned, covered = sample(running, newest.times_ns)
    future = np.array(newest.times_ns) > now_ns
    # The n-th step from now has n / (steps + 1) of the newest chunk.
    weight = np.clip(np.cumsum(future) / (settings.steps + 1), 0.0, 1.0)[:, None]
    faded = planned + weight * (actions - planned)
    return np.where((covered & future)[:, None], faded, actions)


def _ensemble(
    settings: BlendSettings, newest: Chunk, earlier: Sequence[Chunk], now_ns: int
) -> Vector:
    actions = np.array(newest.actions, dtype=np.float64)
    times_ns = newest.times_ns
    total, weights = np.zeros_like(actions), np.zeros(len(actions))
    count = np.zeros(len(actions))  # of the chunks so far, per step
    for chunk in (*earlier, newest):
        values, covered = sample(chunk, times_ns)
        weight = np.where(covered, np.exp(-settings.decay * count), 0.0)
        total += weight[:, None] * values
        weights += weight
        count += covered
    future = np.array(times_ns) > now_ns
    return np.where(future[:, None], total / weights[:, None], actions)
