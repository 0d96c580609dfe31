"""The PushT demonstrations of diffusion policy (a zarr of 206 human episodes) as a dataset."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.data.episode import Episode, not_finite
from vqbet_ros.errors import BadDataset, listed, SpecMismatch
from vqbet_ros.sim.pusht import KEYPOINT_NAMES, SIZE, tee_keypoints
from vqbet_ros.spec import JOINT_STATE, RobotSpec

# Shapes behind the frame axis. The zarr's own `keypoint` is not among them: its 9 points were
# drawn at random on the block by the program that recorded them, so no simulator reports them. The
# 8 corners follow from the recorded pose, and are what gym-pusht reports.
LAYOUT: dict[str, tuple[int, ...]] = {'img': (96, 96, 3), 'state': (5,), 'action': (2,)}


class PushTZarr:
    """A checked view of the demonstrations; arrays are read one episode at a time.

    Args:
        path: The folder whose groups are `data` (img, state, action) and `meta` (episode_ends).

    Raises:
        BadDataset: Lists everything that is missing, of another shape or length, or not finite.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the folder and check it."""
        self.path = Path(path)
        self._arrays: dict[str, Any] = {}
        self._open()
        self.ends: list[int] = []
        self._check_layout()
        self._check_values()

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.ends)

    def episodes(self, spec: RobotSpec, *, mirror: bool = False) -> Iterator[Episode]:
        """Iterate over the episodes as a spec asks for them.

        With `mirror` each episode is followed by its mirror image: the table and the goal are
        symmetric about the line x + y = 512 px, so that both are demonstrations of one task.

        The targets are the block's 8 corners, (T, 16) px. Reading raises BadDataset where a file
        is damaged or an image has values that are not 0 to 255.

        Raises:
            SpecMismatch: The spec asks for something else than what was recorded; at once.
        """
        return self._read_episodes(spec, *_columns(spec), mirror)

    def _read_episodes(
        self, spec: RobotSpec, state_columns: list[int], action_columns: list[int], mirror: bool
    ) -> Iterator[Episode]:
        start = 0
        for end in self.ends:
            frames = slice(start, end)
            state = self._read('data/state', frames).astype(np.float32)  # (T, 5)
            action = self._read('data/action', frames).astype(np.float32)
            images = {
                camera.name: _to_uint8(self._read('data/img', frames), start)
                for camera in spec.cameras
            }
            recorded = (state, action, images)
            for state, action, images in (recorded, _mirrored(*recorded))[: 1 + mirror]:
                keypoints = tee_keypoints(state[:, 2:5])  # (T, 16)
                seen = np.concatenate([state[:, :2], keypoints], axis=1)  # (T, 18)
                yield Episode(
                    state=np.ascontiguousarray(seen[:, state_columns]),
                    action=np.ascontiguousarray(action[:, action_columns]),
                    images=images,
                    targets=keypoints,
                )
            start = end

    def _open(self) -> None:
        # Only the importer needs zarr; it takes a while to import.
        import zarr

        if not self.path.is_dir():
            raise BadDataset(f'no such directory: {self.path}')
        try:
            group = zarr.open_group(str(self.path), mode='r')
        # zarr 2 and 3 raise different errors, all of them ValueError, OSError or KeyError.
        except (ValueError, OSError, KeyError) as error:
            raise BadDataset(
                f'{self.path} is not a zarr group ({error}); expected the folder '
                'pusht_cchi_v7_replay.zarr of the diffusion policy demonstrations'
            ) from error
        for name in ('data/img', 'data/state', 'data/action', 'meta/episode_ends'):
            if name in group and hasattr(group[name], 'shape'):
                self._arrays[name] = group[name]

    def _check_layout(self) -> None:
        problems = []
        lengths = {}
        for name, width in LAYOUT.items():
            array = self._arrays.get(f'data/{name}')
            if array is None:
                problems.append(f'data/{name}: missing, expected shape {_shape(width)}')
                continue
            if array.shape[1:] != width:
                problems.append(f'data/{name}: got shape {array.shape}, expected {_shape(width)}')
            if array.dtype.kind not in 'fu' or (name != 'img' and array.dtype.kind != 'f'):
                expected = 'uint8 or float' if name == 'img' else 'float'
                problems.append(f'data/{name}: got dtype {array.dtype}, expected {expected}')
            absent = array.nchunks - array.nchunks_initialized
            if absent:  # zarr would read them as zeros
                problems.append(f'data/{name}: {absent} of {array.nchunks} chunks are missing')
            lengths[name] = array.shape[0] if array.shape else 0
        if len(set(lengths.values())) > 1:
            problems.append('lengths differ: ' + ', '.join(f'{k} {v}' for k, v in lengths.items()))
        stored = self._arrays.get('meta/episode_ends')
        if stored is None:
            problems.append('meta/episode_ends: missing, expected shape (episodes,)')
        elif len(stored.shape) != 1 or stored.dtype.kind not in 'iu':
            problems.append(
                f'meta/episode_ends: got {stored.dtype} {stored.shape}, '
                'expected integers of shape (episodes,)'
            )
        else:
            ends = self._read('meta/episode_ends', slice(0, stored.shape[0])).astype(np.int64)
            problems += _end_problems(ends, lengths)
            self.ends = ends.tolist()
        self._refuse(problems)

    def _check_values(self) -> None:
        problems = []
        for name in ('data/state', 'data/action'):
            problems += not_finite(name, self._read(name, slice(0, self.ends[-1])))
        self._refuse(problems)

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            title = (
                f'{self.path} is not as the PushT demonstrations are ({len(problems)} problem(s))'
            )
            raise BadDataset(listed(title, problems))

    def _read(self, name: str, frames: slice) -> NDArray[Any]:
        try:
            rows: NDArray[Any] = np.asarray(self._arrays[name][frames])
        # What a damaged chunk raises depends on the codec.
        except (RuntimeError, ValueError, OSError) as error:
            where = f'{name}, rows {frames.start} to {frames.stop}'
            raise BadDataset(f'{self.path}: cannot read {where}: {error}') from error
        return rows


def _end_problems(ends: NDArray[np.int64], lengths: Mapping[str, int]) -> list[str]:
    if len(ends) == 0 or np.any(np.diff(ends, prepend=0) <= 0):
        return ['meta/episode_ends: not strictly increasing from above 0']
    frames = min(lengths.values(), default=0)
    if ends[-1] != frames:
        return [f'meta/episode_ends: ends at {ends[-1]}, expected {frames} frames']
    return []


def _columns(spec: RobotSpec) -> tuple[list[int], list[int]]:
    """Find a spec's state channels and actions among the demonstrations' columns."""
    known = {'x': 0, 'y': 1, **{name: 2 + i for i, name in enumerate(KEYPOINT_NAMES)}}
    problems = []
    state_columns = []
    for part in spec.state:
        suffix = '/position' if part.type == JOINT_STATE else ''
        for channel in part.channels:
            name = channel.removesuffix(suffix)
            if name not in known or channel != name + suffix:
                problems.append(f"state '{channel}': not recorded; there are {_names(known)}")
            else:
                state_columns.append(known[name])
        if part.unit != 'px':
            problems.append(f'state {part.topic}: got unit {part.unit!r}, expected px')
    for name in spec.action.names:
        if name not in ('x', 'y'):
            problems.append(f"action '{name}': not recorded; there are x, y")
    if (spec.action.reference, spec.action.unit) != ('absolute', 'px'):
        problems.append(
            f'action: got {spec.action.reference} targets in {spec.action.unit!r}, '
            'expected absolute ones in px'
        )
    for camera in spec.cameras:
        if (camera.height, camera.width) != LAYOUT['img'][:2] or camera.crop:
            problems.append(
                f"camera '{camera.name}': got {camera.height}x{camera.width}"
                f'{" with a crop" if camera.crop else ""}, expected 96x96 without one'
            )
    if len(spec.cameras) > 1:
        problems.append(f'cameras: got {len(spec.cameras)}, expected at most one')
    if spec.rate_hz != 10.0:
        problems.append(f'rate_hz: got {spec.rate_hz:g}, expected 10')
    if problems:
        title = f"the PushT demonstrations do not have what robot '{spec.robot}' asks for"
        raise SpecMismatch(listed(title, problems))
    return state_columns, [known[name] for name in spec.action.names]


def _mirrored(
    state: NDArray[np.float32], action: NDArray[np.float32], images: dict[str, NDArray[np.uint8]]
) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, NDArray[np.uint8]]]:
    """Mirror an episode about x + y = 512 px, which maps the block's goal pose onto itself.

    A point (x, y) becomes (512 - y, 512 - x). The block is symmetric about its stem, so that its
    angle becomes pi/2 - angle.
    """
    mirrored = np.concatenate(
        [
            SIZE - state[:, [1, 0]],
            SIZE - state[:, [3, 2]],
            np.pi / 2 - state[:, 4:5],
        ],
        axis=1,
    )  # (T, 5)
    turned = {
        name: np.ascontiguousarray(image[:, ::-1, ::-1].transpose(0, 2, 1, 3))
        for name, image in images.items()
    }
    return mirrored.astype(np.float32), SIZE - action[:, ::-1], turned


def _to_uint8(images: NDArray[Any], first: int) -> NDArray[np.uint8]:
    """Turn (T, 96, 96, 3) of uint8, or of float with values 0 to 255, into uint8."""
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())  # NaN if there is one
        if not (low >= 0 and 1 < high <= 255):
            raise BadDataset(
                f'data/img, frames from {first}: got values from {low:g} to {high:g}, '
                'expected 0 to 255'
            )
        images = np.rint(images)
    return np.asarray(images, dtype=np.uint8)


def _names(known: Mapping[str, int]) -> str:
    return ', '.join(known)


def _shape(width: tuple[int, ...]) -> str:
    return f'(frames, {", ".join(map(str, width))})'
