"""What the robot does when its policy fails, or is given another goal while it moves."""

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

import cv2
import fault_robot as fault
from lifecycle_msgs.msg import Transition
import numpy as np
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from std_msgs.msg import Bool
from vqbet_ros.runtime.gate import ReasonKind

pytest_plugins = ['fault_rig']
# A plan is made every 3 steps, and its thread may have begun to wait just before the fault.
NEXT_PLAN_S = 3 * 0.1 + 0.1
CHUNK_S = 8 * 0.1


def without_deadline():
    watch = replace(fault.SPEC.runtime.watch, inference_deadline_s=None)
    return replace(fault.SPEC, runtime=replace(fault.SPEC.runtime, watch=watch))


@pytest.mark.parametrize(
    ('spec', 'reason', 'after_s'),
    [
        (fault.SPEC, 'inference takes too long', NEXT_PLAN_S + 0.4),
        (without_deadline(), 'plan has ended', CHUNK_S),
    ],
    ids=['deadline', 'end of the plan'],
)
def test_a_policy_that_is_slow_holds_the_robot_until_it_answers(rig, spec, reason, after_s):
    one, stuck = rig(spec).start(), fault.Stuck()
    row = one.suffer(lambda: setattr(one.policy, 'spoil', stuck), 'hold', reason)
    one.check_stop(row, after_s)
    late = one.policy.plans[-1][0]
    one.policy.spoil = lambda actions: actions
    stuck.go.set()
    one.wait_motion()  # by itself
    one.check_limits()
    # What it answered at last was for a time that is over.
    followed = {tick.outcome.t_obs_ns for tick in row.ticks + one.ticks if tick.is_policy}
    assert late not in followed


def test_a_plan_that_was_begun_before_enabling_anew_is_not_followed(rig):
    one, stuck = rig(without_deadline()).start(), fault.Stuck()
    one.policy.spoil = stuck
    assert stuck.came.wait(20.0)
    late, first = one.policy.plans[-1][0], len(one.ticks)
    assert one.enable().success  # in motion
    one.policy.spoil = lambda actions: actions
    stuck.go.set()
    one.wait_motion()
    followed = {tick.outcome.t_obs_ns for tick in one.ticks[first:] if tick.is_policy}
    assert late not in followed
    assert one.node.pipeline.supervisor.rejected[ReasonKind.OLD_CHUNK] >= 1
    one.check_limits()


@pytest.mark.parametrize('kind', ['step', 'linear', 'cubic'])
def test_plans_of_a_single_step(rig, kind):
    """They have nothing in reserve: what they cannot cover is held."""
    spec = replace(fault.SPEC, runtime=replace(fault.SPEC.runtime, interpolation=kind))
    one = rig(policy=fault.Circle(spec, chunk=1))
    one.activate()
    while not one.enable().success:
        one.wait_ticks(2)
    one.until(lambda: sum(tick.is_policy for tick in one.ticks) > 50, 'a second of plans')
    one.check_limits()


def nan(actions):
    actions[3, 1] = np.nan
    return actions


def far_away(actions):
    return actions + 9000.0


def wild(actions):
    actions[::2], actions[1::2] = one_end, other_end
    return actions


one_end, other_end = (-0.4, -1.6), (1.4, 0.2)


def wrong_shape(actions):
    return actions[:, :1]


def error(actions):
    raise RuntimeError('out of luck')


def test_a_policy_that_fails_stops_the_robot_until_somebody_resets_it(rig):
    one = rig().start()
    for spoil, reason in (
        (nan, 'numbers are not finite'),
        (far_away, 'is outside [-0.5, 1.5]'),
        (wild, 'per s, limit 1 between steps'),
        (wrong_shape, 'actions have shape (8, 1), expected (W, 2)'),
        (error, 'RuntimeError: out of luck'),
    ):
        row = one.suffer(lambda spoil=spoil: setattr(one.policy, 'spoil', spoil), 'fault', reason)
        one.check_stop(row, NEXT_PLAN_S)
        one.policy.spoil = lambda actions: actions
        refused = one.enable()
        assert not refused.success
        assert reason in refused.message
        assert one.reset().success
        one.wait('disarmed')
        one.go()
    one.check_limits()


def test_a_plan_that_is_a_little_too_far_is_clamped_and_counted(rig):
    one = rig().start()
    first = len(one.ticks)
    one.policy.spoil = lambda actions: actions + np.array([0.75, 0.0])  # up to 0.13 outside
    top = one.judge.high[0]
    one.until(lambda: one.ticks[-1].values[0] >= top - 1e-3, 'at the end of the range')
    one.check_limits()
    assert all(tick.is_policy for tick in one.ticks[first:])
    assert one.node.pipeline.clips()['shoulder', 'position'] >= 1


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_dead_inference_is_a_fault_until_the_node_is_activated_again(rig):
    def die(actions):
        raise SystemExit('the library ended its thread')

    one = rig().start()
    row = one.suffer(lambda: setattr(one.policy, 'spoil', die), 'fault', 'inference has ended')
    one.check_stop(row, NEXT_PLAN_S)
    one.policy.spoil = lambda actions: actions
    refused = one.reset()
    assert not refused.success
    assert 'inference has ended' in refused.message
    assert one.change(Transition.TRANSITION_DEACTIVATE)
    assert one.change(Transition.TRANSITION_ACTIVATE)
    one.wait_ticks(2)
    assert one.reset().success
    one.go()
    one.check_limits()


def test_a_new_goal_counts_within_two_ticks(rig, tmp_path):
    one = rig(policy=fault.Circle(goal_steps=1), plan_every=6).start()  # old plans would go on
    camera, before = fault.SPEC.cameras[0], one.policy.centre
    picture = np.full((camera.height, camera.width, 3), 51, np.uint8)  # the circle shifts by 0.2
    cv2.imwrite(str(tmp_path / 'goal.png'), picture)
    asked, heard = len(one.ticks), len(one.arm.commands)
    assert one.set('goal', str(tmp_path / 'goal.png')).successful
    one.until(lambda: one.policy.centre is not before, 'the new goal')
    changed = len(one.ticks)

    def after():
        """Return the ticks of the policy from two ticks after the change on."""
        return [tick for tick in one.ticks[changed + 2 :] if tick.is_policy]

    def arrived():
        recent = [np.linalg.norm(tick.values - one.policy.centre) for tick in after()[-10:]]
        return len(recent) == 10 and np.ptp(recent) < 0.02

    one.until(arrived, 'on the new circle')
    row = one.row(one.ticks[asked].at_s, asked, heard, 'goal changed')
    goals = dict(one.policy.plans)  # the later one, where one observation was for both
    assert not [tick for tick in after() if goals[tick.outcome.t_obs_ns] is before]
    wait_s = after()[0].at_s - one.ticks[changed].at_s
    print(f'first command for the new goal after {wait_s:.2f} s')
    assert wait_s <= 0.1 + one.slack_s  # the next picture that is worth a plan
    assert row.worst_step <= 1 + 1e-6
    # One that cannot be read changes nothing.
    kept = one.policy.centre
    one.set('goal', str(tmp_path / 'nowhere.png'))
    one.wait_ticks(25)
    assert one.policy.centre is kept
    one.wait_motion()


def test_a_goal_for_a_policy_that_hangs_is_refused_and_the_emergency_stop_is_heard(rig, tmp_path):
    one, stuck = rig(policy=fault.Circle(goal_steps=1)).start(), fault.Stuck()
    estop = one.arm.node.create_publisher(Bool, '/policy_node/estop', 5)
    one.until(lambda: estop.get_subscription_count() > 0, 'a listener')
    camera = fault.SPEC.cameras[0]
    cv2.imwrite(str(tmp_path / 'goal.png'), np.zeros((camera.height, camera.width, 3), np.uint8))
    one.policy.spoil = stuck
    assert stuck.came.wait(20.0)
    one.status.clear()
    assert one.enable(False).success
    one.wait('disarmed')
    answer = one.set('goal', str(tmp_path / 'goal.png'))
    assert not answer.successful
    assert 'the policy has not come back from a decision' in answer.reason
    estop.publish(Bool(data=True))
    one.wait('fault', 'emergency stop')
    one.policy.spoil = lambda actions: actions
    stuck.go.set()
    estop.publish(Bool(data=False))
    one.recover()
    assert one.node.get_parameter('goal').value == ''
    one.check_limits()


def test_parameters_that_are_refused_change_nothing(rig, tmp_path):
    one = rig(policy=fault.Circle(goal_steps=1))
    one.activate()
    for value in (float('nan'), 1.5, -0.1, 'fast', True):
        assert not one.set('speed_scale', value).successful
    for value in (float(np.nextafter(np.float32(1), np.float32(2))), -1e-12, 1.0):  # a rounding
        one.set('speed_scale', value)
        assert 0.0 <= one.node.pipeline.supervisor._scale <= 1.0
    # Together, the speed is not changed either where the goal is refused.
    together: dict[str, Any] = {'speed_scale': 0.1, 'goal': 'nowhere.png'}
    messages = [Parameter(key, value=value).to_parameter_msg() for key, value in together.items()]
    request = SetParametersAtomically.Request(parameters=messages)
    name = '/policy_node/set_parameters_atomically'
    assert not one.graph.call(SetParametersAtomically, name, request).result.successful
    one.go()  # faster than that
    one.check_limits()


def test_a_policy_that_fails_on_a_goal_leaves_the_node_alive(rig, tmp_path, monkeypatch):
    one = rig(policy=fault.Circle(goal_steps=1))
    one.activate()

    def fail(*_):
        raise RuntimeError('out of luck')

    camera = fault.SPEC.cameras[0]
    cv2.imwrite(str(tmp_path / 'goal.png'), np.zeros((camera.height, camera.width, 3), np.uint8))
    monkeypatch.setattr(one.policy, 'set_goal', fail)
    answer = one.set('goal', str(tmp_path / 'goal.png'))
    assert not answer.successful
    assert 'RuntimeError: out of luck' in answer.reason
    one.go()
