from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.runtime.interpolation import monotone_tangents, Path, Start

S = 1_000_000_000
values_of = st.lists(st.floats(-10, 10), min_size=2, max_size=8)


def path(values, interpolation, start=None, first_s=1):
    times_ns = [(first_s + k) * S for k in range(len(values))]
    return Path(times_ns, np.array(values, dtype=float)[:, None], interpolation, start)


def start(time_s, value, velocity=0.0):
    return Start(round(time_s * S), np.array([value]), np.array([velocity]))


def test_steps_are_commanded_before_they_are_due():
    line = path([1.0, 2.0], 'step', start(0, 9.0))
    assert [line.at(round(t * S))[0] for t in (0, 0.5, 1, 1.1, 2, 3)] == [1, 1, 1, 2, 2, 2]


def test_lines_reach_values_when_they_are_due_and_begin_at_the_last_command():
    line = path([1.0, 3.0, 0.0], 'linear', start(0.5, 0.0))
    times = (0.4, 0.5, 0.75, 1, 1.5, 2, 2.5, 9)
    assert [line.at(round(t * S))[0] for t in times] == [0, 0, 0.5, 1, 2, 3, 1.5, 0]


def test_what_was_due_before_the_last_command_is_left_out():
    line = path([5.0, 5.0, 2.0], 'linear', start(2.0, 0.0))
    assert line.at(round(2.5 * S))[0] == 1.0


def test_without_a_last_command_the_first_value_stands_there():
    for kind in ('linear', 'cubic'):
        line = path([1.0, 2.0], kind)
        assert line.at(0)[0] == 1.0
        assert line.at(round(1.5 * S))[0] == 1.5


def test_one_value_alone():
    for kind in ('step', 'linear', 'cubic'):
        assert path([3.0], kind).at(5)[0] == 3.0
    assert path([3.0], 'cubic', start(0, 1.0)).at(S // 2)[0] == pytest.approx(1.75)  # from rest


@settings(derandomize=True, max_examples=50, deadline=None)
@given(values=values_of, velocity=st.floats(-50, 50), kind=st.sampled_from(['linear', 'cubic']))
def test_nothing_leaves_the_range_of_its_two_neighbours(values, velocity, kind):
    line = path(values, kind, start(0, 0.5, velocity))
    knots = np.array([0.5, *values])
    for k in range(len(values)):
        low, high = sorted(knots[k : k + 2])
        piece = np.array([line.at(round((k + t / 16) * S))[0] for t in range(17)])
        assert (piece >= low - 1e-12).all()
        assert (piece <= high + 1e-12).all()
        assert (np.diff(piece) * (knots[k + 1] - knots[k]) >= -1e-9).all()
        assert piece[-1] == pytest.approx(knots[k + 1], abs=1e-9)


def test_the_velocity_of_cubic_paths_has_no_jumps():
    rng = np.random.default_rng(0)
    line = path(np.cumsum(rng.uniform(0.2, 1.0, 8)), 'cubic', start(0.3, 0.0, 0.5))
    times = np.arange(0.3, 7.9, 1e-3)
    velocity = np.diff([line.at(round(t * S))[0] for t in times]) / 1e-3
    assert velocity[0] == pytest.approx(0.5, abs=0.01)
    assert np.abs(np.diff(velocity)).max() < 0.02
    lines = path([1.0, 3.0, 0.0], 'linear', start(0, 0.0))
    velocity = np.diff([lines.at(round(t * S))[0] for t in times[times < 2.9]]) / 1e-3
    assert np.abs(np.diff(velocity)).max() > 1.0


def test_tangents_are_those_of_another_library():
    interpolate = pytest.importorskip('scipy.interpolate')
    rng = np.random.default_rng(1)
    seconds = rng.uniform(0.1, 2.0, 9)
    values = rng.normal(0, 1, (10, 3))
    times = np.concatenate([[0], np.cumsum(seconds)])
    theirs = interpolate.PchipInterpolator(times, values).derivative()(times)
    ours = monotone_tangents(seconds, values)
    np.testing.assert_allclose(ours[1:-1], theirs[1:-1], atol=1e-12)
