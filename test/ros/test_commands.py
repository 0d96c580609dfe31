"""Commands over real topics: what each interface puts into its messages."""

from dataclasses import replace
import importlib.util
import math
import threading
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from geometry_msgs.msg import PoseStamped, TwistStamped
import rclpy
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from std_msgs.msg import Float64, Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory
from vqbet_ros.errors import ConfigError
from vqbet_ros.message_types import pose_channels, twist_channels
from vqbet_ros.resources import resource
from vqbet_ros.ros.commands.active_check import inactive
from vqbet_ros.ros.commands.commands import Commands
from vqbet_ros.ros.commands.gripper_action import goal_of
from vqbet_ros.ros.commands.servo_joint import jog
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.runtime.rotation import rotation_6d
from vqbet_ros.spec import (
    ActionSpec,
    CommandOptions,
    GripperCommand,
    GripperSpec,
    JointLimits,
    RobotSpec,
)

pytestmark = pytest.mark.ros

PERIOD_NS = 20_000_000
NOW_NS = 1_700_000_000_123_456_789
JOINTS = ('a', 'b')
ACTION = ActionSpec(
    names=JOINTS,
    unit='rad',
    command_topic='/arm/commands',
    record_topic=None,
    limits={name: JointLimits((-1.0, 1.0)) for name in JOINTS},
)
VELOCITIES = replace(
    ACTION,
    unit='rad/s',
    command_interface='forward_velocity',
    record_topic='/velocities',
    record_type='std_msgs/msg/Float64MultiArray',
)
TRAJECTORY = replace(ACTION, command_interface='joint_trajectory')
POSE = ActionSpec(
    names=('tool0',),
    unit='m',
    kind='pose',
    frame_id='base_link',
    command_topic='/target_pose',
    command_interface='cartesian_pose',
    record_topic='/target_pose',
    record_type='geometry_msgs/msg/PoseStamped',
    limits={channel: JointLimits((-1.0, 1.0)) for channel in pose_channels('tool0')[:3]},
)
TWIST = ActionSpec(
    names=('tool0',),
    unit='m',
    kind='twist',
    frame_id='base_link',
    command_topic='/servo_node/delta_twist_cmds',
    command_interface='servo_twist',
    record_topic='/twist',
    record_type='geometry_msgs/msg/TwistStamped',
    limits={channel: JointLimits((-1.0, 1.0)) for channel in twist_channels('tool0')},
)
JAW = GripperCommand('float64', '/jaw', min_change=0.1, max_rate_hz=10.0)
GRIPPER = GripperSpec('jaw', 'rad', JointLimits((0.0, 1.0)), command=JAW)
CONTROL_MSGS = importlib.util.find_spec('control_msgs') is not None
INTERBOTIX = importlib.util.find_spec('interbotix_xs_msgs') is not None


@pytest.fixture
def commander(graph):
    """Make an active lifecycle node that sends an action's commands."""
    made = []
    node = graph.add(LifecycleNode('commander', context=graph.context))

    def make(action):
        commands = Commands(action, PERIOD_NS)
        made.append(commands)
        commands.configure(node)
        node.trigger_configure()
        node.trigger_activate()
        return commands

    yield make
    for commands in made:
        commands.close()
        commands.close()


def until(condition, what, timeout_s=20.0):
    """Wait for what other threads bring about."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f'{what}: not within {timeout_s:g} s'
        pause.wait(0.01)


@pytest.fixture
def listen(graph):
    """Subscribe to what a commander publishes, and wait until both have found each other."""

    def make(kind, topic):
        listener = graph.listen(kind, topic)
        node = next(n for n, _, _ in graph._spinning if n.get_name() == 'commander')
        publisher = next(p for p in node.publishers if p.topic_name == topic)
        until(lambda: publisher.get_subscription_count() > 0, f'a subscription to {topic}')
        return listener

    return make


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


def test_a_point_a_tick(commander, listen):
    commands = commander(TRAJECTORY)
    listener = listen(JointTrajectory, '/arm/commands')
    commands.send(np.array([0.25, -0.5]), NOW_NS)
    message = listener.wait()
    assert message.header.stamp == Time(nanoseconds=0).to_msg(), 'at once'
    assert list(message.joint_names) == list(JOINTS)
    (point,) = message.points
    assert list(point.positions) == [0.25, -0.5]
    assert list(point.velocities) == [0.0, 0.0]
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, PERIOD_NS)
    commands.stop(NOW_NS)
    options = CommandOptions(reach_s=1.5)
    slow = Commands(replace(TRAJECTORY, command_options=options), PERIOD_NS)
    assert not slow.takes_courses


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
    assert point.time_from_start.nanosec == 500_000_000
    past = replace(chunk, t_obs_ns=NOW_NS - 10**10)
    commands.follow(due, past, NOW_NS)  # nothing is left of it
    commands.follow(due, chunk, NOW_NS)
    assert len(listener.wait(count=3).points) == 6


@pytest.mark.parametrize(
    ('states', 'problem'),
    [
        ([('arm', 'active'), ('other', 'inactive')], None),
        ([], None),  # a controller of another manager
        ([('arm', 'inactive')], 'arm is inactive: ros2 control switch_controllers --activate arm'),
        ([('arm', 'unconfigured')], 'arm is unconfigured'),
    ],
)
def test_a_controller_that_is_not_active_is_a_problem(states, problem):
    found = inactive('arm', states)
    assert found is None if problem is None else found is not None and problem in found


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


def controller(graph, name, **parameters):
    """A node that answers for its parameters as a controller does."""
    node = rclpy.create_node(name, context=graph.context)
    for key, value in parameters.items():
        node.declare_parameter(key, value)
    return graph.add(node)


def test_an_order_that_differs_from_the_controllers_is_found_and_nothing_is_sent(graph, commander):
    commands = commander(ACTION)
    assert commands.problem is None, 'nobody answers yet'
    controller(graph, 'arm', joints=['b', 'a'])
    until(lambda: commands.problem is not None, 'the answer of the controller')
    assert commands.problem is not None
    assert "/arm commands ['b', 'a'], the spec ['a', 'b']" in commands.problem
    with pytest.raises(ConfigError, match='names and order must be the same'):
        commands.send(np.array([0.25, -0.5]), NOW_NS)


def test_the_same_order_is_no_problem(graph, commander, listen):
    controller(graph, 'arm', joints=['a', 'b'])
    commands = commander(ACTION)
    until(lambda: commands._arm._check.answered, 'the answer of the controller')
    assert commands.problem is None
    listener = listen(Float64MultiArray, '/arm/commands')
    commands.send(np.array([0.25, -0.5]), NOW_NS)
    listener.wait()


@pytest.mark.parametrize('partial', [False, True])
def test_a_trajectory_controller_may_have_another_order_but_not_other_joints(
    graph, commander, partial
):
    controller(graph, 'arm', joints=['c', 'b', 'a'], allow_partial_joints_goal=partial)
    commands = commander(TRAJECTORY)
    until(lambda: commands._arm._check.answered, 'the answer of the controller')
    assert (commands.problem is None) == partial


def test_a_controller_without_the_parameter_is_not_asked_again(graph, commander):
    controller(graph, 'arm')
    commands = commander(ACTION)
    until(lambda: commands._arm._check._timer.is_canceled(), 'the answer of the controller')
    assert commands.problem is None


@pytest.mark.skipif(CONTROL_MSGS, reason='control_msgs is installed')
@pytest.mark.parametrize('interface', ['gripper_command', 'parallel_gripper_command'])
def test_missing_packages_are_all_named_at_configure(graph, interface):
    command = GripperCommand(interface, '/jaw/gripper_cmd')
    action = replace(
        VELOCITIES, command_interface='servo_joint', gripper=replace(GRIPPER, command=command)
    )
    node = graph.add(LifecycleNode('commander', context=graph.context))
    before = len(list(node.publishers))
    with pytest.raises(ConfigError) as error:
        Commands(action, PERIOD_NS).configure(node)
    message = str(error.value)
    assert "command_interface 'servo_joint' needs control_msgs/msg/JointJog" in message
    assert f"gripper interface '{interface}' needs control_msgs/action/" in message
    assert message.count('sudo apt install ros-$ROS_DISTRO-control-msgs') == 2
    assert len(list(node.publishers)) == before


@pytest.mark.skipif(INTERBOTIX, reason='interbotix_xs_msgs is installed')
def test_a_missing_package_of_the_arm_leaves_no_gripper_behind(graph):
    action = replace(ACTION, command_interface='joint_group', gripper=GRIPPER)
    node = graph.add(LifecycleNode('commander', context=graph.context))
    before = len(list(node.publishers))
    with pytest.raises(ConfigError, match='interbotix_ros_core'):
        Commands(action, PERIOD_NS).configure(node)
    assert len(list(node.publishers)) == before


def test_what_cannot_be_commanded_is_refused():
    with pytest.raises(ConfigError, match="'forward_position', which takes kind 'joints'"):
        Commands(replace(POSE, command_interface='forward_position'), PERIOD_NS)
    with pytest.raises(ConfigError, match=r'gripper\.command: got null'):
        Commands(replace(ACTION, gripper=replace(GRIPPER, command=None)), PERIOD_NS)


class Fields:
    """A stand-in for a message type that is not installed: it has these fields and no others."""

    names: set[str]

    def __init__(self, **fields):
        self.__dict__.update(fields)
        self.__dict__['names'] = set(fields)

    def __setattr__(self, name, value):
        assert name in self.names, f'the message has no field {name}'
        self.__dict__[name] = value


def jog_type(**given):
    """The fields of control_msgs/JointJog (6.8.0)."""
    fields = {'header': Header(), 'joint_names': [], 'displacements': [], 'velocities': []}
    message = Fields(**fields, duration=0.0)
    for name, value in given.items():
        setattr(message, name, value)
    return message


def test_joint_jogs():
    action = replace(VELOCITIES, command_interface='servo_joint', frame_id='base_link')
    message = jog(jog_type, action, [0.1, 0.2], now_ns=NOW_NS, duration_s=0.02)
    assert (message.joint_names, message.velocities) == (['a', 'b'], [0.1, 0.2])
    assert (message.displacements, message.duration) == ([], 0.02)
    assert message.header.frame_id == 'base_link'
    assert Time.from_msg(message.header.stamp).nanoseconds == NOW_NS


class GripperGoals:
    """The fields of control_msgs' GripperCommand action (6.8.0)."""

    @staticmethod
    def Goal():  # noqa: N802 - its name there
        return Fields(command=Fields(position=0.0, max_effort=0.0))


class ParallelGoals:
    """The fields of control_msgs' ParallelGripperCommand action (6.8.0)."""

    @staticmethod
    def Goal():  # noqa: N802 - its name there
        return Fields(command=None)


def test_goals_of_grippers():
    plain = GripperCommand('gripper_command', '/jaw')
    strong = replace(plain, max_effort=20.0)
    goal = goal_of(GripperGoals, GRIPPER, strong, 0.3)
    assert (goal.command.position, goal.command.max_effort) == (0.3, 20.0)
    assert goal_of(GripperGoals, GRIPPER, plain, 0.3).command.max_effort == 0.0
    plain = GripperCommand('parallel_gripper_command', '/jaw')
    strong = replace(plain, max_effort=20.0)
    state = goal_of(ParallelGoals, GRIPPER, strong, 0.3).command
    assert (list(state.name), list(state.position)) == (['jaw'], [0.3])
    assert (list(state.velocity), list(state.effort)) == ([], [20.0])
    assert not goal_of(ParallelGoals, GRIPPER, plain, 0.3).command.effort


ROBOTS = sorted(resource('config/robots/pusht.yaml').parent.glob('*.yaml'))


@pytest.mark.parametrize('path', ROBOTS, ids=lambda path: path.stem)
def test_every_shipped_spec_is_commanded_with_its_own_message(path, graph, commander, listen):
    action = RobotSpec.from_yaml(path).action
    command = None if action.gripper is None else action.gripper.command
    if action.gripper is not None and command is None:
        with pytest.raises(ConfigError, match=r'gripper\.command'):
            Commands(action, PERIOD_NS)
        return
    by_action = command is not None and command.interface.endswith('gripper_command')
    interbotix = action.command_interface == 'joint_group'
    if (by_action and not CONTROL_MSGS) or (interbotix and not INTERBOTIX):
        with pytest.raises(ConfigError, match='cannot be imported here'):
            commander(action)
        if interbotix:
            return
        action = replace(action, gripper=None)  # the arm alone: its own message is there
    kinds = {'forward_position': Float64MultiArray, 'joint_trajectory': JointTrajectory}
    commands = commander(action)
    listener = listen(kinds[action.command_interface], action.command_topic)
    values = np.array([sum(action.limits[name].position) / 2 for name in action.channels])
    commands.send(values, NOW_NS)
    message = listener.wait()
    if isinstance(message, Float64MultiArray):
        assert list(message.data) == values.tolist()
    else:
        assert list(message.joint_names) == list(action.names)
        assert list(message.points[0].positions) == values.tolist()
