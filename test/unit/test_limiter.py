import dataclasses
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.errors import ConfigError
from vqbet_ros.runtime.limiter import Limiter
from vqbet_ros.spec import JointLimits, RobotSpec

ACTION = RobotSpec.from_yaml(Path(__file__).parents[2] / 'config' / 'robots' / 'pusht.yaml').action
number = st.floats(allow_nan=False, allow_infinity=False)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(x=number, y=number)
def test_the_result_is_the_nearest_allowed_command(x, y):
    limiter = Limiter(ACTION)
    given_values = np.array([x, y])
    limited = limiter.limit(given_values)
    assert limited.dtype == np.float64
    assert ((limited >= 0) & (limited <= 512)).all()
    inside = (given_values >= 0) & (given_values <= 512)
    np.testing.assert_array_equal(limited[inside], given_values[inside])
    np.testing.assert_array_equal(limiter.limit(limited), limited)
    assert limiter.clamped == {'x': int(not inside[0]), 'y': int(not inside[1])}


def test_each_joint_has_its_own_range():
    limits = {'x': JointLimits((-1.0, 1.0)), 'y': JointLimits((10.0, 20.0))}
    limiter = Limiter(dataclasses.replace(ACTION, limits=limits))
    np.testing.assert_array_equal(limiter.limit(np.array([5.0, 5.0])), [1.0, 10.0])
    np.testing.assert_array_equal(limiter.limit(np.array([0.0, 25.0])), [0.0, 20.0])
    assert limiter.clamped == {'x': 1, 'y': 2}


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_there_is_no_nearest_command_to_a_value_that_is_not_finite(value):
    with pytest.raises(ValueError, match='expected finite numbers'):
        Limiter(ACTION).limit(np.array([1.0, value]))


def test_limits_that_are_not_kept_are_refused_together():
    limits = {**ACTION.limits, 'x': JointLimits((0.0, 1.0), velocity=2.0, jerk=3.0)}
    action = dataclasses.replace(ACTION, limits=limits, reference='delta')
    with pytest.raises(ConfigError) as error:
        Limiter(action)
    for text in ('limits.x.velocity: got 2.0', 'limits.x.jerk: got 3.0', "got 'delta'"):
        assert text in str(error.value)
