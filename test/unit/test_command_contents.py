"""What commands contain, as numbers; the messages are tried in test/ros/test_commands.py."""

from dataclasses import replace
import itertools
import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.ros.commands.plain import (
    ContinuousQuaternion,
    GripperGate,
    joints_problem,
    moving_points,
    Points,
    remaining_points,
    single_point,
    stopping_points,
    Velocity,
)
from vqbet_ros.runtime.limiter import Limiter
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.runtime.rotation import matrix, rotation_6d
from vqbet_ros.runtime_spec import LimiterSettings
from vqbet_ros.spec import ActionSpec, GripperCommand, JointLimits

PERIOD_NS = 100_000_000
T_OBS_NS = 1_700_000_000_000_000_000


def chunk_of(actions):
    return Chunk(T_OBS_NS, np.asarray(actions, dtype=np.float64), PERIOD_NS, 1.0, 1)


def refusals(points, joints):
    """The rules of joint_trajectory_controller's validate_trajectory_msg, and t = 0 is a jump."""
    times = points.times_ns.tolist()
    found = [] if times else ['empty trajectory']
    found += ['first point at the start'] if times and times[0] <= 0 else []
    found += ['times do not rise'] if any(b <= a for a, b in itertools.pairwise(times)) else []
    found += ['moves at the end'] if np.abs(points.velocities[-1]).max() > 1e-7 else []
    for field in (points.positions, points.velocities):
        found += [] if field.shape == (len(times), joints) else ['wrong size']
        found += [] if np.isfinite(field).all() else ['not finite']
    return found


@given(
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(-PERIOD_NS, 14 * PERIOD_NS),
    st.integers(0, 2**32 - 1),
)
def test_the_rest_of_a_chunk_is_a_trajectory_that_controllers_take(steps, joints, after_ns, seed):
    actions = np.random.default_rng(seed).normal(size=(steps, joints + 1))  # the last: a gripper
    now_ns = T_OBS_NS + after_ns
    points = remaining_points(chunk_of(actions), joints, now_ns)
    due_ns = [T_OBS_NS + (i + 1) * PERIOD_NS for i in range(steps)]
    left = [i for i in range(steps) if due_ns[i] >= now_ns + PERIOD_NS // 2]
    if not left:
        assert points is None
        return
    assert points is not None
    assert refusals(points, joints) == []
    assert (points.times_ns + now_ns).tolist() == [due_ns[i] for i in left]
    assert np.array_equal(points.positions, actions[left, :joints])


def test_velocities_of_a_chunk_are_those_of_its_positions():
    actions = np.stack([np.arange(6) * 0.1, np.arange(6) * -0.02], axis=1)  # 1.0 and -0.2 per s
    points = remaining_points(chunk_of(actions), 2, T_OBS_NS + 2 * PERIOD_NS)
    assert points is not None
    assert np.allclose(points.velocities[:-1], [[1.0, -0.2]] * 3)
    assert points.velocities[-1].tolist() == [0.0, 0.0]
    position, velocity = points.at(int(1.5 * PERIOD_NS))
    assert np.allclose(position, actions[2:4].mean(axis=0))
    assert np.allclose(velocity, [1.0, -0.2])


def test_a_single_point_is_one_of_rest():
    points = single_point(np.array([1.0, 2.0]), 20_000_000)
    assert refusals(points, 2) == []
    assert points.positions.tolist() == [[1.0, 2.0]]


class Controller:
    """Interpolates as joint_trajectory_controller does: from where it is, cubic, to each point."""

    def __init__(self, position):
        self.position, self.velocity = np.array(position, float), np.zeros(len(position))
        self._knots = []

    def take(self, points):
        self._elapsed_s = 0.0
        places = [self.position, *points.positions]
        speeds = [self.velocity, *points.velocities]
        times = [0.0, *(points.times_ns / 1e9)]
        self._knots = list(zip(times, places, speeds, strict=True))

    def tick(self, tick_s):
        """Let time pass; returns the acceleration of it."""
        before = self.velocity
        self._elapsed_s += tick_s
        for (t0, p0, v0), (t1, p1, v1) in itertools.pairwise(self._knots):
            if t0 <= self._elapsed_s < t1:
                h, u = t1 - t0, (self._elapsed_s - t0) / (t1 - t0)
                self.position = (
                    (2 * u**3 - 3 * u**2 + 1) * p0
                    + (u**3 - 2 * u**2 + u) * h * v0
                    + (3 * u**2 - 2 * u**3) * p1
                    + (u**3 - u**2) * h * v1
                )
                self.velocity = (
                    (6 * u**2 - 6 * u) * (p0 - p1) / h
                    + (3 * u**2 - 4 * u + 1) * v0
                    + (3 * u**2 - 2 * u) * v1
                )
                break
        else:
            _, self.position, self.velocity = self._knots[-1]
        return (self.velocity - before) / tick_s


STOP_S = 0.25


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-3, 3)), min_size=1, max_size=4),
    st.floats(0.01, 0.5),
)
def test_a_stop_is_an_even_deceleration_that_never_leaves_the_range(joints, stop_s):
    position, velocity = np.array(joints).T
    low, high = np.full(len(joints), -1.0), np.full(len(joints), 1.0)
    points = stopping_points(position, velocity, round(stop_s * 1e9), low, high)
    assert refusals(points, len(joints)) == []
    assert (points.times_ns <= round(stop_s * 1e9)).all()
    robot = Controller(position)
    robot.velocity = velocity
    robot.take(points)
    step = np.abs(velocity) * 1e-3 + 1e-9  # times are whole numbers of milliseconds
    stoppable = np.abs(position + np.sign(velocity) * step) <= 1
    for _ in range(200):
        robot.tick(stop_s / 199)
        assert (np.abs(robot.position) <= 1 + step).all()
        assert (np.abs(robot.velocity) <= np.abs(velocity) + 1e-6)[stoppable].all()
        assert (robot.velocity * velocity >= -1e-6)[stoppable].all()
    assert (robot.velocity == 0).all()
    way = robot.position - position
    free = np.abs(position + velocity * stop_s / 2) <= 1
    assert (np.abs(way - velocity * stop_s / 2) <= step)[free].all()


ACCELERATION = 3.0
ARM = JointLimits((-2.0, 2.0), velocity=0.8, acceleration=ACCELERATION, jerk=60.0)


@pytest.mark.parametrize('rate_hz', [10, 50, 100])
def test_a_controller_moves_on_through_points_as_they_were_limited(rate_hz):
    """The oracle for the acceleration is the limit; points of rest would need 6 v / T."""
    period_ns, finer = 10**9 // rate_hz, 1000 // rate_hz
    action = ActionSpec(
        names=('a',), unit='rad', command_topic='/c', record_topic=None, limits={'a': ARM}
    )
    limiter = Limiter(action, LimiterSettings(gross_velocity=1e3), 1 / rate_hz)
    limiter.seed(np.zeros(1))
    velocity, robot = Velocity(period_ns, np.array([0.8])), Controller([0.0])
    low, high = np.array([-2.0]), np.array([2.0])
    accelerations, lags, sent = [], [], []
    for i in range(3 * rate_hz):
        command = limiter.limit(np.array([1.5 if i < 2 * rate_hz else 0.5]))
        passing = velocity.at(command, i * period_ns)
        points = moving_points(command, passing, period_ns, round(STOP_S * 1e9), low, high)
        assert refusals(points, 1) == []
        robot.take(points)
        accelerations += [float(robot.tick(0.001)[0]) for _ in range(finer)]
        lags.append(abs(float(robot.position[0] - command[0])))
        sent.append(float(command[0]))
    assert np.ptp(sent) > 0.9
    assert max(lags) < 1e-9, 'each command is reached when the next one comes'
    # Of the first command, no velocity is known: two steps from rest, as points of rest would be.
    assert np.abs(accelerations[2 * finer :]).max() < 3 * ACCELERATION
    # Then nothing comes any more: the arm rests soon, without turning round.
    speed = float(robot.velocity[0])
    for _ in range(round(STOP_S * 1000) + 1):
        robot.tick(0.001)
    assert (robot.velocity == 0).all()
    assert 0 <= (robot.position[0] - sent[-1]) * np.sign(speed) <= abs(speed) * STOP_S


def test_velocities_of_commands():
    velocity = Velocity(PERIOD_NS, np.array([2.0, np.inf]))
    ask = lambda i, *place: velocity.at(np.array(place), int(i * PERIOD_NS)).tolist()  # noqa: E731
    assert ask(0, 0.0, 0.0) == [0.0, 0.0], 'nothing is known yet'
    assert ask(1, 0.1, 0.1) == pytest.approx([1.5, 1.5])  # it has begun to move
    assert ask(2, 0.2, 0.2) == pytest.approx([1.0, 1.0])
    assert ask(4, 0.4, 0.2) == pytest.approx([1.0, 0.0]), 'a tick was late; the other one rests'
    assert ask(5, 0.8, 0.1) == pytest.approx([2.0, -1.5]), 'within the limits'
    assert ask(5.01, 0.8, 0.09) == pytest.approx([0.0, -14.5])
    assert ask(9, 0.9, 0.2) == [0.0, 0.0], 'another motion'
    velocity.forget()
    assert ask(10, 1.0, 0.2) == [0.0, 0.0]
    velocity.start(np.array([0.0, 0.0]), np.array([1.0, 0.0]), 20 * PERIOD_NS)
    assert ask(20, 0.1, 0.0) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize('axis', [(0.0, 0.0, 1.0), (1.0, 2.0, -0.5)])
def test_quaternions_of_a_turning_tool_never_flip(axis):
    unit = np.array(axis) / np.linalg.norm(axis)
    orientation, before = ContinuousQuaternion(), None
    for angle in np.arange(0, 6 * math.pi, 0.05):  # three whole turns
        truth = np.array([*(math.sin(angle / 2) * unit), math.cos(angle / 2)])
        found = orientation.next(rotation_6d(truth))
        assert math.isclose(float(np.linalg.norm(found)), 1.0, abs_tol=1e-9)
        assert np.allclose(matrix(rotation_6d(found)), matrix(rotation_6d(truth)), atol=1e-9)
        assert before is None or float(before @ found) > 0.99
        before = found


def test_numbers_that_are_no_rotation_are_refused():
    with pytest.raises(ValueError, match='no rotation'):
        ContinuousQuaternion().next(np.zeros(6))


ANALOG = GripperCommand('float64', '/gripper', min_change=0.1, max_rate_hz=10.0)
SWITCH = replace(ANALOG, min_change=0.0, switch=(0.4, 0.6))


def drive(command, targets, every_ns=PERIOD_NS):
    """What a gripper is sent of a stream of targets."""
    gate, sent = GripperGate(command, (0.0, 1.0)), []
    for i, target in enumerate(targets):
        due = gate.due(target, i * every_ns)
        if due is not None:
            gate.sent(due, i * every_ns)
            sent.append((i, due))
    return sent


def test_a_gripper_is_told_on_change_only():
    assert drive(ANALOG, [0.5, 0.5, 0.55, 0.58, 0.61, 0.61, 0.5]) == [
        (0, 0.5),
        (4, 0.61),
        (6, 0.5),
    ]
    assert drive(ANALOG, [-3.0, 7.0]) == [(0, 0.0), (1, 1.0)], 'targets are clamped to its range'
    exact = replace(ANALOG, min_change=0.0)
    assert drive(exact, [0.5, 0.5, 0.5001]) == [(0, 0.5), (2, 0.5001)]


def test_a_gripper_is_not_told_too_often_but_told_in_the_end():
    fast = drive(ANALOG, np.linspace(0, 1, 101), every_ns=PERIOD_NS // 10)
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(fast)]
    assert min(gaps) >= 10
    assert fast[-1][1] == pytest.approx(1.0, abs=ANALOG.min_change)
    jump = drive(ANALOG, [0.0, 1.0, 1.0, 1.0], every_ns=PERIOD_NS // 2)
    assert jump == [(0, 0.0), (2, 1.0)]


def test_a_switched_gripper_has_a_hysteresis():
    assert drive(SWITCH, [0.5, 0.55, 0.45]) == [], 'in between, nothing is decided'
    targets = [0.3, 0.45, 0.59, 0.61, 0.59, 0.41, 0.39]
    assert drive(SWITCH, targets) == [(0, 0.0), (3, 1.0), (6, 0.0)]


def test_a_clock_that_went_back_does_not_silence_a_gripper():
    gate = GripperGate(ANALOG, (0.0, 1.0))
    gate.sent(0.0, 10**18)
    assert gate.due(1.0, 5) == 1.0


def test_what_is_forgotten_is_sent_again_but_not_too_soon():
    gate = GripperGate(ANALOG, (0.0, 1.0))
    gate.sent(0.5, 0)
    assert gate.due(0.5, 10**10) is None
    gate.forget()
    assert gate.due(0.5, PERIOD_NS - 1) is None
    assert gate.due(0.5, PERIOD_NS) == 0.5


@pytest.mark.parametrize(
    ('theirs', 'ordered', 'partial', 'wrong'),
    [
        (['a', 'b'], True, False, None),
        (['b', 'a'], True, False, 'names and order must be the same'),
        (['a', 'b', 'c'], True, False, 'names and order must be the same'),
        (['b', 'a'], False, False, None),
        (['b', 'a', 'c'], False, False, 'it wants c too'),
        (['b', 'a', 'c'], False, True, None),
        (['a', 'c'], False, True, 'it does not know b'),
    ],
)
def test_joints_of_controllers(theirs, ordered, partial, wrong):
    found = joints_problem('/arm', theirs, ['a', 'b'], ordered=ordered, partial=partial)
    assert (found is None) if wrong is None else (found is not None and wrong in found)


def test_a_straight_course_between_points():
    points = Points(np.array([10, 20]), np.array([[0.0], [1.0]]), np.array([[0.1], [0.0]]))
    assert points.at(15)[0].tolist() == [0.5]
    assert points.at(0)[0].tolist() == [0.0]
    assert points.at(99)[0].tolist() == [1.0]
