from concurrent.futures import ThreadPoolExecutor
import dataclasses
import math
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.errors import ConfigError
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.runtime.supervisor import Command, Hold, State, Supervisor
from vqbet_ros.runtime_spec import (
    LimiterSettings,
    RuntimeSettings,
    StartSettings,
    WatchSettings,
)
from vqbet_ros.spec import JointLimits, RobotSpec

MS = 1_000_000
T = 1_000 * MS
SPEC = dataclasses.replace(
    RobotSpec.from_yaml(Path(__file__).parents[2] / 'config' / 'robots' / 'pusht.yaml'),
    runtime=RuntimeSettings(
        interpolation='step', bad_chunk='hold', limiter=LimiterSettings(gross_position=math.inf)
    ),
)
STALE = Reason(ReasonKind.STALE, 'newest is 300 ms old, limit 250 ms', 'top')


def chunk(epoch, t_obs_ns=T, actions=((100.0, 200.0), (101.0, 201.0), (102.0, 202.0))):
    return Chunk(t_obs_ns, np.array(actions, dtype=np.float32), 100 * MS, 0.9, epoch)


@pytest.fixture
def supervisor():
    return Supervisor(SPEC)


def kinds(hold):
    assert isinstance(hold, Hold)
    return [reason.kind for reason in hold.reasons]


def test_nothing_is_commanded_before_enable(supervisor):
    assert supervisor.accept(chunk(supervisor.epoch)) is None
    hold = supervisor.tick(T, [STALE])
    assert hold == Hold(State.DISARMED, (Reason(ReasonKind.DISARMED), STALE))


def test_from_enable_to_commands_and_back(supervisor):
    epoch = supervisor.enable(T - MS)
    assert supervisor.history_start_ns == T - MS
    hold = supervisor.tick(T)
    assert hold.state is State.WAITING
    assert kinds(hold) == [ReasonKind.NO_PLAN]
    assert supervisor.accept(chunk(epoch)) is None
    command = supervisor.tick(T + 150 * MS)
    assert isinstance(command, Command)
    np.testing.assert_array_equal(command.values, [101.0, 201.0])
    assert (command.index, command.due_ns, command.t_obs_ns) == (1, T + 200 * MS, T)
    assert command.dropped == supervisor.dropped == 1
    assert supervisor.state is State.RUNNING
    supervisor.disable()
    hold = supervisor.tick(T + 160 * MS)
    assert hold.state is State.DISARMED
    assert kinds(hold) == [ReasonKind.DISARMED]
    assert supervisor.chunk is None


def test_enable_refuses_chunks_of_what_was_before(supervisor):
    before = supervisor.enable(T)
    now = supervisor.enable(T)
    assert now != before
    reason = supervisor.accept(chunk(before))
    assert reason is not None
    assert reason.kind is ReasonKind.OLD_CHUNK
    assert str(before) in reason.detail
    assert supervisor.rejected == {ReasonKind.OLD_CHUNK: 1}
    assert kinds(supervisor.tick(T + 1)) == [ReasonKind.NO_PLAN]


def test_a_chunk_under_way_while_disabled_is_refused(supervisor):
    epoch = supervisor.enable(T)
    supervisor.disable()
    assert supervisor.accept(chunk(epoch)) is not None
    supervisor.enable(T)
    assert supervisor.accept(chunk(epoch)) is not None


def test_a_reason_holds_at_once_and_the_next_chunk_goes_on(supervisor):
    epoch = supervisor.enable(T)
    assert supervisor.tick(T, [STALE]) == Hold(State.WAITING, (STALE,))
    supervisor.accept(chunk(epoch))
    assert isinstance(supervisor.tick(T + 1), Command)
    assert supervisor.tick(T + 2, [STALE]) == Hold(State.HOLD, (STALE,))
    hold = supervisor.tick(T + 3)  # the old plan is not resumed
    assert hold.state is State.HOLD
    assert kinds(hold) == [ReasonKind.NO_PLAN]
    supervisor.accept(chunk(epoch, T + 4))
    assert isinstance(supervisor.tick(T + 5), Command)
    assert supervisor.state is State.RUNNING


def test_a_plan_that_ends_holds_and_says_so(supervisor):
    supervisor.accept(chunk(supervisor.enable(T)))
    assert isinstance(supervisor.tick(T + 300 * MS), Command)
    hold = supervisor.tick(T + 350 * MS)
    assert hold.state is State.HOLD
    assert kinds(hold) == [ReasonKind.PLAN_ENDED]
    assert '50 ms ago' in hold.reasons[0].detail


def test_a_plan_that_has_not_begun_says_when(supervisor):
    supervisor.accept(chunk(supervisor.enable(0)))
    hold = supervisor.tick(T - 500 * MS)
    assert kinds(hold) == [ReasonKind.NO_PLAN]
    assert 'begins in 500 ms' in hold.reasons[0].detail


@pytest.mark.parametrize(
    ('actions', 'message'),
    [
        ([[1.0, np.nan]], '1 of 2 numbers are not finite'),
        ([[np.inf, -np.inf], [0, 0]], '2 of 4 numbers are not finite'),
        ([[1.0, 2.0, 3.0]], 'shape (1, 3), expected (W, 2)'),
        ([1.0, 2.0], 'shape (2,)'),
        (np.zeros((0, 2)), 'shape (0, 2)'),
        (np.array([['a', 'b']]), 'no numbers'),
    ],
)
def test_a_broken_chunk_is_refused_and_the_plan_goes_on(supervisor, actions, message):
    epoch = supervisor.enable(T)
    supervisor.accept(chunk(epoch))
    reason = supervisor.accept(Chunk(T + 1, np.asarray(actions), 100 * MS, 1.0, epoch))
    assert reason is not None
    assert reason.kind is ReasonKind.BAD_CHUNK
    assert message in reason.detail
    assert supervisor.rejected == {ReasonKind.BAD_CHUNK: 1}
    command = supervisor.tick(T + 2)
    assert isinstance(command, Command)
    np.testing.assert_array_equal(command.values, [100.0, 200.0])


def test_a_chunk_without_period_is_refused(supervisor):
    epoch = supervisor.enable(T)
    reason = supervisor.accept(dataclasses.replace(chunk(epoch), period_ns=0))
    assert reason is not None
    assert 'period_ns is 0' in reason.detail


def test_a_chunk_of_an_older_observation_is_refused(supervisor):
    epoch = supervisor.enable(T)
    supervisor.accept(chunk(epoch))
    reason = supervisor.accept(chunk(epoch, T - 100 * MS))
    assert reason is not None
    assert reason.kind is ReasonKind.OLD_CHUNK


def test_values_are_clamped_and_counted_per_joint(supervisor):
    epoch = supervisor.enable(T)
    supervisor.accept(chunk(epoch, actions=[[-3.0, 600.0], [1.0, 600.0]]))
    first, second = supervisor.tick(T + 1), supervisor.tick(T + 101 * MS)
    assert isinstance(first, Command)
    assert isinstance(second, Command)
    np.testing.assert_array_equal(first.values, [0.0, 512.0])
    np.testing.assert_array_equal(second.values, [1.0, 512.0])
    assert supervisor.clips == {('x', 'position'): 1, ('y', 'position'): 2}


def test_what_the_policy_does_with_its_array_afterwards_changes_nothing(supervisor):
    actions = np.array([[100.0, 200.0]])
    supervisor.accept(Chunk(T, actions, 100 * MS, 1.0, supervisor.enable(T)))
    actions[:] = np.nan
    command = supervisor.tick(T + 1)
    assert isinstance(command, Command)
    np.testing.assert_array_equal(command.values, [100.0, 200.0])


def test_a_fault_stays_until_reset(supervisor):
    epoch = supervisor.enable(T)
    supervisor.accept(chunk(epoch))
    supervisor.fault('the policy raised an error')
    supervisor.fault('and something after it')
    hold = supervisor.tick(T + 1, [STALE])
    assert hold.state is State.FAULT
    assert [str(reason) for reason in hold.reasons[:1]] == ['fault (the policy raised an error)']
    assert supervisor.enable(T) == supervisor.epoch
    supervisor.disable()
    assert supervisor.tick(T).state is State.FAULT
    supervisor.reset()
    assert kinds(supervisor.tick(T)) == [ReasonKind.DISARMED]
    supervisor.accept(chunk(supervisor.enable(T)))
    assert isinstance(supervisor.tick(T + 1), Command)


def test_reset_without_a_fault_does_nothing(supervisor):
    epoch = supervisor.enable(T)
    supervisor.reset()
    assert supervisor.state is State.WAITING
    assert supervisor.epoch == epoch


def test_rates_need_to_know_where_the_robot_is():
    limits = {**SPEC.action.limits, 'x': JointLimits((0.0, 1.0), velocity=1.0)}
    action = dataclasses.replace(SPEC.action, limits=limits)
    spec = dataclasses.replace(SPEC, action=action)
    Supervisor(spec)
    with pytest.raises(ConfigError, match='not measured') as caught:
        Supervisor(dataclasses.replace(spec, state=()))
    assert 'expected x/position or x, y/position or y in the state' in str(caught.value)
    assert 'action.limits: rates are limited' in str(caught.value)


@pytest.mark.parametrize('unit', ['px', 'px/s'])
def test_what_compares_with_joints_needs_them_measured(unit):
    settings = RuntimeSettings(
        start=StartSettings(tolerance=5.0), watch=WatchSettings(tracking_error=9.0)
    )
    interface: Any = 'forward_velocity' if unit == 'px/s' else 'forward_position'
    action = dataclasses.replace(SPEC.action, unit=unit, command_interface=interface)
    spec = dataclasses.replace(SPEC, action=action)
    if interface == 'forward_position':
        Supervisor(spec, settings)
        spec = dataclasses.replace(spec, state=())
    with pytest.raises(ConfigError) as caught:
        Supervisor(spec, settings)
    assert 'runtime.start.tolerance: got 5, expected null' in str(caught.value)
    assert 'runtime.watch.tracking_error: got 9, expected null' in str(caught.value)
    Supervisor(spec)


anything = st.floats(width=32)  # NaN and infinities too
events = st.one_of(
    st.tuples(st.just('enable')),
    st.tuples(st.just('disable')),
    st.tuples(st.just('fault')),
    st.tuples(st.just('reset')),
    st.tuples(st.just('stale')),
    st.tuples(
        st.just('chunk'),
        st.integers(-1, 1),
        st.integers(-500, 500),
        st.lists(st.lists(anything, min_size=2, max_size=2), max_size=4),
    ),
    st.tuples(
        st.just('chunk'),
        st.just(0),
        st.integers(-200, 50),
        st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), min_size=1, max_size=4),
    ),
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 150), events), max_size=25))
def test_whatever_happens_commands_are_finite_in_range_enabled_and_not_late(story):
    supervisor, now, armed, faulty = Supervisor(SPEC), T, False, False
    for elapsed_ms, (event, *arguments) in story:
        now += elapsed_ms * MS
        if event == 'enable':
            supervisor.enable(now)
            armed = not faulty
        elif event == 'chunk':
            epoch, offset_ms, actions = arguments
            supervisor.accept(chunk(supervisor.epoch + epoch, now + offset_ms * MS, actions))
        elif event != 'stale':
            getattr(supervisor, event)(*(['broken'] if event == 'fault' else []))
            faulty = event == 'fault' or (faulty and event != 'reset')
            armed = armed and event == 'reset' and not faulty
        decision = supervisor.tick(now, [STALE] if event == 'stale' else [])
        if isinstance(decision, Hold):
            assert decision.reasons
            assert decision.state is not State.RUNNING
            continue
        assert armed
        assert event != 'stale'
        assert supervisor.state is State.RUNNING
        assert decision.values.shape == (2,)
        assert np.isfinite(decision.values).all()
        assert ((decision.values >= 0) & (decision.values <= 512)).all()
        assert decision.due_ns >= now


def test_threads(supervisor):
    def infer():
        for k in range(300):
            supervisor.accept(chunk(supervisor.epoch, T + k))

    def control():
        for k in range(300):
            decision = supervisor.tick(T + k)
            assert isinstance(decision, Hold) or np.isfinite(decision.values).all()

    def operate():
        for k in range(300):
            supervisor.enable(T) if k % 3 else supervisor.disable()

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work) for work in (infer, control, operate)]:
            future.result()
    epoch = supervisor.enable(T)
    assert supervisor.accept(chunk(epoch)) is None
    assert isinstance(supervisor.tick(T + 1), Command)
