"""The supervisor of a robot with limits of rates: every way to stop, and random stories."""

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.resources import resource
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime.reactions import Reaction, REACTIONS
from vqbet_ros.runtime.supervisor import Command, Hold, State, Supervisor
from vqbet_ros.runtime.watch import Facts
from vqbet_ros.runtime_spec import RuntimeSettings, StartSettings, WatchSettings
from vqbet_ros.spec import JointLimits, RobotSpec

MS = 1_000_000
T = 1_000_000 * MS
TICK_NS = 10 * MS
VELOCITY, ACCELERATION, JERK = 1.5, 6.0, 80.0
ARM = JointLimits((-2.0, 2.0), VELOCITY, ACCELERATION, JERK)
_PUSHT = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
SPEC = dataclasses.replace(
    _PUSHT,
    action=dataclasses.replace(_PUSHT.action, unit='rad', limits={'x': ARM, 'y': ARM}),
)
STALE = Reason(ReasonKind.STALE, 'newest is 300 ms old', 'top')


class Robot:
    """Ticks a supervisor and does what it says, perfectly; keeps everything that was sent."""

    def __init__(self, watch=None, start=None, **options: Any):
        self.supervisor = Supervisor(
            SPEC,
            RuntimeSettings(
                control_rate_hz=100.0,
                watch=watch or WatchSettings(),
                start=start or StartSettings(),
                **options,
            ),
        )
        self.now_ns = T
        self.position = np.zeros(2)
        self.sent: list[np.ndarray] = []

    def enable(self):
        return self.supervisor.enable(self.now_ns, self.position)

    def press(self):
        """Press the deadman switch, as its owner does."""
        if self.supervisor.deadman(True, self.now_ns):
            self.enable()

    def plan(self, target=1.0, steps=20, epoch=None, t_obs_ns=None):
        """Give a straight chunk of 2 s from where the robot is."""
        way = np.linspace(self.position, np.full(2, target), steps + 1)[1:]
        epoch = self.supervisor.epoch if epoch is None else epoch
        t_obs_ns = self.now_ns if t_obs_ns is None else t_obs_ns
        return self.supervisor.accept(Chunk(t_obs_ns, way, 100 * MS, 0.9, epoch, (0, 1)))

    def tick(self, reasons=(), **facts: Any):
        self.now_ns += TICK_NS
        facts.setdefault('measured', self.position.copy())
        outcome = self.supervisor.tick(self.now_ns, reasons, Facts(**facts))
        if outcome.values is not None:
            self.sent.append(outcome.values)
            self.position = outcome.values
        return outcome

    def run(self, ticks, **facts: Any):
        return [self.tick(**facts) for _ in range(ticks)][-1]

    def in_motion(self):
        self.enable()
        assert self.plan() is None
        assert isinstance(self.run(80), Command)
        assert self.state() is State.RUNNING
        assert self.speed() > 0.3
        return self

    def state(self) -> State:
        return self.supervisor.state

    def speed(self):
        return np.abs(self.sent[-1] - self.sent[-2]).max() / 0.01


def kinds(hold):
    assert isinstance(hold, Hold)
    return [reason.kind for reason in hold.reasons]


def assert_limits(sent, before=None):
    path = np.array(([] if before is None else [before]) + sent)
    if len(path) < 4:
        return
    rounding = 1 + 1e-6
    assert np.abs(np.diff(path, axis=0)).max() <= VELOCITY * 0.01 * rounding
    assert np.abs(np.diff(path, 2, axis=0)).max() <= ACCELERATION * 0.01**2 * rounding
    assert np.abs(np.diff(path, 3, axis=0)).max() <= JERK * 0.01**3 * rounding


def test_every_reason_has_its_reaction():
    assert set(REACTIONS) == set(ReasonKind)


def test_the_first_command_goes_on_from_where_the_robot_was_measured():
    robot = Robot()
    robot.position = np.array([0.7, -0.2])
    robot.enable()
    robot.run(5)
    assert robot.sent == []
    robot.position = np.array([0.8, -0.2])  # moved by hand while it waits
    robot.run(1)
    robot.plan()
    before = robot.position
    command = robot.tick()
    assert isinstance(command, Command)
    assert np.abs(command.values - before).max() <= JERK * 0.01**3 * 1.001


def test_without_a_measurement_nothing_is_commanded():
    robot = Robot()
    robot.supervisor.enable(T)
    robot.plan()
    assert kinds(robot.tick(measured=None)) == [ReasonKind.NO_START]
    assert kinds(robot.tick(measured=np.array([0.0, np.nan]))) == [ReasonKind.NO_START]
    assert isinstance(robot.tick(), Command)


@pytest.mark.parametrize(
    ('facts', 'kind', 'state'),
    [
        ({'reasons': (STALE,)}, ReasonKind.STALE, State.HOLD),
        ({'controller': 'inactive'}, ReasonKind.CONTROLLER, State.HOLD),
        ({'inference_since_ns': T}, ReasonKind.INFERENCE_LATE, State.HOLD),
        ({'inference_alive': False}, ReasonKind.INFERENCE_DEAD, State.FAULT),
        ({'foreign_publishers': ('teleop',)}, ReasonKind.FOREIGN_PUBLISHER, State.FAULT),
        ({'monitors': ((Reason(ReasonKind.JERK), True),)}, ReasonKind.JERK, State.HOLD),
        ({'steady_ns': 0}, None, State.RUNNING),
    ],
)
def test_each_fact_stops_the_robot_within_its_limits(facts, kind, state):
    robot = Robot(WatchSettings(inference_deadline_s=0.3)).in_motion()
    moved = len(robot.sent)
    outcome = robot.tick(**facts)
    if kind is None:
        assert isinstance(outcome, Command)
        return
    assert kinds(outcome) == [kind]
    assert outcome.state is state
    for _ in range(100):
        outcome = robot.tick(**facts)
    assert outcome.state is state
    assert_limits(robot.sent)
    assert robot.speed() < 1e-6
    stopped = np.abs(robot.sent[-1] - robot.sent[moved - 1]).max()
    assert 0 < stopped < 0.2
    if state is State.FAULT:
        assert outcome.values is None
        assert [reason.kind for reason in robot.supervisor.reset()] == [kind]
        assert robot.enable() == robot.supervisor.epoch
        assert robot.state() is State.FAULT
        robot.tick()
        assert robot.supervisor.reset() == []
        assert robot.state() is State.DISARMED
    else:
        # It is kept where it is; nothing is kept up to which nobody has listened.
        assert (outcome.values is None) is (kind is ReasonKind.CONTROLLER)
        robot.plan()
        assert isinstance(robot.run(2), Command)


def test_a_hold_goes_on_smoothly_with_the_next_plan():
    robot = Robot().in_motion()
    robot.run(3, reasons=(STALE,))
    robot.plan(-1.0)
    assert isinstance(robot.run(100), Command)
    assert_limits(robot.sent)


LOST = np.full(2, np.nan)


@pytest.mark.parametrize('moved_by', [0.0, 0.9])
def test_after_its_joints_were_lost_the_robot_goes_on_from_where_it_is(moved_by):
    robot = Robot(WatchSettings(tracking_error=0.1)).in_motion()
    robot.run(100, reasons=(STALE,), measured=LOST)
    assert_limits(robot.sent)
    assert robot.speed() < 1e-6
    robot.position = robot.position - moved_by  # while nobody saw it
    began = robot.position
    robot.sent.clear()
    assert kinds(robot.tick()) == [ReasonKind.NO_PLAN]
    assert robot.sent == [], 'it is not led back either'
    robot.plan(began[0] + 0.3)
    assert isinstance(robot.run(60), Command)
    assert_limits(robot.sent, before=began)


def test_joints_that_are_lost_for_a_moment_are_no_jump_of_the_commands():
    robot = Robot().in_motion()
    before = robot.position
    robot.run(3, reasons=(STALE,), measured=LOST)
    robot.plan(-1.0)
    assert isinstance(robot.run(100, measured=before), Command)
    assert_limits(robot.sent)


@pytest.mark.parametrize('beyond', ['refuse', 'ramp_in'])
def test_where_the_robot_is_after_its_joints_were_lost_is_looked_at_as_at_the_start(beyond):
    robot = Robot(start=StartSettings(tolerance=0.2, beyond=beyond)).in_motion()
    robot.run(100, reasons=(STALE,), measured=LOST)
    robot.plan(robot.position[0] + 0.1)
    assert kinds(robot.tick(measured=np.array([0.0, np.nan]))) == [ReasonKind.NO_START]
    robot.position = robot.position - 0.9
    robot.sent.clear()
    began = robot.position
    outcome = robot.tick()
    if beyond == 'refuse':
        assert kinds(outcome) == [ReasonKind.DISARMED, ReasonKind.START_TOO_FAR]
        return
    assert robot.state() is State.RAMP_IN
    robot.run(60)
    assert_limits(robot.sent, before=began)


def test_a_hold_that_lasts_too_long_disarms():
    robot = Robot(WatchSettings(hold_limit_s=2.0)).in_motion()
    for _ in range(2):  # each hold counts for itself
        assert robot.run(150, reasons=(STALE,)).state is State.HOLD
        robot.plan()
        assert isinstance(robot.run(10), Command)
    outcome = robot.run(202, reasons=(STALE,))
    assert kinds(outcome) == [ReasonKind.DISARMED, ReasonKind.HELD, ReasonKind.STALE]
    robot.plan()
    assert robot.tick().state is State.DISARMED
    robot.enable()
    assert robot.run(199).state is State.WAITING
    assert robot.run(3).state is State.DISARMED
    forever = Robot().in_motion()
    assert forever.run(1000, reasons=(STALE,)).state is State.HOLD


def test_a_plan_that_ends_stops_the_robot():
    robot = Robot()
    robot.enable()
    robot.plan(steps=4, target=0.3)
    outcome = robot.run(90)
    assert kinds(outcome) == [ReasonKind.PLAN_ENDED]
    assert outcome.state is State.HOLD
    assert_limits(robot.sent)
    assert robot.speed() < 1e-9


def test_enabling_anew_in_motion_is_no_jump():
    robot = Robot().in_motion()
    epoch = robot.supervisor.epoch
    assert robot.enable() == epoch + 1
    assert kinds(robot.run(5)) == [ReasonKind.NO_PLAN]
    assert robot.state() is State.WAITING
    robot.plan(-1.0)
    assert isinstance(robot.run(60), Command)
    assert_limits(robot.sent)


def test_disarming_stops_first():
    robot = Robot().in_motion()
    robot.supervisor.disarm('asked for')
    outcome = robot.tick()
    assert outcome.state is State.HOLD
    assert kinds(outcome) == [ReasonKind.DISARMING]
    while robot.tick().state is State.HOLD:
        assert len(robot.sent) < 300
    assert robot.state() is State.DISARMED
    assert robot.speed() < 1e-6
    assert_limits(robot.sent)
    assert kinds(robot.tick()) == [ReasonKind.DISARMED, ReasonKind.DISARMING]
    assert robot.tick().values is None
    robot.position = np.zeros(2)
    robot.in_motion()
    robot.supervisor.disable()
    assert robot.tick().values is None


def test_looking_changes_nothing():
    robot = Robot()
    hold = robot.supervisor.look((STALE,))
    assert hold is not None
    assert kinds(hold) == [ReasonKind.DISARMED, ReasonKind.STALE]
    robot.in_motion()
    assert robot.supervisor.look() is None
    robot.supervisor.fault('broken')
    for _ in range(20):
        hold = robot.supervisor.look((STALE,))
        assert hold is not None
        assert kinds(hold) == [ReasonKind.FAULT, ReasonKind.STALE]
        assert hold.values is None
    robot.run(60)
    assert_limits(robot.sent)


def test_an_emergency_stop_sends_nothing_from_the_next_tick_on():
    robot = Robot().in_motion()
    robot.supervisor.estop(True)
    count = len(robot.sent)
    assert kinds(robot.run(3)) == [ReasonKind.ESTOP]
    assert len(robot.sent) == count
    assert [r.kind for r in robot.supervisor.reset()] == [ReasonKind.ESTOP]
    robot.supervisor.estop(False)
    assert robot.state() is State.FAULT
    assert robot.supervisor.reset() == []
    robot.supervisor.estop(True)  # a fault also where nothing is armed
    assert robot.state() is State.FAULT


def test_an_emergency_stop_after_another_fault_ends_its_deceleration():
    robot = Robot().in_motion()
    robot.supervisor.fault('broken')
    assert robot.tick().values is not None
    robot.supervisor.estop(True)
    assert robot.tick().values is None


def test_the_deadman_switch():
    robot = Robot(WatchSettings(deadman_timeout_s=0.1))
    robot.enable()
    assert robot.state() is State.DISARMED
    assert [r.kind for r in robot.supervisor.refusals(robot.now_ns)] == [ReasonKind.DEADMAN]
    robot.press()
    assert robot.state() is State.WAITING
    robot.plan()
    for _ in range(50):
        robot.press()
        assert isinstance(robot.tick(), Command)
    outcome = robot.run(15)  # it is not heard of any more
    assert outcome.state is State.HOLD
    assert kinds(outcome) == [ReasonKind.DEADMAN]
    outcome = robot.run(100)
    assert kinds(outcome)[:2] == [ReasonKind.DISARMED, ReasonKind.DEADMAN]
    assert_limits(robot.sent)
    robot.press()
    assert robot.state() is State.WAITING
    robot.supervisor.deadman(False, robot.now_ns)
    robot.tick()
    assert robot.state() is State.DISARMED
    for _ in range(3):  # held down it does not enable again by itself
        robot.supervisor.disable()
        robot.press()
        robot.supervisor.disable()
        assert not robot.supervisor.deadman(True, robot.now_ns + MS)
        assert robot.state() is State.DISARMED
        robot.supervisor.deadman(False, robot.now_ns)


def test_a_deadman_switch_that_is_heard_while_a_tick_decides_is_pressed():
    robot = Robot(WatchSettings(deadman_timeout_s=0.1))
    robot.press()
    robot.plan()
    assert isinstance(robot.run(5), Command)
    heard_ns = robot.now_ns + TICK_NS + MS // 5  # after the tick has read its clock
    assert not robot.supervisor.deadman(True, heard_ns)
    assert isinstance(robot.tick(), Command)


def test_a_robot_that_does_not_follow_is_a_fault_after_a_while():
    robot = Robot(WatchSettings(tracking_error=0.1, tracking_s=0.05)).in_motion()
    stuck = robot.position.copy() - [0.2, 0.0]
    for _ in range(5):
        assert isinstance(robot.tick(measured=stuck), Command)
    outcome = robot.tick(measured=stuck)
    assert kinds(outcome) == [ReasonKind.TRACKING]
    assert 'x is ' in str(outcome.reasons[0])
    robot.run(60, measured=stuck)
    assert robot.supervisor.reset() == []


@pytest.mark.parametrize('jump_ms', [-5000, 5000])
def test_a_jump_of_the_clock_discards_what_was_planned(jump_ms):
    robot = Robot().in_motion()
    steady = robot.now_ns
    epoch = robot.supervisor.epoch
    robot.tick(steady_ns=steady)
    robot.now_ns += jump_ms * MS
    outcome = robot.tick(steady_ns=steady + TICK_NS)
    assert kinds(outcome) == [ReasonKind.CLOCK_JUMP]
    assert robot.supervisor.epoch == epoch + 1
    assert robot.plan(epoch=epoch) is not None
    robot.plan()
    assert isinstance(robot.run(2, steady_ns=None), Command)
    assert_limits(robot.sent)


def test_a_clock_that_stands_still_is_a_jump_in_the_end():
    robot = Robot().in_motion()
    robot.tick(steady_ns=0)
    robot.now_ns -= TICK_NS
    assert kinds(robot.tick(steady_ns=600 * MS)) == [ReasonKind.CLOCK_JUMP]


def test_a_start_too_far_away_is_refused_or_led_over():
    near = StartSettings(tolerance=0.2)
    robot = Robot(start=near, interpolation='step', blend=RuntimeSettings().blend)
    robot.enable()
    robot.plan(1.0, steps=2)
    outcome = robot.tick()
    assert outcome.state is State.DISARMED
    assert kinds(outcome) == [ReasonKind.DISARMED, ReasonKind.START_TOO_FAR]
    assert robot.sent == []

    slowly = StartSettings(tolerance=0.2, beyond='ramp_in', ramp_in_s=1.0)
    robot = Robot(start=slowly, interpolation='step')
    robot.enable()
    robot.plan(0.8, steps=2)
    robot.tick()
    assert robot.state() is State.RAMP_IN
    for _ in range(20):
        robot.plan(0.8, steps=1, t_obs_ns=robot.now_ns)
        robot.run(10)
    assert robot.state() is State.RUNNING
    assert robot.position == pytest.approx(0.8, abs=1e-3)
    assert_limits(robot.sent)
    robot = Robot(start=near)
    robot.enable()
    robot.plan(0.5)
    robot.run(2)
    assert robot.state() is State.RUNNING


def test_a_wild_chunk_is_a_fault_and_the_robot_stops():
    for wild in (np.full((5, 2), np.nan), np.full((5, 2), 50.0)):
        robot = Robot().in_motion()
        chunk = Chunk(robot.now_ns, wild, 100 * MS, 1.0, robot.supervisor.epoch)
        reason = robot.supervisor.accept(chunk)
        assert reason is not None
        assert reason.kind is ReasonKind.BAD_CHUNK
        assert kinds(robot.run(60)) == [ReasonKind.BAD_CHUNK]
        assert_limits(robot.sent)
        assert robot.speed() < 1e-6
    robot = Robot(bad_chunk='hold').in_motion()
    robot.supervisor.accept(Chunk(robot.now_ns, wild, 100 * MS, 1.0, robot.supervisor.epoch))
    assert isinstance(robot.tick(), Command)


def test_the_speed_scale():
    robot = Robot()
    assert robot.supervisor.set_speed_scale(0.1) == ()
    robot.enable()
    robot.plan()
    robot.run(100)
    assert robot.speed() == pytest.approx(0.15, rel=1e-6)
    robot.supervisor.set_speed_scale(0.0)
    assert isinstance(robot.run(50), Command)
    assert robot.speed() < 1e-6
    assert_limits(robot.sent)
    for wrong in (-0.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match='speed_scale'):
            robot.supervisor.set_speed_scale(wrong)
    assert Supervisor(_PUSHT, RuntimeSettings()).set_speed_scale(0.5) == ('x', 'y')


def test_warnings_come_with_the_command():
    robot = Robot().in_motion()
    warning = Reason(ReasonKind.CONFIDENCE, '0.1')
    outcome = robot.tick(monitors=((warning, False),))
    assert isinstance(outcome, Command)
    assert outcome.reasons == (warning,)


target = st.lists(st.floats(-2.4, 2.4), min_size=2, max_size=2)
wild = st.lists(st.one_of(st.floats(), st.floats(-3, 3)), min_size=2, max_size=2)
events = st.one_of(
    st.sampled_from(
        ['enable', 'enable', 'disable', 'disarm', 'fault', 'reset', 'estop', 'release', 'press']
    ).map(lambda name: (name,)),
    st.tuples(st.just('chunk'), st.lists(target, min_size=1, max_size=5), st.integers(-1, 0)),
    st.tuples(st.just('chunk'), st.lists(target, min_size=1, max_size=5), st.just(0)),
    st.tuples(st.just('chunk'), st.lists(wild, min_size=1, max_size=5), st.just(0)),
    st.tuples(st.just('scale'), st.floats(0, 1)),
    st.tuples(st.just('facts'), st.sampled_from(['stale', 'dead', 'foreign', 'controller'])),
    st.tuples(st.just('jump'), st.integers(-3000, 3000)),
)
stories = st.lists(st.tuples(events, st.integers(1, 12)), max_size=25)


FACTS: dict[str, dict[str, Any]] = {
    'stale': {'reasons': (STALE,)},
    'dead': {'inference_alive': False},
    'foreign': {'foreign_publishers': ('teleop',)},
    'controller': {'controller': 'inactive'},
}


def happen(robot, event, arguments):
    """Let one event of a story happen; return the facts of the ticks after it."""
    supervisor = robot.supervisor
    if event == 'chunk':
        actions, offset = arguments
        array = np.array(actions, dtype=float)
        supervisor.accept(Chunk(robot.now_ns, array, 100 * MS, 1.0, supervisor.epoch + offset))
    elif event == 'jump':
        robot.now_ns += arguments[0] * MS
    elif event == 'release':
        supervisor.estop(False)
        supervisor.deadman(False, robot.now_ns)
    elif event == 'facts':
        return FACTS[arguments[0]]
    else:
        does = {
            'enable': robot.enable,
            'estop': lambda: supervisor.estop(True),
            'press': robot.press,
            'scale': lambda: supervisor.set_speed_scale(*arguments),
            'fault': lambda: supervisor.fault('broken'),
        }
        (does[event] if event in does else getattr(supervisor, event))()
    return {}


def assert_step(before, outcome, state, facts):
    """What holds at every tick, whatever came before it."""
    if before in (State.DISARMED, State.FAULT):
        assert state is before
        assert not isinstance(outcome, Command)
    if isinstance(outcome, Command):
        assert state in (State.RUNNING, State.RAMP_IN)
        assert not facts
    else:
        assert outcome.reasons
        assert outcome.state is state
        assert state not in (State.RUNNING, State.RAMP_IN)
        assert state is not State.DISARMED or outcome.values is None
    if outcome.values is not None:
        assert np.isfinite(outcome.values).all()
        assert (np.abs(outcome.values) <= 2.0).all()


@settings(derandomize=True, max_examples=150, deadline=None)
@given(story=stories, deadman=st.booleans(), kind=st.sampled_from(['step', 'linear', 'cubic']))
def test_whatever_happens(story, deadman, kind):
    watch = WatchSettings(deadman_timeout_s=0.2 if deadman else None, tracking_error=1.0)
    robot, steady_ns = Robot(watch, interpolation=kind), 0
    for (event, *arguments), ticks in [(('press',), 1), (('enable',), 1), *story]:
        was = robot.state()
        facts = happen(robot, event, arguments)
        if was is State.FAULT and robot.state() is not State.FAULT:
            assert event == 'reset'
            assert robot.state() is State.DISARMED
        if was is State.DISARMED and robot.state() not in (State.DISARMED, State.FAULT):
            assert event in ('enable', 'press')
            robot.sent.clear()  # it begins at rest, with its own rates
        for _ in range(ticks):
            steady_ns += TICK_NS
            before = robot.state()
            outcome = robot.tick(steady_ns=steady_ns, **facts)
            assert_step(before, outcome, robot.state(), facts)
        assert_limits(robot.sent)


def test_reactions_are_ordered_from_gentle_to_hard():
    assert Reaction.WARN < Reaction.HOLD < Reaction.DISARM < Reaction.FAULT
