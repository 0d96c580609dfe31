import dataclasses
from itertools import pairwise
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.errors import ConfigError
from vqbet_ros.resources import resource
from vqbet_ros.runtime.axis import Refused
from vqbet_ros.runtime.cartesian_limiter import CartesianLimiter
from vqbet_ros.runtime.point import rotation_matrix, rotation_vector
from vqbet_ros.runtime.rotation import from_matrix, matrix
from vqbet_ros.runtime_spec import CartesianSettings, LimiterSettings
from vqbet_ros.spec import GripperSpec, JointLimits, RobotSpec

PERIOD_S = 0.01
BOX = [(-0.5, 0.5), (-0.4, 0.4), (-0.1, 0.8)]
RATES = CartesianSettings(0.3, 1.5, 1.0, 5.0)
_ACTION = RobotSpec.from_yaml(resource('config/robots/pusht.yaml')).action
HOME = np.array([0.0, 0.1, 0.3, 1, 0, 0, 0, 1, 0])


def action(gripper=None, **limits: Any):
    changes: Any = {
        'kind': 'pose',
        'names': ('tool',),
        'unit': 'm',
        'record_topic': None,
        'record_type': None,
        'frame_id': 'base',
        'command_interface': 'cartesian_pose',
        'gripper': gripper,
        'limits': {
            f'tool/{axis}': JointLimits(bounds, **limits)
            for axis, bounds in zip('xyz', BOX, strict=True)
        },
    }
    return dataclasses.replace(_ACTION, **changes)


def limiter(rates=RATES, gripper=None, **options: Any):
    limits = LimiterSettings(**{'gross_velocity': 1e6, 'gross_position': 1e6, **options})
    return CartesianLimiter(action(gripper), limits, PERIOD_S, rates)


def pose(place, turn=(0, 0, 0)):
    return np.concatenate([place, from_matrix(rotation_matrix(np.array(turn, dtype=float)))])


def rates(poses, ticks_s):
    """Speeds and accelerations of poses (N, 9), of position and rotation."""
    ticks_s = np.array(ticks_s)[:, None]
    linear = np.diff(poses[:, :3], axis=0) / ticks_s
    turns = [matrix(b[3:9]) @ matrix(a[3:9]).T for a, b in pairwise(poses)]
    angular = np.array([rotation_vector(turn) for turn in turns]) / ticks_s
    for velocities in (linear, angular):
        changes = np.diff(velocities, axis=0, prepend=np.zeros((1, 3))) / ticks_s
        yield np.linalg.norm(velocities, axis=1).max(), np.linalg.norm(changes, axis=1).max()


def test_rotation_vectors_are_the_inverse_of_matrices():
    rng = np.random.default_rng(0)
    axes = rng.normal(0, 1, (50, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    for axis, angle in zip(axes, np.linspace(0, math.pi, 50), strict=True):
        found = rotation_vector(rotation_matrix(axis * angle))
        assert np.linalg.norm(found) == pytest.approx(angle, abs=1e-6)
        np.testing.assert_allclose(
            rotation_matrix(found), rotation_matrix(axis * angle), atol=1e-6
        )
    np.testing.assert_allclose(
        rotation_matrix(np.array([0, 0, math.pi / 2])),
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
        atol=1e-15,
    )


place = st.lists(st.floats(-2, 2), min_size=3, max_size=3)
turn = st.lists(st.floats(-3, 3), min_size=3, max_size=3)
step = st.tuples(st.sampled_from(['go'] * 6 + ['hold']), place, turn, st.floats(0.5, 2.0))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(story=st.lists(step, min_size=2, max_size=15), repeat=st.integers(1, 5))
def test_whatever_is_asked_for_every_limit_is_kept(story, repeat):
    limited = limiter()
    limited.seed(HOME)
    poses, ticks_s = [HOME], []
    for kind, where, turned, factor in story:
        for _ in range(repeat):
            tick_s = factor * PERIOD_S
            command = (
                limited.hold(tick_s)
                if kind == 'hold'
                else limited.limit(pose(where, turned), tick_s)
            )
            if command is not None:
                poses.append(command)
                ticks_s.append(tick_s)
    if not ticks_s:
        return
    path = np.array(poses)
    low, high = np.array(BOX).T
    assert (path[:, :3] >= low).all()
    assert (path[:, :3] <= high).all()
    (speed, acceleration), (turning, angular) = rates(path, ticks_s)
    assert speed <= 0.3 * (1 + 1e-6)
    assert acceleration <= 1.5 * (1 + 1e-6)
    assert turning <= 1.0 + 1e-5
    assert angular <= 5.0 + 1e-3


@pytest.mark.parametrize('goal', [[0.5, -0.4, 0.8], [0.2, 0.1, 0.3], [-0.5, 0.4, -0.1]])
def test_a_target_is_reached_and_stayed_at(goal):
    limited = limiter()
    limited.seed(HOME)
    target = pose(goal, (0.4, -0.8, 1.2))
    commands = np.array([limited.limit(target) for _ in range(600)])
    np.testing.assert_allclose(commands[-50:], np.tile(target, (50, 1)), atol=1e-6)
    assert limited.at_rest


def test_a_slow_target_is_followed_exactly():
    limited = limiter()
    limited.seed(HOME)
    seconds = np.arange(1, 400) * PERIOD_S
    ease = 1 - np.exp(-(seconds**2))
    error = []
    for s, e in zip(seconds, ease, strict=True):
        target = pose(
            HOME[:3] + 0.1 * e * np.array([np.sin(s), 0.3 * s, -np.sin(2 * s)]), (0, 0, 0.3 * e)
        )
        error.append(np.abs(limited.limit(target) - target).max())
    assert max(error[50:]) < 1e-6


def test_no_minimum_height_is_not_a_height_of_zero():
    down = pose([0.0, 0.0, -0.3])
    for min_height, lowest in ((None, -0.1), (0.0, 0.0), (0.2, 0.2), (-5.0, -0.1)):
        limited = limiter(dataclasses.replace(RATES, min_height=min_height))
        limited.seed(HOME)
        commands = [limited.limit(down) for _ in range(400)]
        assert commands[-1][2] == pytest.approx(lowest, abs=1e-6)
        assert min(command[2] for command in commands) >= lowest
        assert limited.clips['tool/z', 'position'] == 400
    with pytest.raises(ConfigError, match=r'min_height: 0\.9 is above'):
        limiter(dataclasses.replace(RATES, min_height=0.9))


def test_what_begins_outside_the_box_comes_in():
    limited = limiter()
    limited.seed(pose([0.9, 0.0, 0.3]))
    path = [limited.limit(pose([2.0, 0.0, 0.3]))[0] for _ in range(400)]
    assert (np.diff([0.9, *path]) <= 1e-12).all()
    assert path[-1] == pytest.approx(0.5, abs=1e-6)


def test_a_hold_decelerates_and_stays():
    limited = limiter()
    limited.seed(HOME)
    assert limited.hold() is None
    for _ in range(40):
        last = limited.limit(pose([0.5, 0.1, 0.3], (0, 0, 2)))
    held = np.array([limited.hold() for _ in range(60)])
    assert held[0][0] > last[0]
    np.testing.assert_allclose(held[-1], held[-2], atol=1e-15)
    (_, acceleration), (_, angular) = rates(np.array([*held]), [PERIOD_S] * 59)
    assert acceleration <= 0.3 / PERIOD_S  # it begins in motion
    assert np.abs(np.diff(held[:, :3], 2, axis=0)).max() <= 1.5 * PERIOD_S**2 * (1 + 1e-6)
    assert np.isfinite(angular)


def test_the_gripper_beside_it():
    gripper = GripperSpec('finger', 'm', JointLimits((0.0, 0.08), velocity=0.1))
    limited = limiter(gripper=gripper)
    limited.seed(np.array([*HOME, 0.04]))
    assert limited.limit(np.array([*HOME, 0.08]))[9] == pytest.approx(0.041)
    assert limited.velocities[9] == pytest.approx(0.1)


def test_what_is_grossly_wrong_is_refused():
    limited = limiter(gross_velocity=3.0, gross_position=0.25)
    with pytest.raises(ValueError, match='call seed first'):
        limited.limit(HOME)
    limited.seed(HOME)
    for wrong, text in (
        (np.full(9, np.nan), 'expected finite numbers'),
        (pose([0.9, 0, 0.3]), 'tool/x: 0.9 is outside'),
        (pose([0.5, 0.1, 0.3]), 'position: jumps by 0.5, limit 0.09'),
        (np.zeros(9), 'no rotation'),
        (np.zeros(7), 'shape'),
    ):
        with pytest.raises(Refused, match=text):
            limited.limit(wrong)
    assert limited.sent is None
    with pytest.raises(ValueError, match='expected 9 finite'):
        limited.seed(np.zeros(3))


def test_a_scale_slows_down():
    limited = limiter()
    limited.seed(HOME)
    path = np.array([limited.limit(pose([0.5, 0.1, 0.3]), scale=0.1) for _ in range(100)])
    assert np.diff(path[:, 0])[-1] == pytest.approx(0.03 * PERIOD_S)
    assert limiter(CartesianSettings()).unscaled == ('position', 'rotation')


@pytest.mark.parametrize(
    'rates',
    [CartesianSettings(), CartesianSettings(0.3, 1.5), CartesianSettings(0.3, 1.5, None, 5.0)],
)
def test_a_scale_of_zero_stops_also_what_has_no_limit(rates):
    limited = limiter(rates)
    limited.seed(HOME)
    limited.limit(pose([0.01, 0.11, 0.31], (0, 0, 0.05)))
    target = pose([0.2, 0.2, 0.4], (0.1, 0.2, 0.5))
    stopped = [limited.limit(target, scale=0.0) for _ in range(30)][-1]
    assert limited.at_rest
    np.testing.assert_array_equal(limited.limit(target, scale=0.0), stopped)
    for _ in range(300):
        limited.limit(target)
    np.testing.assert_allclose(limited.limit(target), target, atol=1e-6)


def test_what_comes_out_is_never_anything_but_numbers():
    limited = limiter()
    limited.seed(HOME)
    limited.limit(pose([0.1, 0.1, 0.3], (0, 0, 0.1)))
    with pytest.raises(Refused, match='the limiter came to'):
        limited.limit(pose([0.1, 0.1, 0.3]), elapsed_s=math.nan)
    assert not limited.seeded
    assert limited.hold() is None


def test_without_rates_poses_pass_as_they_are():
    limited = limiter(CartesianSettings())
    limited.seed(HOME)
    target = pose([0.3, -0.2, 0.1], (1, 2, -0.5))
    np.testing.assert_allclose(limited.limit(target), target, atol=1e-9)


def test_what_cannot_be_limited_is_refused():
    with pytest.raises(ConfigError, match='jerk: got 3'):
        CartesianLimiter(action(jerk=3.0), LimiterSettings(), PERIOD_S, RATES)
    with pytest.raises(ConfigError, match="'joints', expected poses"):
        CartesianLimiter(
            dataclasses.replace(
                _ACTION, names=('x', 'y', 'z'), limits=dict.fromkeys('xyz', JointLimits((0, 1)))
            ),
            LimiterSettings(),
            PERIOD_S,
            RATES,
        )


@pytest.mark.parametrize('axis', [0, 1, 2])
@pytest.mark.parametrize('sign', [-1.0, 1.0])
def test_a_target_that_runs_out_of_the_box_is_stopped_in_time(axis, sign):
    limited = limiter()
    limited.seed(HOME)
    path = [HOME]
    for k in range(1, 600):
        place = HOME[:3] + 0.001 * k
        place[axis] = HOME[axis] + sign * 0.0025 * k
        path.append(limited.limit(pose(place)))
    (speed, acceleration), _ = rates(np.array(path), [PERIOD_S] * 599)
    assert speed <= 0.3 * (1 + 1e-6)
    assert acceleration <= 1.5 * (1 + 1e-6)
    low, high = np.array(BOX).T
    np.testing.assert_allclose(path[-1][axis], (high if sign > 0 else low)[axis], atol=1e-5)
