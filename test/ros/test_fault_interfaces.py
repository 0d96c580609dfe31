"""How robots stop that are commanded with velocities, or with whole courses."""

from dataclasses import replace
import itertools
import time

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from fault_judge import EXACT
import fault_robot as fault
from lifecycle_msgs.msg import Transition
import numpy as np
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.time import Time
from vqbet_ros.command_spec import CommandOptions, JointLimits

pytest_plugins = ['fault_rig']
LOOK_S = 0.5  # that often a controller is asked, and that often the node looks what is known
# What is limited is the velocity that is commanded, how fast it changes, and how fast that does.
PUSH = JointLimits(position=(-1.0, 1.0), velocity=5.0, acceleration=50.0)
WATCH = replace(fault.SPEC.runtime.watch, tracking_error=None)  # velocities are at no place
VELOCITIES = replace(
    fault.SPEC,
    runtime=replace(fault.SPEC.runtime, watch=WATCH),
    action=replace(
        fault.SPEC.action,
        unit='rad/s',
        command_interface='forward_velocity',
        limits=dict.fromkeys(fault.SPEC.action.names, PUSH),
    ),
)
COURSES = replace(
    fault.SPEC,
    action=replace(
        fault.SPEC.action,
        command_topic='/arm/joint_trajectory',
        command_interface='joint_trajectory',
        command_options=CommandOptions(trajectory='chunk'),
    ),
)


def test_velocities_are_ramped_down_to_zero(rig):
    one = rig(VELOCITIES).start()
    max_age_s = {part.topic: part.max_age_s for part in one.spec.streams}
    for topic in max_age_s:
        cut: dict[str, fault.Spoil] = {topic: lambda message: []}
        row = one.suffer(lambda cut=cut: one.arm.spoil.update(cut), 'hold', 'data is too old')
        one.check_stop(row, max_age_s[topic] + 0.1)
        assert stands(one)
        one.arm.spoil.clear()
        one.wait_motion()  # by itself
    # Also a velocity that does not change is no standstill.
    one.policy.spoil = lambda actions: np.full_like(actions, 0.8)
    for stop, state in ((lambda: one.enable(False), 'disarmed'), (deactivation(one), '')):
        one.until(lambda: len(set(map(str, recent(one)))) == 1, 'a velocity that stays')
        first, heard, began_s = len(one.ticks), len(one.arm.commands), time.monotonic()
        stop()
        if state:
            one.wait(state)
            one.wait_rest()
        one.arm.pause(0.2)  # its last command is on the way
        row = one.row(began_s, first, heard, f'velocities, {state or "deactivated"}')
        one.check_stop(row, 0.0)
        assert stands(one)
        if state:
            one.go()


def recent(one):
    return [tick.values for tick in one.ticks[-10:] if tick.is_policy][-10:] or range(2)


def stands(one):
    return np.abs(one.arm.commands[-1][1].data).max() < 1e-9


def deactivation(one):
    return lambda: one.change(Transition.TRANSITION_DEACTIVATE)


def course_of(message):
    """Return times (K,) in s after the start, positions (K, 2) and velocities (K, 2)."""
    times = [Duration.from_msg(point.time_from_start).nanoseconds for point in message.points]
    places = [point.positions for point in message.points]
    return (
        np.array(times) / 1e9,
        np.array(places),
        np.array([p.velocities for p in message.points]),
    )


def begins(message):
    """Return when a course begins in ns; a point begins at once, which is 0."""
    return Time.from_msg(message.header.stamp).nanoseconds


def check_course(one, message):
    """Check that a course keeps the limits from its first point to its last, where it rests."""
    times, places, velocities = course_of(message)
    limits, h = one.spec.action.limits['elbow'], one.judge.period_s
    np.testing.assert_allclose(np.diff(times), h, atol=1e-6)
    assert 0 < times[0] <= 1.5 * h + 1e-6
    speeds = np.diff(places, axis=0) / h
    assert (np.abs(speeds) <= limits.velocity * EXACT).all()
    assert (np.abs(np.diff(speeds, axis=0)) <= limits.acceleration * h * EXACT).all()
    jerk = np.diff(speeds, 2, axis=0) / h**2
    assert (np.abs(jerk) <= limits.jerk * EXACT + 1e-6).all()
    assert (np.abs(velocities) <= limits.velocity * EXACT).all()
    assert (velocities[-1] == 0).all()
    assert (np.abs(speeds[-1]) < 1e-6).all()


def test_courses_are_sent_once_a_plan_and_a_stop_comes_point_by_point(rig):
    one = rig(COURSES).start()
    step = one.judge.velocity * 2 * one.judge.period_s  # the furthest in the longest tick
    for stop, state, reason in (
        (lambda: one.arm.spoil.update({'/camera': lambda _: []}), 'hold', 'data is too old'),
        (lambda: one.enable(False), 'disarmed', ''),
    ):
        one.wait_motion()
        one.status.clear()
        began_s, stopped = time.monotonic(), len(one.ticks)
        stop()
        one.wait(state, reason)
        one.wait_rest()
        one.arm.pause(0.2)  # the last point is on the way
        assert one.arm.commands[-1][0] - began_s <= 0.5 + one.judge.stop_s + one.slack_s
        messages = [message for _, message in one.arm.commands]
        courses = [message for message in messages if begins(message)]
        plans = list(dict.fromkeys(t.outcome.t_obs_ns for t in one.ticks if t.is_policy))
        assert len(courses) == len(plans)
        points = list(itertools.takewhile(lambda m: not begins(m), reversed(messages)))
        assert len(points) >= 5  # so many ticks it takes to stop from half the largest velocity
        # The first point goes on from where the course has led until then.
        times, places, _ = course_of(courses[-1])
        begin_s = begins(courses[-1]) / 1e9
        tick = next(t for t in one.ticks[stopped:] if not t.is_policy)
        elapsed_s = one.arm.now_ns() / 1e9 - (time.monotonic() - tick.at_s) - begin_s
        where = [np.interp(elapsed_s, times, place) for place in places.T]
        assert (np.abs(np.subtract(points[-1].points[0].positions, where)) <= 2 * step).all()
        for later, earlier in itertools.pairwise(points):
            difference = np.subtract(later.points[0].positions, earlier.points[0].positions)
            assert (np.abs(difference) <= step * EXACT).all()
        print(f'courses, {state} | {one.arm.commands[-1][0] - began_s:.2f} s')
        one.arm.spoil.clear()
        if state == 'disarmed':
            one.go()
    for message in courses:
        check_course(one, message)
    one.check_limits()


@pytest.mark.parametrize('spec', [VELOCITIES, COURSES], ids=['velocities', 'courses'])
def test_an_emergency_stop_ends_what_would_move_the_robot_on(rig, spec):
    one = rig(spec).start()
    one.until(lambda: one.ticks[-1].is_policy, 'motion')
    one.node.pipeline.estop(True)
    one.wait('fault', 'emergency stop')
    one.arm.pause(0.2)  # the last command is on the way
    last = one.arm.commands[-1][1]
    if spec is VELOCITIES:
        assert list(last.data) == [0.0, 0.0]
    else:
        times, _, velocities = course_of(last)
        assert begins(last) == 0  # at once, in place of the course
        assert times[-1] <= spec.action.command_options.stop_s
        assert (velocities[-1] == 0).all()
    sent = len(one.arm.commands)
    one.arm.pause(0.3)
    assert len(one.arm.commands) == sent


@pytest.mark.parametrize('spec', [fault.SPEC, VELOCITIES], ids=['positions', 'velocities'])
def test_a_controller_whose_joints_turn_out_wrong_in_motion_is_brought_to_rest(rig, spec):
    one, names = rig(without_tracking(spec)), list(spec.action.names)
    one.arm.node.declare_parameter('joints', names)
    one.start()
    other = [Parameter('joints', value=names[::-1])]
    row = one.suffer(lambda: one.arm.node.set_parameters(other), 'hold', f'commands {names[::-1]}')
    one.check_stop(row, 2 * LOOK_S + 0.1)
    one.arm.pause(0.2)  # its last command is on the way
    if spec is VELOCITIES:
        assert stands(one)
    sent = len(one.arm.commands)
    one.arm.pause(0.5)
    assert len(one.arm.commands) == sent
    one.arm.node.set_parameters([Parameter('joints', value=names)])
    one.wait_motion()  # by itself
    one.check_limits()


def without_tracking(spec):
    watch = replace(spec.runtime.watch, tracking_error=None)
    return replace(spec, runtime=replace(spec.runtime, watch=watch))
