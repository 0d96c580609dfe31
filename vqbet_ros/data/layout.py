"""The files of a dataset: a directory of plain .npy files, memory-mapped when read.

    dataset.json           version, source, num_frames, num_episodes, target_names, copies, and
                           the outcome of each episode
    spec.yaml              the RobotSpec under which it was recorded
    episode_ends.npy       (E,) int64, the frame after each episode's last
    state.npy              (N, S) float32        action.npy   (N, A) float32
    images_<camera>.npy    (N, H, W, 3) uint8 RGB
    targets.npy            (N, K) float32, labels for auxiliary losses (optional)

dataset.json is replaced last and atomically: rows and ends beyond what it counts belong to an
episode whose writing was cut short, and are ignored.
"""

import json
import os
from pathlib import Path
import struct
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.config import Outcome
from vqbet_ros.errors import BadDataset, listed
from vqbet_ros.spec import RobotSpec

VERSION = 1
INDEX = 'dataset.json'
LOCK = '.lock'
"""Held by whoever writes; see `lock`."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
# A fixed length, so that the header can be rewritten in place as rows are added (NumPy itself
# leaves room for that only since 1.23).
HEADER_BYTES = 128


def columns(spec: RobotSpec, num_targets: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return dtype and shape of one row of each array file that a spec asks for."""
    f32, u8 = np.dtype(np.float32), np.dtype(np.uint8)
    rows: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        'state': (f32, (spec.state_dim,)),
        'action': (f32, (spec.action_dim,)),
    }
    for camera in spec.cameras:
        rows[f'images_{camera.name}'] = (u8, (camera.height, camera.width, 3))
    if num_targets:
        rows['targets'] = (f32, (num_targets,))
    return rows


def read_index(path: Path) -> dict[str, Any]:
    """Read dataset.json of the dataset in `path`.

    Raises:
        BadDataset: There is none, it is broken, or another version wrote it.
    """
    if not (path / INDEX).is_file():
        what = 'not a dataset' if path.exists() else 'no such directory'
        raise BadDataset(f'{path}: {what} (expected {INDEX}; `vqbet import` makes a dataset)')
    try:
        index = json.loads((path / INDEX).read_text(encoding='utf-8'))
    except ValueError as error:
        raise BadDataset(f'{path / INDEX} is not valid JSON: {error}') from error
    version = index.get('version') if isinstance(index, dict) else None
    if version != VERSION:
        raise BadDataset(
            f'{path / INDEX}: got version {version!r}, expected {VERSION}; '
            'make the dataset anew with this program, or read it with the one that wrote it'
        )
    problems = [
        f'{key}: got {index.get(key)!r}, expected {what}'
        for key, fits, what in (
            ('source', isinstance(index.get('source'), str), 'text'),
            ('num_frames', _is_count(index.get('num_frames')), 'a count'),
            ('num_episodes', _is_count(index.get('num_episodes')), 'a count'),
            ('target_names', _is_names(index.get('target_names')), 'a list of names'),
            (
                'copies',
                _is_count(index.get('copies', 1)) and index.get('copies') != 0,
                '1 or more',
            ),
            (
                'outcomes',
                _are_outcomes(index.get('outcomes', []), index),
                f'one of {", ".join(OUTCOMES)} for each episode',
            ),
        )
        if not fits
    ]
    if problems:
        raise BadDataset(listed(f'{path / INDEX}: {len(problems)} problem(s)', problems))
    unmarked = ['unmarked'] * index['num_episodes']  # datasets of earlier versions say nothing
    return {'copies': 1, 'outcomes': unmarked, **index}


def open_rows(
    path: Path, dtype: np.dtype[Any], width: tuple[int, ...], count: int, problems: list[str]
) -> NDArray[Any]:
    """Map the first `count` rows of a file; on a problem, note it and return no rows."""
    nothing = np.zeros((0, *width), dtype)
    if not path.is_file():
        problems.append(f'{path.name}: missing')
        return nothing
    try:
        # A plain view: indexing np.memmap itself costs several times more.
        array: NDArray[Any] = np.asarray(np.load(path, mmap_mode='r', allow_pickle=False))
    except (ValueError, OSError, EOFError):
        problems.append(f'{path.name}: broken or cut short, not a whole .npy file')
        return nothing
    if array.dtype != dtype:
        problems.append(f'{path.name}: got dtype {array.dtype}, expected {dtype}')
    if array.shape[1:] != width or array.ndim == 0:
        problems.append(f'{path.name}: got rows of {array.shape[1:]}, expected {width}')
    elif len(array) < count:
        problems.append(f'{path.name}: got {len(array)} rows, expected {count}')
    elif array.dtype == dtype:
        return array[:count]
    return nothing


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Build the header of a version 1.0 .npy file, padded to HEADER_BYTES."""
    sizes = ', '.join(map(str, shape)) + (',' if len(shape) == 1 else '')
    descr = np.lib.format.dtype_to_descr(dtype)
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': ({sizes}), }}"
    length = HEADER_BYTES - 10
    header = b'\x93NUMPY\x01\x00' + struct.pack('<H', length)
    return header + text.encode().ljust(length - 1) + b'\n'


def is_empty_dir(path: Path) -> bool:
    """Tell whether `path` is a directory without anything in it, but for a lock."""
    return path.is_dir() and all(file.name == LOCK for file in path.iterdir())


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader finds either the old or the new content, whole.

    Raises:
        OSError: It could not be written; the old file is untouched.
    """
    temporary = path.with_name(path.name + '.tmp')
    try:
        with temporary.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_outcomes(value: Any, index: dict[str, Any]) -> bool:
    if 'outcomes' not in index:
        return True
    return (
        isinstance(value, list)
        and len(value) == index.get('num_episodes')
        and all(outcome in OUTCOMES for outcome in value)
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
