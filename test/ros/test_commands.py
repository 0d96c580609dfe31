"""Commands over real topics: what each interface puts into its messages."""

from dataclasses import replace
import importlib.util
import math

import numpy as np
import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from command_parts import (
    ACTION,
    GRIPPER,
    JAW,
    JOINTS,
    NOW_NS,
    PERIOD_NS,
    POSE,
    TRAJECTORY,
    TWIST,
    VELOCITIES,
)
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.time import Time
from std_msgs.msg import Float64, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory
from vqbet_ros.errors import ConfigError
from vqbet_ros.resources import resource
from vqbet_ros.ros.commands.commands import Commands
from vqbet_ros.ros.commands.messages import message_type
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.runtime.rotation import rotation_6d
from vqbet_ros.spec import CommandOptions, GripperCommand, RobotSpec

pytestmark = pytest.mark.ros
pytest_plugins = ['command_rig']

CONTROL_MSGS = importlib.util.find_spec('control_msgs') is not None
INTERBOTIX = importlib.util.find_spec('interbotix_xs_msgs') is not None


def test_positions_are_forwarded_in_order_and_stopped_by_silence(commander, listen):
    commands = commander(ACTION)
    listener = listen(Float64MultiArray, '/arm/commands')
    commands.send(np.array([0.25, -0.5]), NOW_NS)
    assert list(listener.wait().data) == [0.25, -0.5]
    commands.stop(NOW_NS)
    commands.send(np.array([0.5, 0.5]), NOW_NS)
    assert list(listener.wait(count=2).data) == [0.5, 0.5], 'a stop sends nothing'


def test_velocities_are_stopped_by_zeros_once(commander, listen):
    commands = commander(VELOCITIES)
    listener = listen(Float64MultiArray, '/arm/commands')
    commands.stop(NOW_NS)  # nothing was sent: nothing to stop
    commands.send(np.array([0.25, -0.5]), NOW_NS)
    commands.stop(NOW_NS)
    commands.stop(NOW_NS)
    commands.send(np.array([0.1, 0.1]), NOW_NS)
    listener.wait(count=3)
    sent = [list(message.data) for message in listener.messages]
    assert sent == [[0.25, -0.5], [0.0, 0.0], [0.1, 0.1]]


def seconds(point):
    return point.time_from_start.sec + point.time_from_start.nanosec / 1e9


def test_a_point_a_tick_and_where_it_comes_to_rest(commander, listen):
    commands = commander(replace(TRAJECTORY, command_options=CommandOptions(stop_s=0.5)))
    assert not commands.takes_courses
    listener = listen(JointTrajectory, '/arm/commands')
    places = [(0.25, -0.5), (0.26, -0.5), (0.27, -0.5), (0.27, -0.5)]  # a: 0.5 rad/s, then none
    for i, place in enumerate(places):
        commands.send(np.array(place), NOW_NS + i * PERIOD_NS)
        listener.wait(count=i + 1)
    commands.stop(NOW_NS + len(places) * PERIOD_NS)
    commands.send(np.array([0.3, -0.5]), NOW_NS + 5 * PERIOD_NS)  # begins anew, at rest
    listener.wait(count=5)
    for message, place in zip(listener.messages, [*places, (0.3, -0.5)], strict=True):
        assert message.header.stamp == Time(nanoseconds=0).to_msg(), 'at once'
        assert list(message.joint_names) == list(JOINTS)
        assert list(message.points[0].positions) == list(place)
        assert seconds(message.points[0]) == PERIOD_NS / 1e9
        assert list(message.points[-1].velocities) == [0.0, 0.0]
    assert [len(message.points) for message in listener.messages] == [1, 2, 2, 1, 1]
    passed, rest = listener.messages[2].points
    assert list(passed.velocities) == pytest.approx([0.5, 0.0])
    assert list(rest.positions) == pytest.approx([0.27 + 0.5 * 0.5 / 2, -0.5])
    assert seconds(rest) == pytest.approx(PERIOD_NS / 1e9 + 0.5)


def test_the_rest_of_a_chunk_and_its_stop(commander, listen):
    commands = commander(
        replace(TRAJECTORY, command_options=CommandOptions(trajectory='chunk', stop_s=0.5))
    )
    assert commands.takes_courses
    listener = listen(JointTrajectory, '/arm/commands')
    actions = np.stack([np.arange(1, 9) * 0.05, np.zeros(8)], axis=1)  # 0.5 rad/s at 10 Hz
    chunk = Chunk(NOW_NS - 220_000_000, actions, 100_000_000, 1.0, 1)
    due = np.array([9.0, 9.0])
    commands.follow(due, None, NOW_NS)  # a course is under way: no single commands
    commands.follow(due, chunk, NOW_NS)
    message = listener.wait()
    assert Time.from_msg(message.header.stamp).nanoseconds == NOW_NS
    times_ms = [p.time_from_start.nanosec // 10**6 for p in message.points]
    assert times_ms == [80, 180, 280, 380, 480, 580]
    assert [p.positions[0] for p in message.points] == actions[2:, 0].tolist()
    assert [p.velocities[0] for p in message.points] == pytest.approx([0.5] * 5 + [0.0])
    commands.stop(NOW_NS + 180_000_000)
    commands.stop(NOW_NS + 180_000_000)
    (point,) = listener.wait(count=2).points
    assert list(point.positions) == pytest.approx([0.2 + 0.5 * 0.5 / 2, 0.0])
    assert list(point.velocities) == [0.0, 0.0]
    assert seconds(point) == 0.5
    past = replace(chunk, t_obs_ns=NOW_NS - 10**10)
    commands.follow(due, past, NOW_NS)  # nothing is left of it
    commands.follow(due, chunk, NOW_NS)
    assert len(listener.wait(count=3).points) == 6
    # Points go on from the course that was under way.
    commands.send(np.array([0.21, 0.0]), NOW_NS + 180_000_000)
    message = listener.wait(count=4)
    assert Time.from_msg(message.header.stamp).nanoseconds == 0
    assert [list(p.velocities) for p in message.points] == [pytest.approx([0.5, 0.0]), [0.0, 0.0]]


@pytest.mark.parametrize('jump_s', [-10, 10])
@pytest.mark.parametrize('trajectory', ['point', 'chunk'])
def test_a_clock_that_jumps_changes_no_velocity(commander, listen, trajectory, jump_s):
    steady_ns = [0]
    commands = commander(
        replace(TRAJECTORY, command_options=CommandOptions(trajectory=trajectory)),
        steady=lambda: steady_ns[0],
    )
    listener = listen(JointTrajectory, '/arm/commands')
    speed = np.array([0.5, 0.0])
    if trajectory == 'chunk':
        way = speed * PERIOD_NS / 1e9 * np.arange(1, 21)[:, None]
        commands.follow(way[0], Chunk(NOW_NS, way, PERIOD_NS, 1.0, 1), NOW_NS)
        listener.wait()
    for i in range(1, 5):
        steady_ns[0] = i * PERIOD_NS
        now_ns = NOW_NS + steady_ns[0] + jump_s * 10**9 * (i > 2)
        if trajectory == 'point' or i > 2:  # the jump holds the arm, point by point
            commands.send(speed * (steady_ns[0] + PERIOD_NS) / 1e9, now_ns)
    listener.wait(count=3 if trajectory == 'chunk' else 4)
    for message in listener.messages[-2:]:
        assert list(message.points[0].velocities) == pytest.approx([0.5, 0.0])
    commands.stop(now_ns)


@pytest.mark.parametrize('interface', ['cartesian_pose', 'servo_pose'])
def test_poses(commander, listen, interface):
    commands = commander(replace(POSE, command_interface=interface))
    listener = listen(PoseStamped, '/target_pose')
    for i, angle in enumerate(np.linspace(0, 4 * math.pi, 41)):
        truth = np.array([0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2)])
        commands.send(np.array([0.1, 0.2, 0.3, *rotation_6d(truth)]), NOW_NS + i)
        listener.wait(count=i + 1)
    commands.stop(NOW_NS)
    before = None
    for i, message in enumerate(listener.messages):
        assert message.header.frame_id == 'base_link'
        assert Time.from_msg(message.header.stamp).nanoseconds == NOW_NS + i
        position, q = message.pose.position, message.pose.orientation
        assert (position.x, position.y, position.z) == (0.1, 0.2, 0.3)
        found = np.array([q.x, q.y, q.z, q.w])
        assert math.isclose(float(np.linalg.norm(found)), 1.0, abs_tol=1e-9)
        assert before is None or before @ found > 0.9, 'the sign flips'
        before = found


def test_twists(commander, listen):
    commands = commander(TWIST)
    listener = listen(TwistStamped, '/servo_node/delta_twist_cmds')
    commands.send(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), NOW_NS)
    commands.stop(NOW_NS + 5)
    commands.stop(NOW_NS + 6)
    listener.wait(count=2)
    moving, still = listener.messages
    assert moving.header.frame_id == still.header.frame_id == 'base_link'
    linear, angular = moving.twist.linear, moving.twist.angular
    assert (linear.x, linear.y, linear.z) == (0.1, 0.2, 0.3)
    assert (angular.x, angular.y, angular.z) == (0.4, 0.5, 0.6)
    assert still.twist == TwistStamped().twist
    assert Time.from_msg(still.header.stamp).nanoseconds == NOW_NS + 5


@pytest.mark.parametrize(
    ('interface', 'kind'), [('float64', Float64), ('float64_array', Float64MultiArray)]
)
def test_a_gripper_on_a_topic(commander, listen, interface, kind):
    command = replace(JAW, interface=interface)
    commands = commander(replace(ACTION, gripper=replace(GRIPPER, command=command)))
    arm = listen(Float64MultiArray, '/arm/commands')
    jaw = listen(kind, '/jaw')
    for i, target in enumerate([0.2, 0.25, 0.9]):
        commands.send(np.array([0.0, 0.0, target]), NOW_NS + i * 10**9)
    assert len(arm.wait(count=3).data) == len(JOINTS)
    jaw.wait(count=2)
    data = [message.data for message in jaw.messages]
    assert [value if kind is Float64 else value[0] for value in data] == [0.2, 0.9]


@pytest.mark.skipif(CONTROL_MSGS, reason='control_msgs is installed')
@pytest.mark.parametrize('interface', ['gripper_command', 'parallel_gripper_command'])
def test_missing_packages_are_all_named_at_configure(sender, interface):
    command = GripperCommand(interface, '/jaw/gripper_cmd')
    action = replace(
        VELOCITIES, command_interface='servo_joint', gripper=replace(GRIPPER, command=command)
    )
    before = len(list(sender.publishers))
    with pytest.raises(ConfigError) as error:
        Commands(action, PERIOD_NS).configure(sender)
    message = str(error.value)
    assert "command_interface 'servo_joint' needs control_msgs/msg/JointJog" in message
    assert f"gripper interface '{interface}' needs control_msgs/action/" in message
    assert message.count('sudo apt install ros-$ROS_DISTRO-control-msgs') == 2
    assert len(list(sender.publishers)) == before


@pytest.mark.skipif(INTERBOTIX, reason='interbotix_xs_msgs is installed')
def test_a_missing_package_of_the_arm_leaves_no_gripper_behind(sender):
    action = replace(ACTION, command_interface='joint_group', gripper=GRIPPER)
    before = len(list(sender.publishers))
    with pytest.raises(ConfigError, match='interbotix_ros_core'):
        Commands(action, PERIOD_NS).configure(sender)
    assert len(list(sender.publishers)) == before


def test_what_cannot_be_commanded_is_refused():
    with pytest.raises(ConfigError, match="'forward_position', which takes kind 'joints'"):
        Commands(replace(POSE, command_interface='forward_position'), PERIOD_NS)
    with pytest.raises(ConfigError, match=r'gripper\.command: got null'):
        Commands(replace(ACTION, gripper=replace(GRIPPER, command=None)), PERIOD_NS)


ROBOTS = sorted(resource('config/robots/pusht.yaml').parent.glob('*.yaml'))


@pytest.mark.parametrize('path', ROBOTS, ids=lambda path: path.stem)
def test_every_shipped_spec_is_commanded_with_its_own_message(path, commander, listen):
    action = RobotSpec.from_yaml(path).action
    command = None if action.gripper is None else action.gripper.command
    if action.gripper is not None and command is None:
        with pytest.raises(ConfigError, match=r'gripper\.command'):
            Commands(action, PERIOD_NS)
        return
    by_action = command is not None and command.is_action
    interbotix = action.command_interface == 'joint_group'
    if (by_action and not CONTROL_MSGS) or (interbotix and not INTERBOTIX):
        with pytest.raises(ConfigError, match='cannot be imported here'):
            commander(action)
        if interbotix:
            return
        action = replace(action, gripper=None)  # the arm alone: its own message is there
    kinds = {
        'forward_position': lambda: Float64MultiArray,
        'joint_trajectory': lambda: JointTrajectory,
        'joint_group': lambda: message_type('interbotix_xs_msgs/msg/JointGroupCommand', 'ALOHA'),
    }
    commands = commander(action)
    listener = listen(kinds[action.command_interface](), action.command_topic)
    values = np.array([sum(action.limits[name].position) / 2 for name in action.arm_channels])
    commands.send(np.append(values, [0.5] * (action.gripper is not None)), NOW_NS)
    message = listener.wait()
    if interbotix:
        assert message.name == action.command_options.group
        assert list(message.cmd) == values.astype(np.float32).tolist()
    elif isinstance(message, Float64MultiArray):
        assert list(message.data) == values.tolist()
    else:
        assert list(message.joint_names) == list(action.names)
        assert list(message.points[0].positions) == values.tolist()
