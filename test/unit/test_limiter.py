import dataclasses
from pathlib import Path
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.errors import ConfigError
from vqbet_ros.message_types import twist_channels
from vqbet_ros.runtime.axis import Refused
from vqbet_ros.runtime.limiter import Limiter
from vqbet_ros.runtime_spec import LimiterSettings
from vqbet_ros.spec import GripperSpec, JointLimits, RobotSpec

ACTION = RobotSpec.from_yaml(Path(__file__).parents[2] / 'config' / 'robots' / 'pusht.yaml').action
ARM = JointLimits((-2.0, 2.0), velocity=1.5, acceleration=6.0, jerk=60.0)
PERIOD_S = 0.01


def limiter(*limits, **settings):
    """Return a limiter of joints a, b, ... with these limits."""
    names = tuple('abcdefgh'[: len(limits)])
    action = dataclasses.replace(ACTION, names=names, limits=dict(zip(names, limits, strict=True)))
    return Limiter(action, LimiterSettings(**settings), PERIOD_S)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(x=st.floats(-128, 640), y=st.floats(-128, 640))
def test_without_rates_the_result_is_the_nearest_allowed_command(x, y):
    joints = Limiter(ACTION)
    given_values = np.array([x, y])
    limited = joints.limit(given_values)
    assert limited.dtype == np.float64
    assert ((limited >= 0) & (limited <= 512)).all()
    inside = (given_values >= 0) & (given_values <= 512)
    np.testing.assert_array_equal(limited[inside], given_values[inside])
    np.testing.assert_array_equal(joints.limit(limited), limited)
    assert joints.clips == {
        (n, 'position'): 1 for n, fine in zip('xy', inside, strict=True) if not fine
    }


def test_each_joint_has_its_own_range():
    joints = limiter(JointLimits((-1.0, 1.0)), JointLimits((10.0, 20.0)))
    np.testing.assert_array_equal(joints.limit(np.array([1.3, 8.0])), [1.0, 10.0])
    np.testing.assert_array_equal(joints.limit(np.array([0.0, 22.0])), [0.0, 20.0])
    assert joints.clips == {('a', 'position'): 1, ('b', 'position'): 2}


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(Refused, match='expected finite numbers'):
        Limiter(ACTION).limit(np.array([1.0, value]))


def test_gross_excess_is_refused_and_changes_nothing():
    joints = limiter(ARM, ARM, JointLimits((0.0, 1.0)), gross_velocity=5.0)
    joints.seed(np.array([0.0, 0.5, 0.5]))
    for wrong, text in (
        ([0.0, 3.5, 0.5], 'b: 3.5 is outside [-2.0, 2.0]'),
        ([0.0, 0.5, -0.3], 'c: -0.3 is outside [0.0, 1.0]'),
        ([0.9, 0.5, 0.5], 'a: jumps by 0.9, limit 0.75'),
    ):
        with pytest.raises(Refused) as error:
            joints.limit(np.array(wrong))
        assert text in str(error.value)
    assert joints.sent is None
    assert not joints.clips
    with pytest.raises(Refused, match='shape'):
        joints.limit(np.zeros(2))
    np.testing.assert_array_equal(joints.limit(np.array([0.0, 0.5, 0.5])), [0.0, 0.5, 0.5])


def test_a_plan_that_goes_on_from_the_last_command_is_no_jump():
    """Also where the target before was far ahead of what the limits let through."""
    joints = limiter(ARM, gross_velocity=2.0, seam_s=0.01)
    joints.seed(np.zeros(1))
    for k in range(1, 40):
        command = joints.limit(np.array([k * 0.02]))
    assert command[0] < 0.5
    joints.limit(command)


def test_limits_of_rates_need_a_seed():
    joints = limiter(ARM)
    assert joints.needs_seed
    assert not joints.seeded
    assert joints.refusal(np.zeros(1), PERIOD_S) is None
    with pytest.raises(ValueError, match='call seed first'):
        joints.limit(np.zeros(1))
    for wrong in (np.array([np.nan]), np.zeros(2)):
        with pytest.raises(ValueError, match='expected 1 finite numbers'):
            joints.seed(wrong)
    assert not Limiter(ACTION).needs_seed


def test_the_first_command_goes_on_from_the_seed():
    joints = limiter(ARM)
    joints.seed(np.array([1.0]))
    step = abs(joints.limit(np.array([0.9]))[0] - 1.0)
    assert 0 < step <= 60.0 * PERIOD_S**3 * (1 + 1e-9)
    joints.seed(np.array([-1.0]))
    assert joints.sent is None
    assert abs(joints.limit(np.array([-1.0]))[0] + 1.0) <= 1e-12


@pytest.mark.parametrize(
    ('limits', 'target', 'cause'),
    [
        (JointLimits((-1, 1)), 1.2, 'position'),
        (JointLimits((-1, 1), velocity=1.0), 0.05, 'velocity'),
        (JointLimits((-1, 1), 10.0, 10.0), 0.05, 'acceleration'),
        (JointLimits((-1, 1), 10.0, 10.0, 10.0), 1e-4, 'jerk'),
    ],
)
def test_each_limit_is_counted(limits, target, cause):
    joints = limiter(limits)
    joints.seed(np.zeros(1))
    joints.limit(np.array([target]))
    assert dict(joints.clips) == {('a', cause): 1}


def test_braking_in_time_is_counted():
    joints = limiter(JointLimits((-1.0, 1.0), 1.5, 6.0))
    joints.seed(np.zeros(1))
    for k in range(1, 300):
        joints.limit(np.array([min(1.0, 0.0149 * k)]))
    assert joints.clips['a', 'braking'] >= 2


def test_the_margin_is_kept_free():
    joints = limiter(JointLimits((0.0, 10.0)), soft_margin=0.1)
    assert joints.limit(np.array([0.5]))[0] == 1.0
    assert joints.limit(np.array([9.5]))[0] == 9.0
    assert joints.clips == {('a', 'position'): 2}


def test_a_pause_does_not_make_a_large_step():
    joints = limiter(JointLimits((-1.0, 1.0), velocity=1.0))
    joints.seed(np.zeros(1))
    assert joints.limit(np.array([0.1]), elapsed_s=5.0)[0] == pytest.approx(0.02)
    assert joints.limit(np.array([0.1]), elapsed_s=0.0)[0] == pytest.approx(0.025)


def test_a_scale_lowers_the_speed():
    joints = limiter(JointLimits((-1.0, 1.0), velocity=1.0), JointLimits((0.0, 1.0)))
    joints.seed(np.array([0.0, 0.0]))
    np.testing.assert_allclose(joints.limit(np.array([0.05, 1.0]), scale=0.3), [0.003, 1.0])
    assert joints.unscaled == ('b',)


def test_a_scale_of_zero_stops_also_what_has_no_limit():
    smooth = JointLimits((-2.0, 2.0), acceleration=6.0, jerk=60.0)
    joints = limiter(ARM, JointLimits((-2.0, 2.0)), smooth)
    joints.seed(np.zeros(3))
    for _ in range(20):
        joints.limit(np.full(3, 0.1))
    target = np.full(3, -0.5)
    stopped = [joints.limit(target, scale=0.0) for _ in range(100)][-1]
    assert joints.at_rest
    np.testing.assert_allclose(joints.limit(target, scale=0.0), stopped, atol=1e-9)


def test_what_comes_out_is_never_anything_but_numbers():
    joints = limiter(ARM)
    joints.seed(np.zeros(1))
    with pytest.raises(Refused, match='the limiter came to'):
        joints.limit(np.array([0.1]), elapsed_s=float('nan'))
    assert not joints.seeded
    assert joints.hold() is None


# Holding


def test_a_hold_decelerates_from_the_last_command_and_stays():
    joints = limiter(ARM)
    joints.seed(np.zeros(1))
    sent = [joints.limit(np.array([0.01 * k]))[0] for k in range(1, 60)]
    speed = joints.velocities[0]
    assert speed > 0.5
    held = [joints.hold()[0] for _ in range(100)]
    path = np.array([sent[-2], sent[-1], *held])
    velocities = np.diff(path) / PERIOD_S
    assert np.abs(np.diff(velocities)).max() <= 6.0 * PERIOD_S * (1 + 1e-9)
    assert held[0] > sent[-1]
    assert held[-1] == pytest.approx(held[-2], abs=1e-12)
    assert held[-1] - sent[-1] < 2 * speed**2 / 6.0
    np.testing.assert_array_equal(joints.sent, held[-1:])


def test_a_hold_before_the_first_command_sends_nothing():
    joints = limiter(ARM)
    assert joints.hold() is None
    joints.seed(np.ones(1))
    assert joints.hold() is None
    joints.limit(np.ones(1))
    assert joints.hold() is not None
    joints.forget()
    assert joints.hold() is None


def test_without_rates_a_hold_repeats_the_last_command():
    joints = Limiter(ACTION)
    joints.limit(np.array([100.0, 600.0]))
    np.testing.assert_array_equal(joints.hold(), [100.0, 512.0])


def test_velocities_hold_at_zero():
    limits = {name: JointLimits((-0.5, 0.5), 2.0) for name in twist_channels('tool')}
    gripper = GripperSpec('finger', 'm', JointLimits((0.0, 0.08), 0.1))
    changes: Any = {
        'kind': 'twist',
        'names': ('tool',),
        'record_topic': None,
        'record_type': None,
        'frame_id': 'base',
        'limits': limits,
    }
    joints = Limiter(dataclasses.replace(ACTION, **changes), period_s=PERIOD_S)
    np.testing.assert_array_equal(joints.hold(), np.zeros(6))
    joints.seed(np.zeros(6))
    for _ in range(20):
        joints.limit(np.full(6, 0.1))
    held = [joints.hold() for _ in range(10)]
    assert held[0] == pytest.approx(0.1 - 2.0 * PERIOD_S)
    np.testing.assert_array_equal(held[-1], np.zeros(6))
    # The gripper is a position, which would not mean the same at zero.
    both = Limiter(dataclasses.replace(ACTION, **changes, gripper=gripper), period_s=PERIOD_S)
    assert both.hold() is None
    both.seed(np.array([0, 0, 0, 0, 0, 0, 0.04]))
    both.limit(np.array([0.1, 0, 0, 0, 0, 0, 0.04]))
    commands = [both.hold() for _ in range(10)]
    np.testing.assert_allclose(np.array(commands[-1]), [0, 0, 0, 0, 0, 0, 0.04], atol=1e-9)
    # From one end of the range to zero at 2.0; the gripper's speed may change at once.
    assert set(both.longest_stops_s.values()) == {0.25, 0.0}


def test_what_cannot_be_limited_is_refused():
    with pytest.raises(ConfigError, match="reference: got 'delta'"):
        Limiter(dataclasses.replace(ACTION, reference='delta'))


@pytest.mark.parametrize(
    ('name', 'value'),
    [('soft_margin', 0.5), ('gross_position', -0.1), ('gross_velocity', 0.5)],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f'{name}: got'):
        LimiterSettings(**{name: value})


def test_a_tick_of_seven_joints_is_far_below_a_millisecond():
    joints = limiter(*[ARM] * 7, gross_velocity=1e9)
    joints.seed(np.zeros(7))
    rng = np.random.default_rng(0)
    ticks = rng.uniform(-2, 2, (200, 7))
    seconds = []
    for target in ticks:
        start = time.thread_time()  # other programs on this machine do not count
        joints.limit(target)
        seconds.append(time.thread_time() - start)
    assert np.median(seconds) < 1e-3
