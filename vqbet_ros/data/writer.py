"""Writing a dataset: what was added is on disk, or it is not there at all."""

from collections.abc import Iterable, Iterator, Sequence
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.config import Outcome
from vqbet_ros.data.episode import Episode
from vqbet_ros.data.layout import (
    columns,
    HEADER_BYTES,
    INDEX,
    is_empty_dir,
    npy_header,
    read_index,
    VERSION,
    write_atomically,
)
from vqbet_ros.data.lock import DatasetLock
from vqbet_ros.data.store import Dataset
from vqbet_ros.errors import BadDataset, listed
from vqbet_ros.spec import RobotSpec

COPY_BYTES = 16 << 20
"""About so much of a dataset is copied to another one at a time."""


class DatasetWriter:
    """Adds episodes to a new or an existing dataset; memory does not grow with the dataset.

    After each call the dataset on disk is complete. A kill, a full disk or Ctrl-C in the middle of
    a call loses what that call was adding, and nothing else. Until it is closed, no other process
    can write the dataset.

    Args:
        path: The directory; made if absent. An existing dataset of the same spec is continued.
        spec: Decides which arrays there are, and their widths.
        source: Where the demonstrations come from, for people.
        target_names: Names of the columns of `Episode.targets`.
        copies: How many consecutive episodes belong to one demonstration; see `Dataset`.
        durable: Whether each call waits until the disk has everything. Without, a cut of power
            may lose more; enough for what is thrown away afterwards.

    Raises:
        BadDataset: The directory holds something else, or a dataset that is broken, has other
            target names or another number of copies, or is being written by another process.
        SpecMismatch: The dataset in the directory has another spec.
    """

    def __init__(
        self,
        path: str | Path,
        spec: RobotSpec,
        source: str,
        target_names: Sequence[str] = (),
        copies: int = 1,
        *,
        durable: bool = True,
    ) -> None:
        """Make the directory, or continue the dataset in it."""
        self.path = Path(path)
        self.spec = spec
        self.source = source
        self.target_names = tuple(target_names)
        self.copies = copies
        self._durable = durable
        self._ends: list[int] = []
        self._outcomes: list[Outcome] = []
        self._columns = columns(spec, len(self.target_names))
        if self.path.exists() and not is_empty_dir(self.path):
            read_index(self.path)  # in a folder of other things, not even a lock is left
        self._lock = DatasetLock(self.path)
        try:
            if is_empty_dir(self.path):
                self._create()
            else:
                self._continue()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> 'DatasetWriter':
        """Return itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let others write: nothing is pending, each call has already been completed on disk."""
        self._lock.release()

    @property
    def num_frames(self) -> int:
        """Frames of the episodes added so far."""
        return self._ends[-1] if self._ends else 0

    @property
    def num_episodes(self) -> int:
        """Episodes added so far."""
        return len(self._ends)

    @property
    def ends(self) -> tuple[int, ...]:
        """The frame after the last one of each episode."""
        return tuple(self._ends)

    def add(self, episode: Episode, outcome: Outcome = 'unmarked') -> None:
        """Append one episode.

        Raises:
            BadDataset: The episode does not fit the spec, or it could not be written (a full
                disk, for example); the episodes before it stay.
        """
        self._write([(outcome, [episode])])

    def add_pieces(self, pieces: Iterable[Episode], outcome: Outcome = 'unmarked') -> None:
        """Append one episode that comes in consecutive pieces, one of them in memory at a time.

        Raises:
            BadDataset: There is no piece, or as for `add`.
        """
        self._write([(outcome, pieces)])

    def extend(self, other: Dataset) -> None:
        """Append all episodes of another dataset, all of them or none.

        Raises:
            SpecMismatch: It has another spec.
            BadDataset: As for `add`.
        """
        self.spec.require_equal(other.spec, ours='dataset', theirs='one to append')
        episodes = (_pieces(other, index) for index in range(other.num_episodes))
        self._write(zip(other.outcomes, episodes, strict=True))

    def relabel(self, episodes: range, outcome: Outcome) -> None:
        """Change the outcome of episodes that are already there.

        Raises:
            BadDataset: It could not be written; the old outcomes stay.
        """
        outcomes = list(self._outcomes)
        outcomes[episodes.start : episodes.stop] = [outcome] * len(episodes)
        try:
            self._commit(self._ends, outcomes)
        except OSError as error:
            raise BadDataset(f'could not write {self.path}: {error.strerror or error}') from error
        self._outcomes = outcomes

    def _write(self, episodes: Iterable[tuple[Outcome, Iterable[Episode]]]) -> None:
        """Append episodes in pieces; `dataset.json` counts them once all of them are there."""
        ends, outcomes = list(self._ends), list(self._outcomes)
        rows, size = self.num_frames, 0
        try:
            for outcome, pieces in episodes:
                for piece in pieces:
                    arrays = self._arrays(piece, len(ends))
                    size += sum(array.nbytes for array in arrays.values())
                    for name, array in arrays.items():
                        self._append(name, array, rows)
                    rows += piece.length
                if rows == (ends[-1] if ends else 0):
                    raise BadDataset(f'episode {len(ends)} for {self.path} has no steps')
                ends.append(rows)
                outcomes.append(outcome)
            for name in self._columns:
                self._count(name, rows)
            self._commit(ends, outcomes)
            self._ends, self._outcomes = ends, outcomes
        except OSError as error:
            self._drop_uncommitted()
            raise BadDataset(
                f'could not write episode {len(ends)} ({size} bytes) to {self.path}: '
                f'{error.strerror or error}; the {self.num_episodes} episode(s) before it are '
                'kept. Free some space, or choose another place'
            ) from error
        except BaseException:
            # Ctrl-C may come when all of it is on the disk, and only not yet known here.
            if read_index(self.path)['num_episodes'] == self.num_episodes:
                self._drop_uncommitted()
            else:
                self._ends, self._outcomes = ends, outcomes
            raise

    def _arrays(self, piece: Episode, index: int) -> dict[str, NDArray[Any]]:
        problems = piece.misfits(self.spec, self.target_names)
        if problems:
            title = f'episode {index} does not fit the spec of {self.path}'
            raise BadDataset(listed(title, problems))
        arrays: dict[str, NDArray[Any]] = {'state': piece.state, 'action': piece.action}
        arrays |= {f'images_{name}': array for name, array in piece.images.items()}
        if piece.targets is not None:
            arrays['targets'] = piece.targets
        return arrays

    def _create(self) -> None:
        try:
            write_atomically(self.path / 'spec.yaml', self.spec.to_yaml().encode())
            for name in self._columns:
                self._file(name).write_bytes(self._header(name, 0))
            self._commit([], [])
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
                f'{self.path}: holds each demonstration {dataset.copies} time(s), the new ones '
                f'come {self.copies} time(s); write to another directory'
            )
        if self.source not in dataset.source:
            self.source = f'{dataset.source}; {self.source}'
        else:
            self.source = dataset.source
        self._ends = dataset.episode_ends.tolist()
        self._outcomes = list(dataset.outcomes)
        self._drop_uncommitted()

    def _append(self, name: str, array: NDArray[Any], rows: int) -> None:
        """Write rows behind the first `rows` of a file, whose header does not count them yet."""
        with self._file(name).open('r+b') as file:
            file.seek(self._size(name, rows))
            file.write(np.ascontiguousarray(array).data)

    def _count(self, name: str, rows: int) -> None:
        """Let a file's header count its rows, once they are there."""
        with self._file(name).open('r+b') as file:
            if self._durable:
                os.fsync(file.fileno())
            file.write(self._header(name, rows))
            file.flush()
            if self._durable:
                os.fsync(file.fileno())

    def _commit(self, ends: list[int], outcomes: list[Outcome]) -> None:
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
            'outcomes': outcomes,
        }
        write_atomically(self.path / INDEX, (json.dumps(index, indent=1) + '\n').encode())

    def _drop_uncommitted(self) -> None:
        """Cut off rows of what was not finished; it only shrinks files, so a full disk is fine."""
        for name in self._columns:
            with self._file(name).open('r+b') as file:
                # Header first: were only the rows gone, the file would be shorter than it says.
                file.write(self._header(name, self.num_frames))
                file.flush()
                file.truncate(self._size(name, self.num_frames))

    def _size(self, name: str, rows: int) -> int:
        dtype, width = self._columns[name]
        return HEADER_BYTES + rows * dtype.itemsize * int(np.prod(width))

    def _header(self, name: str, rows: int) -> bytes:
        dtype, width = self._columns[name]
        return npy_header(dtype, (rows, *width))

    def _file(self, name: str) -> Path:
        return self.path / f'{name}.npy'


def _pieces(dataset: Dataset, index: int) -> Iterator[Episode]:
    """Iterate over an episode in pieces of about COPY_BYTES, which are views of its files."""
    frames = dataset.episode(index)
    row_bytes = sum(images[0].nbytes for images in dataset.images.values()) + 1
    step = max(1, COPY_BYTES // row_bytes)
    for first in range(frames.start, frames.stop, step):
        rows = slice(first, min(first + step, frames.stop))
        yield Episode(
            state=dataset.state[rows],
            action=dataset.action[rows],
            images={name: images[rows] for name, images in dataset.images.items()},
            targets=None if dataset.targets is None else dataset.targets[rows],
        )
