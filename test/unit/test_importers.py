"""Importing PushT: what is in the zarr is in the dataset, and another layout is refused whole."""

from dataclasses import replace
import json

import numpy as np
import pytest
from vqbet_ros.data.importers.pusht import _mirrored, PushTZarr
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.errors import BadDataset, SpecMismatch
from vqbet_ros.resources import resource
from vqbet_ros.sim.pusht import KEYPOINT_NAMES, tee_keypoints
from vqbet_ros.spec import RobotSpec

pytest.importorskip('zarr', reason="needs zarr: the extra 'train'")

IMAGE = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
KEYPOINTS = RobotSpec.from_yaml(resource('config/robots/pusht_keypoints.yaml'))
CHUNK = 7


def demonstrations(ends=(5, 12, 20), seed=0):
    rng, frames = np.random.default_rng(seed), ends[-1]
    return {
        'data/img': rng.integers(0, 256, (frames, 96, 96, 3)).astype(np.float32),
        'data/state': rng.uniform(50, 450, (frames, 5)).astype(np.float32),
        'data/action': rng.uniform(0, 512, (frames, 2)).astype(np.float32),
        'data/keypoint': rng.uniform(0, 512, (frames, 9, 2)).astype(np.float32),
        'meta/episode_ends': np.array(ends, np.int64),
    }


def write_zarr(path, arrays):
    """Write a zarr (format 2, uncompressed) by hand, the same with every version of zarr."""
    for name, array in arrays.items():
        folder = path / name
        folder.mkdir(parents=True)
        for group in (path, folder.parent):
            (group / '.zgroup').write_text('{"zarr_format": 2}')
        header = {
            'zarr_format': 2,
            'shape': array.shape,
            'chunks': [CHUNK, *array.shape[1:]],
            'dtype': array.dtype.str,
            'compressor': None,
            'fill_value': 0,
            'filters': None,
            'order': 'C',
        }
        (folder / '.zarray').write_text(json.dumps(header))
        for chunk in range(-(-len(array) // CHUNK)):
            rows = array[chunk * CHUNK : (chunk + 1) * CHUNK]
            padded = np.zeros((CHUNK, *array.shape[1:]), array.dtype)
            padded[: len(rows)] = rows
            name = '.'.join([str(chunk)] + ['0'] * (array.ndim - 1))
            (folder / name).write_bytes(padded.tobytes())
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'demonstrations.zarr'


def refused(path, arrays):
    """Import and return the error's message."""
    with pytest.raises(BadDataset) as caught:
        list(PushTZarr(write_zarr(path, arrays)).episodes(IMAGE))
    return str(caught.value)


@pytest.mark.parametrize('dtype', [np.float32, np.uint8])
def test_images_and_pusher(path, dtype):
    arrays = demonstrations()
    arrays['data/img'] = arrays['data/img'].astype(dtype)
    source = PushTZarr(write_zarr(path, arrays))
    episodes = list(source.episodes(IMAGE))
    assert source.num_episodes == 3
    assert [episode.length for episode in episodes] == [5, 7, 8]
    for name, expected in (('state', 'data/state'), ('action', 'data/action')):
        got = np.concatenate([getattr(episode, name) for episode in episodes])
        np.testing.assert_array_equal(got, arrays[expected][:, :2])
    images = np.concatenate([episode.images['top'] for episode in episodes])
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, arrays['data/img'])
    targets = np.concatenate([episode.targets for episode in episodes])
    np.testing.assert_array_equal(targets, tee_keypoints(arrays['data/state'][:, 2:]))


def test_keypoints_and_no_images(path):
    arrays = demonstrations()
    source = PushTZarr(write_zarr(path, arrays))
    episodes = list(source.episodes(KEYPOINTS))
    assert episodes[0].images == {}
    state = np.concatenate([episode.state for episode in episodes])
    np.testing.assert_array_equal(state[:, :2], arrays['data/state'][:, :2])
    np.testing.assert_array_equal(state[:, 2:], tee_keypoints(arrays['data/state'][:, 2:]))


def test_each_episode_is_followed_by_its_mirror_image(path):
    source = PushTZarr(write_zarr(path, demonstrations()))
    plain = list(source.episodes(IMAGE))
    both = list(source.episodes(IMAGE, mirror=True))
    assert len(both) == 2 * len(plain)
    for original, recorded, mirrored in zip(plain, both[::2], both[1::2], strict=True):
        np.testing.assert_array_equal(recorded.action, original.action)
        np.testing.assert_array_equal(mirrored.action, 512 - original.action[:, ::-1])
        np.testing.assert_array_equal(mirrored.state, 512 - original.state[:, ::-1])
        # The reflected corners are the corners of the reflected block, in another order.
        assert original.targets is not None
        assert mirrored.targets is not None
        expected = 512 - original.targets.reshape(-1, 8, 2)[..., ::-1]
        got = mirrored.targets.reshape(-1, 8, 2)
        apart = np.linalg.norm(got[:, :, None] - expected[:, None], axis=-1)  # (T, 8, 8) px
        assert apart.min(axis=1).max() < 1e-3
        # Row 3, column 80 of the mirror image shows what is at x = 95 - 3, y = 95 - 80.
        np.testing.assert_array_equal(
            mirrored.images['top'][:, 3, 80], original.images['top'][:, 95 - 80, 95 - 3]
        )


def test_the_simulator_sees_the_mirror_image_as_the_mirror_image():
    pytest.importorskip('gym_pusht', reason="needs gym-pusht: the extra 'sim'")
    from vqbet_ros.sim.pusht import PushTWorld

    world, rng = PushTWorld(), np.random.default_rng(0)
    for _ in range(5):
        place = rng.uniform(200, 312, 2)
        state = np.array([[*rng.uniform(60, 450, 2), *place, rng.uniform(-3, 3)]], np.float32)
        world.set_state(state[0])
        image, coverage = world.image().copy(), world.coverage()
        mirrored, _, images = _mirrored(state, state[:, :2], {'top': image[None]})
        world.set_state(mirrored[0])
        assert coverage > 0
        assert world.coverage() == pytest.approx(coverage, abs=1e-6)
        # Edges are smoothed a little differently; no more than 1 % of the pixels may look so.
        differs = np.abs(world.image().astype(int) - images['top'][0]).max(axis=-1) > 40
        assert differs.mean() < 0.01


def test_channels_follow_the_specs_order(path):
    joints = replace(IMAGE.state[0], names=('y', 'x'))
    swapped = replace(IMAGE, state=(joints,), action=replace(IMAGE.action, names=('y', 'x')))
    arrays = demonstrations()
    first = next(PushTZarr(write_zarr(path, arrays)).episodes(swapped))
    np.testing.assert_array_equal(first.state, arrays['data/state'][:5, 1::-1])
    np.testing.assert_array_equal(first.action, arrays['data/action'][:5, ::-1])


def test_into_a_dataset(path, tmp_path):
    source = PushTZarr(write_zarr(path, demonstrations()))
    with DatasetWriter(tmp_path / 'dataset', IMAGE, 'made up', KEYPOINT_NAMES) as writer:
        for episode in source.episodes(IMAGE):
            writer.add(episode)
    dataset = Dataset.open(tmp_path / 'dataset')
    assert dataset.episode_ends.tolist() == [5, 12, 20]
    assert dataset.target_names == KEYPOINT_NAMES


def test_no_zarr(tmp_path):
    with pytest.raises(BadDataset, match='no such directory'):
        PushTZarr(tmp_path / 'absent')
    with pytest.raises(BadDataset, match='not a zarr group'):
        PushTZarr(tmp_path)


def test_another_layout_is_described_completely(path):
    arrays = demonstrations()
    arrays['data/img'] = arrays['data/img'][:, :48]
    arrays['data/state'] = arrays['data/state'][:19, :4]
    arrays['data/action'] = arrays['data/action'].astype(np.int32)
    del arrays['meta/episode_ends']
    message = refused(path, arrays)
    for problem in (
        'data/img: got shape (20, 48, 96, 3), expected (frames, 96, 96, 3)',
        'data/state: got shape (19, 4), expected (frames, 5)',
        'data/action: got dtype int32, expected float',
        'lengths differ: img 20, state 19, action 20',
        'meta/episode_ends: missing',
    ):
        assert problem in message


def test_an_empty_group(path):
    message = refused(path, {'other/things': np.zeros((3, 2), np.float32)})
    for name in ('data/img', 'data/state', 'data/action', 'meta/episode_ends'):
        assert f'{name}: missing' in message


@pytest.mark.parametrize(
    ('ends', 'problem'),
    [
        ([5, 12, 19], 'ends at 19, expected 20 frames'),
        ([5, 25], 'ends at 25, expected 20 frames'),
        ([12, 5, 20], 'not strictly increasing'),
        ([0, 20], 'not strictly increasing'),
        ([[5], [20]], r'got int64 \(2, 1\)'),
        ([5.0, 20.0], r'got float64 \(2,\)'),
    ],
)
def test_wrong_episode_ends(path, ends, problem):
    arrays = {**demonstrations(), 'meta/episode_ends': np.array(ends)}
    with pytest.raises(BadDataset, match=problem):
        PushTZarr(write_zarr(path, arrays))


def test_values_that_are_not_finite(path):
    arrays = demonstrations()
    arrays['data/state'][11, 4] = np.nan
    arrays['data/action'][3] = np.inf
    message = refused(path, arrays)
    assert 'data/state: 1 value(s) are NaN or infinite, the first in row 11, column 4' in message
    assert 'data/action: 2 value(s) are NaN or infinite, the first in row 3, column 0' in message


@pytest.mark.parametrize(('low', 'high'), [(-1, 255), (0, 1), (0, 256), (0, np.nan)])
def test_images_in_another_range(path, low, high):
    arrays = demonstrations()
    arrays['data/img'] = np.clip(arrays['data/img'], 1, 1)
    arrays['data/img'][14, 0, 0, :2] = low, high
    arrays['data/img'][:12] = 255
    message = refused(path, arrays)
    assert 'data/img, frames from 12' in message
    assert 'expected 0 to 255' in message


def test_missing_and_damaged_chunks(path):
    write_zarr(path, demonstrations())
    (path / 'data/state/1.0').write_bytes(b'short')
    with pytest.raises(BadDataset, match=r'cannot read data/state, rows 0 to 20'):
        PushTZarr(path)
    (path / 'meta/episode_ends/0').write_bytes(b'short')
    with pytest.raises(BadDataset, match=r'cannot read meta/episode_ends'):
        PushTZarr(path)
    (path / 'meta/episode_ends/0').unlink()
    (path / 'data/img/1.0.0.0').unlink()
    with pytest.raises(BadDataset, match='data/img: 1 of 3 chunks are missing'):
        PushTZarr(path)


def test_a_spec_that_asks_for_more_than_there_is(path):
    joints, corners = KEYPOINTS.state
    demanding = replace(
        KEYPOINTS,
        rate_hz=20.0,
        state=(
            replace(joints, fields=('position', 'velocity')),
            replace(corners, names=('elbow', 'kp0_x')),
        ),
        action=replace(KEYPOINTS.action, reference='delta'),
    )
    source = PushTZarr(write_zarr(path, demonstrations()))
    with pytest.raises(SpecMismatch) as caught:
        source.episodes(demanding)
    for problem in (
        "state 'x/velocity': not recorded",
        "state 'elbow': not recorded",
        "got delta targets in 'px'",
        'rate_hz: got 20, expected 10',
    ):
        assert problem in str(caught.value)


def test_a_camera_that_was_not_there(path):
    top, joints = IMAGE.cameras[0], IMAGE.state[0]
    other = replace(
        IMAGE,
        cameras=(replace(top, height=224), replace(top, name='side', topic='/side')),
        state=(replace(joints, unit='m'),),
        action=replace(IMAGE.action, unit='m'),
    )
    source = PushTZarr(write_zarr(path, demonstrations()))
    with pytest.raises(SpecMismatch) as caught:
        source.episodes(other)
    for problem in (
        "camera 'top': got 224x96",
        'cameras: got 2, expected at most one',
        "got unit 'm', expected px",
        "got absolute targets in 'm'",
    ):
        assert problem in str(caught.value)
