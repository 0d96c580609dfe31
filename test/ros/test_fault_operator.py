"""What the robot does when a person, another program or the robot itself says stop."""

from dataclasses import replace
import itertools
import threading
import time

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from fault_judge import seconds
import fault_robot as fault
from lifecycle_msgs.msg import Transition
import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool, Float64MultiArray
from vqbet_ros.ros import qos

pytest_plugins = ['fault_rig']
LOOK_S = 0.5  # that often the node looks who is on its topics


def wait_until(one, condition):
    """Wait while there are no ticks."""
    deadline_s = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline_s
        one.arm.pause(0.02)


def test_disabling_stops_within_the_limits(rig):
    one = rig().start()
    row = one.suffer(lambda: one.enable(False), 'disarmed', 'stopping, then disarmed')
    one.check_stop(row, 0.0)
    one.go()
    one.check_limits()


def test_enabling_again_and_again_stops_the_robot_and_puts_off_no_tick(rig):
    one = rig().start()
    first = len(one.ticks)
    end_s, pause = time.monotonic() + 1.0, threading.Event()
    while time.monotonic() < end_s:
        one.node.pipeline.enable(require_streams=False)
        pause.wait(0.1 * one.judge.period_s)
    moments_s = [tick.at_s for tick in one.ticks[first:] if tick.at_s < end_s]
    assert len(moments_s) > 0.2 / one.judge.period_s  # on a machine that is busy
    one.wait_motion()
    one.check_limits()


def test_an_emergency_stop_silences_the_node_at_once(rig):
    one = rig().start()
    estop = one.arm.node.create_publisher(Bool, '/policy_node/estop', 5)
    one.until(lambda: estop.get_subscription_count() > 0, 'a listener')
    row = one.suffer(lambda: estop.publish(Bool(data=True)), 'fault', 'emergency stop is pressed')
    assert row.standstill_s <= one.judge.period_s + one.slack_s
    silent = [tick for tick in row.ticks if not tick.is_policy]
    assert all(tick.values is None for tick in silent)  # its own brakes stop the robot
    refused = one.reset()
    assert not refused.success
    assert 'emergency stop' in refused.message
    estop.publish(Bool(data=False))
    one.recover()
    one.check_limits()


def test_an_emergency_stop_outlives_the_configuration(rig):
    one = rig()
    estop = one.arm.node.create_publisher(Bool, '/policy_node/estop', 5)
    wait_until(one, lambda: estop.get_subscription_count() > 0)
    estop.publish(Bool(data=True))  # the node is not even configured
    wait_until(one, lambda: one.node._estop.pressed)
    for _ in range(2):
        one.activate()
        answer = one.enable()
        assert not answer.success
        assert 'emergency stop' in answer.message
        assert one.change(Transition.TRANSITION_DEACTIVATE)
        assert one.change(Transition.TRANSITION_CLEANUP)
    estop.publish(Bool(data=False))
    wait_until(one, lambda: not one.node._estop.pressed)
    one.start()


def test_an_emergency_stop_that_was_pressed_before_the_node_was_there_is_heard(rig, graph):
    """By a publisher that keeps its last message; who keeps none cannot take it back."""
    kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    estop = graph.node.create_publisher(Bool, '/policy_node/estop', kept)
    other = graph.node.create_publisher(Bool, '/policy_node/estop', 1)
    estop.publish(Bool(data=True))
    one = rig()
    wait_until(one, lambda: one.node._estop.pressed)
    one.activate()
    wait_until(one, lambda: 'emergency stop' in one.enable().message)
    heard = one.node._estop._switches[0]
    wait_until(one, lambda: other.get_subscription_count() == len(qos.OPERATOR))
    other.publish(Bool(data=True))
    wait_until(one, lambda: heard.pressed)
    other.publish(Bool(data=False))
    wait_until(one, lambda: not heard.pressed)
    assert not one.reset().success
    assert not one.arm.commands
    estop.publish(Bool(data=False))
    one.recover()
    estop.publish(Bool(data=True))
    one.wait('fault', 'emergency stop')


def test_a_reset_without_a_fault_says_so_and_changes_nothing(rig):
    one = rig()
    one.activate()
    assert one.reset().message == 'there is no fault: disarmed'
    one.go()
    answer = one.reset()
    assert answer.success
    assert answer.message == 'there is no fault: running'
    first = len(one.ticks)
    one.wait_ticks(10)
    assert all(tick.is_policy for tick in one.ticks[first:])
    one.node.pipeline.supervisor.fault('a test')
    one.wait('fault')
    assert one.reset().message == 'disarmed'


@pytest.mark.parametrize('how', ['released', 'silent'])
def test_a_deadman_switch_that_is_let_go_stops_the_robot(rig, how):
    watch = replace(fault.SPEC.runtime.watch, deadman_timeout_s=0.6)
    one = rig(replace(fault.SPEC, runtime=replace(fault.SPEC.runtime, watch=watch)))
    one.activate()
    switch = one.arm.node.create_publisher(Bool, '/policy_node/deadman', 5)

    def hold():
        return one.arm.node.create_timer(0.05, lambda: switch.publish(Bool(data=True)))

    def let_go():
        one.arm.node.destroy_timer(held)
        if how == 'released':
            switch.publish(Bool(data=False))

    held = hold()
    one.wait_motion()  # pressing it enables
    row = one.suffer(let_go, 'disarmed', 'deadman switch is released')
    one.check_stop(row, 0.05 if how == 'released' else 0.6)
    assert not one.enable().success
    held = hold()
    one.wait_motion()
    one.check_limits()


def test_a_deadman_switch_that_flickers_stops_the_robot(rig):
    watch = replace(fault.SPEC.runtime.watch, deadman_timeout_s=0.6)
    one = rig(replace(fault.SPEC, runtime=replace(fault.SPEC.runtime, watch=watch)))
    one.activate()
    switch = one.arm.node.create_publisher(Bool, '/policy_node/deadman', 5)
    held = one.arm.node.create_timer(0.05, lambda: switch.publish(Bool(data=True)))
    one.wait_motion()
    one.arm.node.destroy_timer(held)
    pressed = itertools.cycle([False, True])
    one.arm.node.create_timer(0.02, lambda: switch.publish(Bool(data=next(pressed))))
    one.wait_rest()
    stopped = len(one.ticks)
    one.wait_ticks(50)
    one.check_limits()
    # Where it is pressed for as long as a plan takes, it twitches.
    places = [one.arm.position, *(t.values for t in one.ticks[stopped:] if t.values is not None)]
    assert np.ptp(places, axis=0).max() < 0.05


def test_somebody_else_who_commands_the_robot_is_a_fault(rig, graph):
    one, others = rig().start(), []

    def come():
        others.append(graph.node.create_publisher(Float64MultiArray, fault.COMMANDS, 1))

    row = one.suffer(come, 'fault', f'/observer on {fault.COMMANDS}')
    one.check_stop(row, 2 * LOOK_S)
    refused = one.reset()
    assert not refused.success
    assert '/observer' in refused.message
    graph.node.destroy_publisher(others[0])
    one.recover()
    one.check_limits()


def test_a_second_node_of_the_same_name_is_somebody_else(rig, graph):
    one, twins = rig().start(), []
    elsewhere = Context()
    rclpy.init(context=elsewhere, domain_id=graph.domain_id)

    def come():
        twins.append(rclpy.create_node(one.node.get_name(), context=elsewhere))
        twins[0].create_publisher(Float64MultiArray, fault.COMMANDS, 1)

    row = one.suffer(come, 'fault', f'/policy_node on {fault.COMMANDS}')
    one.check_stop(row, 2 * LOOK_S)
    elsewhere.try_shutdown()
    one.recover()
    one.check_limits()


def test_commands_stop_while_nobody_takes_them_and_go_on_from_where_the_robot_is(rig):
    watch = replace(fault.SPEC.runtime.watch, tracking_error=None)  # its fault would come first
    one = rig(replace(fault.SPEC, runtime=replace(fault.SPEC.runtime, watch=watch))).start()
    row = one.suffer(one.arm.be_deaf, 'hold', f'nobody subscribes to {fault.COMMANDS}')
    # Nobody hears the stop, but it is commanded.
    last = [tick for tick in row.ticks if tick.values is not None][-1]
    assert last.at_s - row.ticks[0].at_s <= 2 * LOOK_S + one.judge.stop_s + one.slack_s
    where, heard = one.arm.position, len(one.arm.commands)
    assert np.abs(where - last.values).max() > 0.02  # it was led away from the robot
    one.arm.listen()
    one.wait_motion()  # by itself
    first = np.array(one.arm.commands[heard][1].data)
    assert (np.abs(first - where) <= one.judge.velocity * 5 * one.judge.period_s).all()
    one.check_limits()


def test_an_arm_that_is_stuck_is_a_fault(rig):
    one = rig().start()
    watch = fault.SPEC.runtime.watch
    row = one.suffer(lambda: setattr(one.arm, 'follows', False), 'fault', 'does not follow')
    one.check_stop(row, watch.tracking_error / (one.judge.velocity[0] / 3) + watch.tracking_s)
    # It stopped where it was told to be, not where it is.
    last = [tick.values for tick in row.ticks if tick.values is not None][-1]
    assert np.abs(last - one.arm.position).max() > watch.tracking_error / 2
    one.arm.follows = True
    one.recover()
    one.check_limits()


def test_the_speed_can_be_changed_in_motion(rig):
    one = rig().start()
    for scale in (0.25, 1.0, 0.0, 0.5):
        first, heard = len(one.ticks), len(one.arm.commands)
        assert one.set('speed_scale', scale).successful
        # Down from the largest velocity to the scaled one, and then it is kept.
        one.until(
            lambda first=first: seconds(one.ticks[first:]) > one.judge.stop_s + 1.0, 'a second'
        )
        one.row(one.ticks[first].at_s, first, heard, f'speed_scale {scale}')
        late = [
            i
            for i in range(first, len(one.ticks))
            if seconds(one.ticks[first:i]) > one.judge.stop_s
        ]
        for i in late:
            step = np.abs(one.ticks[i].values - one.ticks[i - 1].values)
            assert (
                step <= scale * one.judge.velocity * one.ticks[i].step_s * (1 + 1e-6) + 1e-9
            ).all()
        if scale == 1.0:
            one.wait_motion()


def test_in_shadow_mode_the_robot_is_not_commanded(rig, graph):
    shadow = graph.listen(Float64MultiArray, '/policy_node/shadow')
    one = rig(shadow=True).start()
    # Further than the robot could be behind: it does not follow, and is not meant to.
    one.until(lambda: seconds(one.ticks) > 2.0, 'two seconds of commands')
    one.wait_motion()
    shadow.wait(count=50)
    assert not one.arm.commands
    one.enable(False)
    one.wait_rest()
    one.check_limits()
