"""The PushT world is gym-pusht's: the same bits in states, scores and pixels."""

import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
from vqbet_ros.data.importers.pusht import PushTZarr
from vqbet_ros.resources import resource
from vqbet_ros.sim.pusht import PushTWorld, SUCCESS_COVERAGE, tee_keypoints
from vqbet_ros.spec import RobotSpec

pytest.importorskip('gym_pusht', reason="needs gym-pusht: the extra 'sim'")
os.environ.setdefault('SDL_VIDEODRIVER', 'dummy')


GOAL = (256.0, 256.0, np.pi / 4)


def make_gym(obs_type='state', seed=0):
    from gym_pusht.envs.pusht import PushTEnv

    env = PushTEnv(obs_type=obs_type)
    env.reset(seed=seed)
    return env


def pushes(env, rng, steps):
    """Yield targets, half of them at the block, so that it moves."""
    for step in range(steps):
        if step % 2:
            yield rng.uniform(0, 512, 2)
        else:
            yield np.array(env.block.position) + rng.normal(0, 50, 2)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('seed', range(5))
def test_steps_equal_gyms_bit_for_bit(seed, dtype):
    env, world = make_gym(seed=seed), PushTWorld(seed)
    start = world.state()
    for target in pushes(env, np.random.default_rng(seed), 60):
        observation, _, terminated, _, info = env.step(target.astype(dtype))
        world.step(target.astype(dtype))
        state = world.state()
        assert state[:4].tolist() == observation[:4].tolist()
        assert state[4] == info['block_pose'][2]
        assert world.coverage() == info['coverage']
        assert world.success() == terminated
        np.testing.assert_array_equal(world.pusher(), observation[:2].astype(np.float32))
    assert np.abs(world.state()[2:4] - start[2:4]).max() > 10, 'the block was never pushed'


def test_ten_substeps_are_a_step():
    one, ten = PushTWorld(3), PushTWorld(3)
    for target in np.random.default_rng(0).uniform(0, 512, (20, 2)):
        one.step(target)
        for _ in range(10):
            ten.substep(target)
        assert one.state().tolist() == ten.state().tolist()


def test_images_equal_gyms():
    env, world = make_gym('pixels', seed=1), PushTWorld(1)
    for target in pushes(env, np.random.default_rng(1), 10):
        pixels = env.step(target)[0]
        world.step(target)
        image = world.image()
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, pixels)
        np.testing.assert_array_equal(world.frame(96), pixels)


def test_a_frame_equals_gyms_render():
    env, world = make_gym(seed=1), PushTWorld(1)
    target = np.array([300.0, 100.0])
    env.step(target)
    world.step(target)
    np.testing.assert_array_equal(world.frame(680, target), env.render())
    assert (world.frame(680) != env.render()).any(), 'a cross that nobody asked for'


def test_reset_begins_gyms_episode():
    world = PushTWorld(7)
    world.step([10, 10])
    world.reset(8)
    assert world.state().tolist() == PushTWorld(8).state().tolist()
    np.testing.assert_array_equal(world.keypoints(), PushTWorld(8).keypoints())
    assert world.state()[:4].tolist() == make_gym(seed=8).get_obs()[:4].tolist()


def test_without_a_target_it_stays():
    world = PushTWorld(0)
    before = world.state()
    for _ in range(50):
        world.substep(None)
    assert world.state().tolist() == before.tolist()


def test_without_a_target_it_brakes():
    world = PushTWorld(0)
    for _ in range(5):
        world.substep([0, 0])
    moving = world.pusher()
    positions = []
    for _ in range(60):
        world.substep(None)
        positions.append(world.pusher())
    assert np.linalg.norm(positions[0] - moving) > 0.5
    np.testing.assert_allclose(positions[-1], positions[-10], atol=1e-2)


def test_a_state_that_is_set_is_read_back():
    world = PushTWorld(0)
    state = [100.0, 120.0, 250.0, 300.0, 2.5]
    world.set_state(state)
    np.testing.assert_allclose(world.state(), state, atol=1e-9)
    before = world.image()
    world.substep(None)
    np.testing.assert_allclose(world.state(), state, atol=1e-9)
    np.testing.assert_array_equal(world.image(), before)


def test_the_goal_pose_covers_the_goal():
    world = PushTWorld(0)
    world.set_state([50, 50, *GOAL])
    assert world.coverage() == pytest.approx(1.0)
    assert world.success()
    world.set_state([50, 50, 100, 100, 0])
    assert world.coverage() < SUCCESS_COVERAGE
    assert not world.success()


def test_keypoints_equal_gyms():
    env, rng = make_gym(), np.random.default_rng(0)
    poses = rng.uniform([50, 50, -7], [450, 450, 7], (50, 3))
    corners = tee_keypoints(poses.reshape(5, 10, 3)).reshape(50, 16)
    for pose, ours in zip(poses, corners, strict=True):
        env.block.angle = pose[2]
        env.block.position = pose[:2].tolist()
        theirs = env.get_keypoints(env._block_shapes)  # (8, 2)
        np.testing.assert_allclose(ours, theirs.reshape(16), atol=1e-4)
        np.testing.assert_array_equal(ours, tee_keypoints(pose))
    assert corners.dtype == np.float32


def test_no_display_is_needed_and_nothing_is_printed():
    command = (
        'from vqbet_ros.sim.pusht import PushTWorld; import os;'
        'PushTWorld(0).image(); print(os.environ["SDL_VIDEODRIVER"])'
    )
    hidden = ('DISPLAY', 'WAYLAND_DISPLAY', 'SDL_VIDEODRIVER', 'PYGAME_HIDE_SUPPORT_PROMPT')
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    for driver, expected in ((None, 'dummy'), ('offscreen', 'offscreen')):
        result = subprocess.run(
            [sys.executable, '-c', command],
            env=env if driver is None else {**env, 'SDL_VIDEODRIVER': driver},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout == f'{expected}\n'


def test_a_missing_simulator_is_an_error_that_names_the_extra(monkeypatch):
    from vqbet_ros.errors import VqbetError

    monkeypatch.setitem(sys.modules, 'gym_pusht.envs.pusht', None)
    with pytest.raises(VqbetError, match=r"pip install .*'\.\[sim\]'"):
        PushTWorld(0)


def test_replaying_demonstrations_reaches_the_recorded_poses(pusht_zarr):
    zarr = pytest.importorskip('zarr', reason="needs zarr: the extra 'train'")
    spec = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
    source = PushTZarr(pusht_zarr)
    start, states = 0, zarr.open_group(str(pusht_zarr), mode='r')['data/state']
    world = PushTWorld(0)
    for index, episode in zip(range(12), source.episodes(spec), strict=False):
        recorded = np.asarray(states[start : source.ends[index]])
        start = source.ends[index]
        world.set_state(recorded[0])
        assert episode.targets is not None
        assert np.abs(world.keypoints() - episode.targets[0]).max() < 1e-3
        for step, target in enumerate(episode.action[:-1]):
            difference = np.abs(world.image().astype(int) - episode.images['top'][step]).mean()
            assert difference < 0.3, 'the recorded images show something else'
            world.step(target)
            np.testing.assert_allclose(world.state()[:4], recorded[step + 1, :4], atol=0.01)
