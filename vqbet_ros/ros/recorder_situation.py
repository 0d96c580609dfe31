"""What an episode is told of its surroundings: the state of each topic, and the software."""

import os
import platform
from typing import Any

import mcap
from rclpy.serialization import deserialize_message
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import JointState
from vqbet_ros import __version__
from vqbet_ros.data.cdr import header_stamp_ns
from vqbet_ros.errors import BadMessage
from vqbet_ros.recording.readiness import Situation
from vqbet_ros.ros.recorder_streams import TopicInput
from vqbet_ros.spec import JOINT_STATE


def situation(one: TopicInput, now_ns: int) -> Situation:
    """Say what is known of a topic now, for the decision whether an episode can begin."""
    stamp_ns: int | None = None
    joints: tuple[str, ...] | None = None
    wrong = one.problem
    if one.newest is not None:
        try:
            stamp_ns = header_stamp_ns(one.newest, one.expected.type)
        except BadMessage as error:
            wrong = str(error)
        if one.expected.joint_names and one.expected.type == JOINT_STATE:
            messages: list[Any] = [deserialize_message(cdr, JointState) for cdr in one.recent]
            joints = tuple(dict.fromkeys(name for message in messages for name in message.name))
    return Situation(
        topic=one.expected.topic,
        publishers=len(one.offers),
        types=one.types,
        incompatible=wrong,
        newest_receive_ns=one.newest_ns,
        newest_stamp_ns=stamp_ns,
        rate_hz=one.rate_hz(now_ns),
        joint_names=joints,
    )


def versions() -> dict[str, str]:
    """Name the software that records."""
    return {
        'vqbet_ros': __version__,
        'python': platform.python_version(),
        'mcap': mcap.__version__,
        'ros_distro': os.environ.get('ROS_DISTRO', ''),
        'rmw': get_rmw_implementation_identifier(),
        'platform': platform.platform(),
    }
