"""The pipeline ticked by hand, with numbers for its clocks: what is sent, and what is said."""

import dataclasses
import threading
from typing import Any

import numpy as np
import pytest
from vqbet_ros.ros.pipeline import Pipeline
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime.gate import ReasonKind
from vqbet_ros.runtime.outcome import State
from vqbet_ros.runtime_spec import RuntimeSettings
from vqbet_ros.spec import JointLimits

MS = 1_000_000
PERIOD_NS = 10 * MS
VELOCITY = 1.5
ARM = JointLimits((-2.0, 2.0), VELOCITY, 6.0, 80.0)
JOINTS = '/joint_states'


class Policy:
    """Decides nothing: the tests do."""

    history, chunk = 1, 20

    def reset(self):
        """Forget nothing."""

    def close(self):
        """End nothing."""

    def look(self, observation):
        """Prepare nothing."""

    def plan(self, observation, **more: Any):
        raise AssertionError('nobody wakes it')


class Arm:
    """A pipeline and the arm that it commands, which is at once where it is told to be.

    Args:
        bag_spec: Two joints; its camera is left out.
        courses: Whether it follows courses.
        simulated: Whether its time is simulated.

    Attributes:
        now_ns: What time it is, by all clocks.
        sent: Every command, course and rest, with its time.
        seen: What is done to the joints' message, on its way.
    """

    def __init__(self, bag_spec, *, courses=False, simulated=False):
        self.now_ns, self.offset_ns = 10**15, 0
        self.position = np.zeros(2)
        self.sent: list[tuple[int, str, Any]] = []
        self.failures: list[str] = []
        self.broken = ''
        spec = dataclasses.replace(
            bag_spec,
            cameras=(),
            action=dataclasses.replace(bag_spec.action, limits={'a': ARM, 'b': ARM}),
            runtime=RuntimeSettings(),
        )
        self.pipeline = Pipeline(
            Policy(),
            spec,
            decoders={'sensor_msgs/msg/JointState': self._decode},
            control_rate_hz=100.0,
            clock=lambda: self.now_ns + self.offset_ns,
            steady=None if simulated else lambda: self.now_ns,
            courses=courses,
            outputs=self,
        )
        self.supervisor = self.pipeline.supervisor
        self.pipeline.inference.start()

    def _decode(self, payload, part):
        if self.broken:
            raise RuntimeError(self.broken)
        return np.frombuffer(payload)

    # Outputs

    def command(self, values):
        self.sent.append((self.now_ns, 'command', values))
        self.position = values

    def follow(self, values, course):
        if course is not None:
            self.sent.append((self.now_ns, 'course', course))
        self.position = values

    def rest(self):
        self.sent.append((self.now_ns, 'rest', None))

    def plan(self, chunk):
        """Show nothing."""

    def changed(self):
        self.pipeline.situation()  # as the node does

    def failed(self, text):
        self.failures.append(text)

    def alive(self):
        return True

    # What happens

    def see(self):
        stamp_ns = self.now_ns + self.offset_ns
        self.pipeline.buffer.put(JOINTS, stamp_ns, stamp_ns, self.position.tobytes())

    def ticks(self, count, *, step_ns=PERIOD_NS, sees=True):
        for _ in range(count):
            self.now_ns += step_ns
            if sees:
                self.see()
            self.pipeline.tick()

    def decide(self, velocity=1.0, steps=20):
        way = self.position + velocity * 0.1 * np.arange(1, steps + 1)[:, None]
        now_ns = self.now_ns + self.offset_ns
        chunk = Chunk(now_ns, way, 100 * MS, 0.9, self.supervisor.epoch, (0, 1))
        assert self.supervisor.accept(chunk) is None

    def in_motion(self):
        self.see()
        assert self.pipeline.enable() == []
        self.decide()
        self.ticks(50)
        assert self.supervisor.state is State.RUNNING
        return self

    def kinds(self):
        return [reason.kind for reason in self.pipeline.situation()[1]]

    def path(self):
        """Return times in s and places of all commands."""
        times_ns, places = zip(
            *((at, values) for at, kind, values in self.sent if kind == 'command'), strict=True
        )
        return np.array(times_ns) / 1e9, np.array(places)


@pytest.fixture
def make(bag_spec):
    made = []

    def build(**options: Any):
        made.append(Arm(bag_spec, **options))
        return made[-1]

    yield build
    for arm in made:
        assert arm.pipeline.inference.stop()


def test_an_emergency_stop_ends_the_motion_also_while_simulated_time_stands(make):
    arm = make(simulated=True).in_motion()
    arm.ticks(3, step_ns=0, sees=False)
    count = len(arm.sent)
    arm.ticks(3, step_ns=0, sees=False)
    assert len(arm.sent) == count
    arm.pipeline.estop(True)
    arm.ticks(1, step_ns=0, sees=False)
    assert [kind for _, kind, _ in arm.sent[count:]] == ['rest']
    assert arm.kinds()[0] is ReasonKind.ESTOP


@pytest.mark.parametrize('slow', [1.0, 0.7, 0.3, 0.1])
def test_in_slow_simulated_time_the_limits_are_those_of_that_time(make, slow):
    arm = make(simulated=True)
    arm.see()
    assert arm.pipeline.enable() == []
    arm.decide(velocity=4.0, steps=5)  # more than it may
    arm.ticks(round(48 / slow), step_ns=round(slow * PERIOD_NS))
    assert arm.supervisor.state is State.RUNNING
    seconds, places = arm.path()
    speeds = np.diff(places, axis=0) / np.diff(seconds)[:, None]
    assert np.abs(speeds).max() <= VELOCITY * (1 + 1e-6)
    assert np.abs(speeds).max() > 0.9 * VELOCITY


def test_a_check_that_raises_is_a_fault_and_the_robot_stops_within_its_limits(make):
    arm = make().in_motion()
    arm.broken = 'the decoder is broken'
    arm.ticks(100)
    state, reasons = arm.pipeline.situation()
    assert state is State.FAULT
    assert 'the decoder is broken' in reasons[0].detail
    _, places = arm.path()
    assert np.abs(np.diff(places, 2, axis=0)).max() <= 6.0 * 0.01**2 * (1 + 1e-6)
    assert np.abs(places[-1] - places[-2]).max() < 1e-9
    assert arm.sent[-1][1] == 'rest'
    (failure,) = arm.failures
    assert 'Traceback' in failure
    assert 'fault' in str(arm.pipeline.clear_fault()[0])
    arm.broken = ''
    arm.ticks(1)
    assert arm.pipeline.clear_fault() == []
    assert arm.pipeline.enable() == []


def test_a_broken_check_refuses_to_enable_and_is_logged_once(make):
    arm = make()
    arm.broken = 'the decoder is broken'
    arm.see()
    for _ in range(3):
        arm.ticks(5)
        arm.pipeline.situation()
    (failure,) = arm.failures
    assert 'the decoder is broken' in failure
    (reason,) = arm.pipeline.enable(require_streams=False)
    assert reason.kind is ReasonKind.FAULT


def test_a_thread_that_cannot_even_tell_what_failed_goes_on_and_stops_the_robot(make):
    arm = make().in_motion()
    again, told = threading.Event(), []

    def changed():
        told.append(arm.supervisor.state)
        if len(told) > 2:
            again.set()
        raise RuntimeError('cannot be told')

    arm.changed = changed
    arm.pipeline.controller = 'inactive'
    arm.pipeline.inference.stop()  # both threads are started now
    arm.pipeline.start()
    assert again.wait(20.0), told
    assert arm.supervisor.state is State.FAULT
    arm.changed = lambda: None
    arm.pipeline.stop()
    assert arm.sent[-1][1] == 'rest'


def test_the_figures_go_on_after_a_hold_in_which_nothing_was_sent(make):
    arm = make().in_motion()
    arm.pipeline.controller = 'inactive'
    arm.ticks(100)
    assert arm.sent[-1][1] == 'rest'
    before = arm.pipeline.statistics.control.ticks
    arm.ticks(50)
    assert arm.pipeline.statistics.control.ticks == before
    arm.pipeline.controller = ''
    arm.decide()
    arm.ticks(50)
    assert arm.supervisor.state is State.RUNNING
    assert arm.pipeline.statistics.control.ticks == before + 49


def test_a_robot_that_stands_is_told_so_twice_and_no_more(make):
    arm = make().in_motion()
    arm.ticks(250)  # the plan ends
    assert arm.supervisor.state is State.HOLD
    count = len(arm.sent)
    _, places = arm.path()
    np.testing.assert_array_equal(places[-1], places[-2])
    assert np.abs(places[-2] - places[-3]).max() > 0
    arm.ticks(50)
    assert len(arm.sent) == count
    arm.decide(velocity=0.0, steps=3)  # to stay is a command as well
    arm.ticks(50)
    assert arm.supervisor.state is State.HOLD
    assert len(arm.sent) == count + 30 + 1


def test_a_course_is_sent_anew_where_another_speed_begins(make):
    arm = make(courses=True).in_motion()
    assert [kind for _, kind, _ in arm.sent] == ['course']
    arm.supervisor.set_speed_scale(0.1)
    arm.ticks(30)
    first, second = [course for _, _, course in arm.sent]
    at_ns, _, _ = arm.sent[1]
    index = (at_ns - first.t_obs_ns) // PERIOD_NS - 1
    # It begins where the arm is by the first one, and slows down from there.
    assert np.abs(second.actions[0] - first.actions[index + 1]).max() < 0.01 * VELOCITY
    assert np.abs(np.diff(second.actions, axis=0))[-30:].max() < 0.11 * VELOCITY * 0.01


@pytest.mark.parametrize('late', [1, 2, 3, 8, 150, 500])
def test_where_ticks_are_late_the_commands_go_on_with_the_arm_that_follows_its_course(make, late):
    arm = make(courses=True).in_motion()
    ((at_ns, _, course),) = arm.sent
    index = (arm.now_ns - at_ns) // PERIOD_NS + late
    places = np.concatenate([course.actions, np.tile(course.actions[-1], (500, 1))])
    arm.ticks(1, step_ns=late * PERIOD_NS)
    np.testing.assert_allclose(arm.position, places[index - 1], atol=1e-6)
    arm.pipeline.disarm()
    arm.ticks(1)
    np.testing.assert_allclose(arm.position, places[index], atol=0.01 * 0.1)  # it brakes


def test_after_the_clock_has_jumped_no_plan_of_before_the_buffer_was_cleared_counts(make):
    arm = make().in_motion()
    cleared: list[int] = []
    forget = arm.pipeline.buffer.forget

    def forget_noting():
        cleared.append(arm.supervisor.epoch)
        forget()

    arm.pipeline.buffer.forget = forget_noting
    arm.offset_ns = 10**10
    arm.ticks(1)
    assert arm.kinds() == [ReasonKind.CLOCK_JUMP]
    (epoch,) = cleared
    assert arm.supervisor.epoch > epoch
