"""What a recording must hold: the topics of a spec, with the rates and ages that it promises."""

from collections.abc import Iterable
from dataclasses import dataclass

from vqbet_ros.spec import COMPRESSED_IMAGE, IMAGE, RobotSpec


@dataclass(frozen=True)
class Expected:
    """One topic that is recorded.

    Attributes:
        stream: Name for people: the camera's name, 'action', or the topic.
        topic: Absolute ROS topic.
        type: ROS message type; empty where any type will do.
        rate_hz: Rate that the spec promises; None where it says nothing.
        max_age_ns: The age at which the robot would stop for want of newer data; None likewise.
        is_camera: Whether each message is a picture, which never repeats itself.
        needed: Whether an episode is worthless without it.
        joint_names: Joints that each of its messages must name; empty where there are none.
    """

    stream: str
    topic: str
    type: str = ''
    rate_hz: float | None = None
    max_age_ns: int | None = None
    is_camera: bool = False
    needed: bool = True
    joint_names: tuple[str, ...] = ()


def expected_streams(spec: RobotSpec, extra_topics: Iterable[str] = ()) -> tuple[Expected, ...]:
    """List what is recorded for a robot, each topic once.

    Args:
        spec: Its cameras, its proprioception and the demonstrator's commands are needed.
        extra_topics: Recorded beside them when they are there, of any type.

    Returns:
        Cameras, proprioception, 'action', 'gripper' if it has its own topic, extra topics.
    """
    streams = [
        Expected(c.name, c.topic, c.type, c.rate_hz, c.max_age_ns, is_camera=True)
        for c in spec.cameras
    ]
    for part in spec.state:
        joints = part.names if _has_joint_names(part.type) else ()
        streams.append(
            Expected(
                part.stream,
                part.topic,
                part.type,
                part.rate_hz,
                part.max_age_ns,
                joint_names=joints,
            )
        )
    for source in spec.action.sources:
        joints = source.names if _has_joint_names(source.type) else ()
        # When the demonstrator moves, and so how often there are commands, no spec can say.
        streams.append(Expected(source.label, source.topic, source.type, joint_names=joints))
    streams += [Expected(topic, topic, needed=False) for topic in extra_topics]
    by_topic: dict[str, Expected] = {}
    for stream in streams:
        by_topic.setdefault(stream.topic, stream)
    return tuple(by_topic.values())


def transports(stream: Expected) -> tuple[tuple[str, str], ...]:
    """List on which topics a stream may come, the preferred one first.

    Returns:
        Pairs of topic and type. A raw camera may come compressed instead, as image_transport
        publishes it; everything else has one topic.
    """
    if stream.type == IMAGE:
        compressed = (f'{stream.topic}/compressed', COMPRESSED_IMAGE)
        return (compressed, (stream.topic, stream.type))
    return ((stream.topic, stream.type),)


def _has_joint_names(type_name: str) -> bool:
    return type_name == 'sensor_msgs/msg/JointState'
