"""Reading a dataset, the demonstrations on disk; `layout` describes the files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.config import Outcome
from vqbet_ros.data.episode import not_finite
from vqbet_ros.data.layout import columns, open_rows, read_index
from vqbet_ros.errors import BadDataset, ConfigError, listed
from vqbet_ros.spec import RobotSpec

CHECK_ROWS = 65536


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Demonstrations, one after the other; arrays are read-only memory maps.

    Attributes:
        path: The directory.
        spec: The RobotSpec under which it was recorded.
        state: (N, S) float32, units of the spec.
        action: (N, A) float32, units of the spec.
        images: Camera name to (N, H, W, 3) uint8 RGB.
        targets: (N, K) float32 or None.
        target_names: K names.
        episode_ends: (E,) int64, increasing; the last is N.
        source: Where the demonstrations come from.
        copies: Each demonstration is there as so many consecutive episodes (as it was, mirrored).
            A split must not part them.
        outcomes: (E,) how each demonstration ended.
    """

    path: Path
    spec: RobotSpec
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    images: Mapping[str, NDArray[np.uint8]]
    targets: NDArray[np.float32] | None
    target_names: tuple[str, ...]
    episode_ends: NDArray[np.int64]
    source: str = ''
    copies: int = 1
    outcomes: tuple[Outcome, ...] = ()

    @classmethod
    def open(cls, path: str | Path) -> 'Dataset':
        """Open and check a dataset; the values of images alone are not looked at.

        Raises:
            BadDataset: Lists every problem, or says that there is no dataset or no episode.
        """
        dataset = cls.open_unfilled(path)
        if dataset.num_episodes == 0:
            raise BadDataset(f'{path} holds no episode yet: import or prepare one first')
        return dataset

    @classmethod
    def open_unfilled(cls, path: str | Path) -> 'Dataset':
        """Open and check a dataset that may still be without an episode.

        Raises:
            BadDataset: As for `open`.
        """
        path = Path(path)
        index = read_index(path)
        try:
            spec = RobotSpec.from_yaml(path / 'spec.yaml')
        except ConfigError as error:
            raise BadDataset(f'{path}: its spec cannot be read: {error}') from error
        frames, episodes = index['num_frames'], index['num_episodes']
        target_names = tuple(index['target_names'])
        problems: list[str] = []
        arrays = {
            name: open_rows(path / f'{name}.npy', dtype, width, frames, problems)
            for name, (dtype, width) in columns(spec, len(target_names)).items()
        }
        ends = open_rows(
            path / 'episode_ends.npy', np.dtype(np.int64), (), episodes, problems
        ).copy()
        problems += _end_problems(ends, frames)
        for name, array in arrays.items():
            if array.dtype == np.float32:
                problems += _value_problems(name, array)
        if problems:
            raise BadDataset(listed(f'{path}: {len(problems)} problem(s)', problems))
        return cls(
            path=path,
            spec=spec,
            state=arrays['state'],
            action=arrays['action'],
            images={camera.name: arrays[f'images_{camera.name}'] for camera in spec.cameras},
            targets=arrays.get('targets'),
            target_names=target_names,
            episode_ends=ends,
            source=index['source'],
            copies=index['copies'],
            outcomes=tuple(index['outcomes']),
        )

    @property
    def num_frames(self) -> int:
        """Steps of all episodes together, N."""
        return len(self.action)

    @property
    def num_episodes(self) -> int:
        """Number of episodes, E."""
        return len(self.episode_ends)

    def episode(self, index: int) -> slice:
        """Return the frames of one episode, counted from 0.

        Raises:
            IndexError: There is no such episode.
        """
        if not 0 <= index < self.num_episodes:
            raise IndexError(f'episode {index} of {self.num_episodes}')
        start = int(self.episode_ends[index - 1]) if index else 0
        return slice(start, int(self.episode_ends[index]))


def _end_problems(ends: NDArray[np.int64], frames: int) -> list[str]:
    if len(ends) == 0:
        return [f'episode_ends.npy: no episodes, but {frames} frames'] if frames else []
    problems = []
    if np.any(np.diff(ends, prepend=0) <= 0):
        problems.append('episode_ends.npy: not strictly increasing')
    if ends[-1] != frames:
        problems.append(f'episode_ends.npy: ends at {ends[-1]}, expected {frames} frames')
    return problems


def _value_problems(name: str, array: NDArray[Any]) -> list[str]:
    for first in range(0, len(array), CHECK_ROWS):
        found = not_finite(f'{name}.npy', array[first : first + CHECK_ROWS], first)
        if found:
            return found
    return []
