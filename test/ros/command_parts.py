"""What the tests of commands have in common: actions to be sent."""

from dataclasses import replace
import threading
import time

import pytest
from vqbet_ros.message_types import pose_channels, twist_channels
from vqbet_ros.ros.commands.messages import message_type
from vqbet_ros.spec import ActionSpec, GripperCommand, GripperSpec, JointLimits

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
TWIST = replace(
    POSE,
    kind='twist',
    command_topic='/servo_node/delta_twist_cmds',
    command_interface='servo_twist',
    record_topic='/twist',
    record_type='geometry_msgs/msg/TwistStamped',
    limits={channel: JointLimits((-1.0, 1.0)) for channel in twist_channels('tool0')},
)
JAW = GripperCommand('float64', '/jaw', min_change=0.1, max_rate_hz=10.0)
GRIPPER = GripperSpec('jaw', 'rad', JointLimits((0.0, 1.0)), command=JAW)
HOW = {
    'control_msgs': 'ros-$ROS_DISTRO-control-msgs',
    'controller_manager_msgs': 'ros-$ROS_DISTRO-controller-manager-msgs',
    'interbotix_xs_msgs': 'https://github.com/Interbotix/interbotix_ros_core',
}


def until(condition, what, timeout_s=20.0):
    """Wait for what other threads bring about."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f'{what}: not within {timeout_s:g} s'
        pause.wait(0.01)


def needed(kind):
    """Import a type, or skip the test."""
    package = kind.partition('/')[0]
    pytest.importorskip(package, reason=f'needs {package}: {HOW[package]}')
    return message_type(kind, 'a test')
