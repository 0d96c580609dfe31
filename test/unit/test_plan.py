from fractions import Fraction
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from vqbet_ros.runtime.interpolation import Start
from vqbet_ros.runtime.plan import Chunk, Plan

MS = 1_000_000
T = 1_000 * MS


def chunk(t_obs_ns=T, size=3, period_ns=100 * MS, first=0.0):
    actions = (first + np.arange(size, dtype=np.float64))[:, None]  # (W, 1), the index as value
    return Chunk(t_obs_ns, actions, period_ns, 1.0, epoch=0)


def index_at(plan, now_ns):
    step = plan.command(now_ns)
    return None if step is None else step.index


def test_an_action_drives_until_it_is_due():
    plan = Plan()
    assert plan.command(T) is None
    assert plan.replace(chunk())
    times = [
        T,
        T + 1,
        T + 100 * MS,
        T + 100 * MS + 1,
        T + 200 * MS,
        T + 300 * MS,
        T + 300 * MS + 1,
    ]
    assert [index_at(plan, now) for now in times] == [0, 0, 0, 1, 1, 2, None]


def test_a_step_says_where_it_comes_from():
    plan = Plan()
    plan.replace(chunk())
    step = plan.command(T + 150 * MS)
    assert step is not None
    assert (step.index, step.due_ns, step.t_obs_ns) == (1, T + 200 * MS, T)
    np.testing.assert_array_equal(step.values, [1.0])


def test_a_chunk_from_the_future_waits():
    plan = Plan()
    plan.replace(chunk())
    assert index_at(plan, T - 99 * MS) == 0
    assert index_at(plan, T - 100 * MS) is None
    assert plan.dropped == 0


def test_what_is_past_is_dropped_and_counted_once():
    plan = Plan()
    plan.replace(chunk(size=5))
    assert index_at(plan, T + 250 * MS) == 2
    assert plan.dropped == 2
    assert index_at(plan, T + 260 * MS) == 2
    assert index_at(plan, T + 350 * MS) == 3
    assert plan.dropped == 2
    assert index_at(plan, T + 5_000 * MS) is None
    assert index_at(plan, T + 6_000 * MS) is None
    assert plan.dropped == 3


def test_a_newer_chunk_replaces_at_once_and_its_rest_is_not_dropped():
    plan = Plan()
    plan.replace(chunk(size=5))
    assert index_at(plan, T + 50 * MS) == 0
    assert plan.replace(chunk(T + 100 * MS, size=5, first=10.0))
    step = plan.command(T + 150 * MS)
    assert step is not None
    np.testing.assert_array_equal(step.values, [10.0])
    assert plan.dropped == 0


def test_an_older_or_equal_chunk_does_not_replace():
    plan = Plan()
    plan.replace(chunk())
    assert not plan.replace(chunk(first=7.0))
    assert not plan.replace(chunk(T - 1, first=7.0))
    step = plan.command(T + 1)
    assert step is not None
    np.testing.assert_array_equal(step.values, [0.0])


def test_clear():
    plan = Plan()
    plan.replace(chunk())
    plan.clear()
    assert plan.command(T + 1) is None
    assert plan.replace(chunk())


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    t_obs=st.integers(0, 2**61),
    period=st.integers(1, 10**9),
    size=st.integers(1, 20),
    offsets=st.lists(st.integers(-(10**9), 25 * 10**9), min_size=1, max_size=10),
)
def test_no_action_is_due_in_the_past_and_the_index_is_exact(t_obs, period, size, offsets):
    plan = Plan()
    plan.replace(chunk(t_obs, size, period))
    last, asked = 0, set()
    for now in sorted(t_obs + offset for offset in offsets):
        step = plan.command(now)
        exact = math.ceil(Fraction(now - t_obs, period)) - 1
        expected = max(exact, 0) if -1 <= exact < size else None
        assert (None if step is None else step.index) == expected
        assert 0 <= last <= plan.dropped <= size
        last = plan.dropped
        if step is not None:
            asked.add(step.index)
            assert now <= step.due_ns
            assert step.due_ns == t_obs + (step.index + 1) * period
    assert plan.dropped + len(asked) <= size


def test_between_actions_the_command_is_interpolated_from_the_last_one():
    plan = Plan('linear')
    start = Start(T + 150 * MS, np.array([5.0]), np.zeros(1))
    plan.replace(chunk(size=4), start)  # the index as value: 0 at 100 ms, 1 at 200 ms, ...
    times_ms = (150, 175, 200, 250, 400)
    steps = [plan.command(T + time_ms * MS) for time_ms in times_ms]
    assert [step.values[0] for step in steps if step] == [5, 3, 1, 1.5, 3]
    assert [step.index for step in steps if step] == [1, 1, 1, 2, 3]
    assert plan.command(T + 401 * MS) is None
