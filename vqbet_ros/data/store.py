"""Reading and writing a dataset, the demonstrations on disk; `layout` describes the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.data.episode import Episode, not_finite
from vqbet_ros.data.layout import (
    columns,
    HEADER_BYTES,
    INDEX,
    is_empty_dir,
    npy_header,
    open_rows,
    read_index,
    VERSION,
    write_atomically,
)
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


class DatasetWriter:
    """Adds episodes to a new or an existing dataset; memory does not grow with the dataset.

    After each `add` the dataset on disk is complete. A kill or a full disk in the middle of an
    `add` loses that episode alone.

    Args:
        path: The directory; made if absent. An existing dataset of the same spec is continued.
        spec: Decides which arrays there are, and their widths.
        source: Where the demonstrations come from, for people.
        target_names: Names of the columns of `Episode.targets`.
        copies: How many consecutive episodes belong to one demonstration; see `Dataset`.

    Raises:
        BadDataset: The directory holds something else, or a dataset that is broken or has other
            target names or another number of copies.
        SpecMismatch: The dataset in the directory has another spec.
    """

    def __init__(
        self,
        path: str | Path,
        spec: RobotSpec,
        source: str,
        target_names: Sequence[str] = (),
        copies: int = 1,
    ) -> None:
        """Make the directory, or continue the dataset in it."""
        self.path = Path(path)
        self.spec = spec
        self.source = source
        self.target_names = tuple(target_names)
        self.copies = copies
        self._ends: list[int] = []
        self._columns = columns(spec, len(self.target_names))
        if not self.path.exists() or is_empty_dir(self.path):
            self._create()
        else:
            self._continue()

    def __enter__(self) -> 'DatasetWriter':
        """Return itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave: nothing is pending, each `add` has already been completed on disk."""

    @property
    def num_frames(self) -> int:
        """Frames of the episodes added so far."""
        return self._ends[-1] if self._ends else 0

    @property
    def num_episodes(self) -> int:
        """Episodes added so far."""
        return len(self._ends)

    def add(self, episode: Episode) -> None:
        """Append one episode and make it durable.

        Raises:
            BadDataset: The episode does not fit the spec, or it could not be written (a full
                disk, for example); the episodes before it stay.
        """
        problems = episode.misfits(self.spec, self.target_names)
        if problems:
            title = f'episode {self.num_episodes} does not fit the spec of {self.path}'
            raise BadDataset(listed(title, problems))
        arrays: dict[str, NDArray[Any]] = {'state': episode.state, 'action': episode.action}
        arrays |= {f'images_{name}': array for name, array in episode.images.items()}
        if episode.targets is not None:
            arrays['targets'] = episode.targets
        total = self.num_frames + episode.length
        try:
            for name, array in arrays.items():
                self._append(name, array, total)
            self._commit([*self._ends, total])
        except OSError as error:
            self._drop_uncommitted()
            needed = sum(array.nbytes for array in arrays.values())
            raise BadDataset(
                f'could not write episode {self.num_episodes} ({needed} bytes) to {self.path}: '
                f'{error.strerror or error}; the {self.num_episodes} episode(s) before it are '
                'kept. Free some space, or choose another place'
            ) from error
        self._ends.append(total)

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / 'spec.yaml', self.spec.to_yaml().encode())
            for name in self._columns:
                self._file(name).write_bytes(self._header(name, 0))
            self._commit([])
        except OSError as error:
            raise BadDataset(f'cannot make a dataset in {self.path}: {error}') from error

    def _continue(self) -> None:
        dataset = Dataset.open_unfilled(self.path)
        dataset.spec.require_equal(self.spec, ours='dataset', theirs='source')
        if dataset.target_names != self.target_names:
            raise BadDataset(
                f'{self.path}: its targets are {list(dataset.target_names)}, '
                f'the new ones {list(self.target_names)}; write to another directory'
            )
        if dataset.copies != self.copies:
            raise BadDataset(
                f'{self.path}: it holds each demonstration {dataset.copies} time(s), the new ones '
                f'come {self.copies} time(s); write to another directory'
            )
        if self.source not in dataset.source:
            self.source = f'{dataset.source}; {self.source}'
        else:
            self.source = dataset.source
        self._ends = dataset.episode_ends.tolist()
        self._drop_uncommitted()

    def _append(self, name: str, array: NDArray[Any], total: int) -> None:
        with self._file(name).open('r+b') as file:
            file.seek(self._size(name))
            file.write(np.ascontiguousarray(array).data)
            file.flush()
            # The header counts the rows only once they are there.
            file.seek(0)
            file.write(self._header(name, total))
            file.flush()
            os.fsync(file.fileno())

    def _commit(self, ends: list[int]) -> None:
        header = npy_header(np.dtype(np.int64), (len(ends),))
        body = np.array(ends, dtype=np.int64).tobytes()
        write_atomically(self.path / 'episode_ends.npy', header + body)
        index = {
            'version': VERSION,
            'source': self.source,
            'num_frames': ends[-1] if ends else 0,
            'num_episodes': len(ends),
            'target_names': list(self.target_names),
            'copies': self.copies,
        }
        write_atomically(self.path / INDEX, (json.dumps(index, indent=1) + '\n').encode())

    def _drop_uncommitted(self) -> None:
        """Cut off rows of an unfinished episode; it only shrinks files, so a full disk is fine."""
        for name in self._columns:
            with self._file(name).open('r+b') as file:
                # Header first: were only the rows gone, the file would be shorter than it says.
                file.write(self._header(name, self.num_frames))
                file.flush()
                file.truncate(self._size(name))

    def _size(self, name: str) -> int:
        dtype, width = self._columns[name]
        row = dtype.itemsize * int(np.prod(width))
        return HEADER_BYTES + self.num_frames * row

    def _header(self, name: str, rows: int) -> bytes:
        dtype, width = self._columns[name]
        return npy_header(dtype, (rows, *width))

    def _file(self, name: str) -> Path:
        return self.path / f'{name}.npy'


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
