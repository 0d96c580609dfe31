"""What stands in a bag beside its messages, in rosbag2's words: metadata.yaml and QoS profiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, TypeVar

from vqbet_ros.errors import BadBag
import yaml

MetadataVersion = Literal[8, 9]
# libyaml's, where it is there, takes a tenth of the time.
_Loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)

ROOT_KEY = 'rosbag2_bagfile_information'
RECORD_NAME = 'rosbag2'
"""Of the metadata record of an MCAP file that holds what metadata.yaml holds."""
RECORD_KEY = 'serialized_metadata'
INFINITE_NS = 9_223_372_036_854_775_807
"""How long a duration is that was never set."""


class History(IntEnum):
    """How many samples the middleware keeps."""

    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2
    UNKNOWN = 3


class Reliability(IntEnum):
    """Whether lost samples are sent again."""

    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class Durability(IntEnum):
    """Whether a late subscriber gets earlier samples."""

    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2
    UNKNOWN = 3
    BEST_AVAILABLE = 4


class Liveliness(IntEnum):
    """How a publisher shows that it is alive."""

    SYSTEM_DEFAULT = 0
    AUTOMATIC = 1
    MANUAL_BY_NODE = 2
    MANUAL_BY_TOPIC = 3
    UNKNOWN = 4
    BEST_AVAILABLE = 5


@dataclass(frozen=True)
class QosProfile:
    """Quality of service that a publisher offered; numbers and names as rmw's."""

    history: History = History.UNKNOWN
    depth: int = 0
    reliability: Reliability = Reliability.RELIABLE
    durability: Durability = Durability.VOLATILE
    deadline_ns: int = INFINITE_NS
    lifespan_ns: int = INFINITE_NS
    liveliness: Liveliness = Liveliness.AUTOMATIC
    liveliness_lease_ns: int = INFINITE_NS
    avoid_ros_namespace_conventions: bool = False


@dataclass(frozen=True)
class Topic:
    """One topic of a bag.

    Attributes:
        name: Absolute, for example '/joint_states'.
        type: For example 'sensor_msgs/msg/JointState'.
        type_hash: As the publisher tells it, 'RIHS01_...'; empty where ROS does not (Humble).
        qos: What each publisher offered.
    """

    name: str
    type: str
    type_hash: str = ''
    qos: tuple[QosProfile, ...] = ()


@dataclass(frozen=True)
class Counted:
    """A topic and how many messages of it a bag holds."""

    topic: Topic
    messages: int


def bag_information(
    *,
    file_name: str,
    topics: Sequence[Counted],
    start_ns: int,
    end_ns: int,
    custom_data: Mapping[str, str],
    version: MetadataVersion,
    ros_distro: str,
) -> dict[str, Any]:
    """Describe a bag of one MCAP file, with rosbag2's keys in rosbag2's order.

    Args:
        file_name: The MCAP file, relative to the bag's folder.
        topics: In the order in which they were added.
        start_ns: Log time of the earliest message; 0 without messages.
        end_ns: Log time of the latest message; 0 without messages.
        custom_data: Free texts by key.
        version: 9 writes QoS as a list with names, 8 as text with numbers.
        ros_distro: For example 'jazzy'.
    """
    duration = {'nanoseconds': end_ns - start_ns}
    starting_time = {'nanoseconds_since_epoch': start_ns}
    messages = sum(counted.messages for counted in topics)
    return {
        'version': version,
        'storage_identifier': 'mcap',
        'duration': duration,
        'starting_time': starting_time,
        'message_count': messages,
        'topics_with_message_count': [
            {
                'topic_metadata': {
                    'name': counted.topic.name,
                    'type': counted.topic.type,
                    'serialization_format': 'cdr',
                    'offered_qos_profiles': (
                        [_qos_mapping(qos, version) for qos in counted.topic.qos]
                        if version >= 9
                        else qos_text(counted.topic.qos, version)
                    ),
                    'type_description_hash': counted.topic.type_hash,
                },
                'message_count': counted.messages,
            }
            for counted in topics
        ],
        'compression_format': '',
        'compression_mode': '',
        'relative_file_paths': [file_name],
        'files': [
            {
                'path': file_name,
                'starting_time': dict(starting_time),
                'duration': dict(duration),
                'message_count': messages,
            }
        ],
        'custom_data': dict(custom_data),
        'ros_distro': ros_distro,
    }


def version_read_by(ros_distro: str) -> MetadataVersion:
    """Return the version of metadata that `ros2 bag` of a distribution reads.

    Humble's and Iron's expect QoS as text, and read no bag with a list of it.

    Args:
        ros_distro: For example 'jazzy'; empty where no ROS 2 is sourced.
    """
    return 8 if ros_distro in ('humble', 'iron') else 9


def qos_text(profiles: Sequence[QosProfile], version: MetadataVersion) -> str:
    """Write QoS profiles as the YAML text that a channel's metadata holds."""
    return to_yaml([_qos_mapping(qos, version) for qos in profiles]).strip() if profiles else ''


def parse_qos(text: str) -> tuple[QosProfile, ...]:
    """Read the text of `qos_text`, of either version.

    Raises:
        ValueError: It is not such a text.
    """
    try:
        mappings = yaml.safe_load(text) or []
        return tuple(_parse_profile(mapping) for mapping in mappings)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'not a list of QoS profiles: {error}') from error


def to_yaml(value: Any) -> str:
    """Write YAML in the layout of rosbag2: block style, keys in the order given."""
    # Without aliases: yaml-cpp would read them, people would not.
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=1_000_000
    )


def parse_information(text: str, where: str) -> dict[str, Any]:
    """Read the text of a metadata.yaml.

    Args:
        text: The file's content.
        where: Names the file in errors.

    Returns:
        What stands below its one key.

    Raises:
        BadBag: It is not YAML, or not the metadata of a bag.
    """
    try:
        mapping = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        raise BadBag(f'{where} is not valid YAML: {error}') from error
    information = mapping.get(ROOT_KEY) if isinstance(mapping, dict) else None
    if not isinstance(information, dict):
        raise BadBag(f'{where}: got no {ROOT_KEY!r}, expected the metadata of a rosbag2')
    return information


def custom_data_of(information: Mapping[str, Any]) -> dict[str, str]:
    """Return the free texts in a bag's metadata; none where there are none."""
    custom = information.get('custom_data')
    return {str(k): str(v) for k, v in custom.items()} if isinstance(custom, dict) else {}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _qos_mapping(qos: QosProfile, version: MetadataVersion) -> dict[str, Any]:
    def policy(value: IntEnum) -> int | str:
        return value.name.lower() if version >= 9 else value.value

    return {
        'history': policy(qos.history),
        'depth': qos.depth,
        'reliability': policy(qos.reliability),
        'durability': policy(qos.durability),
        'deadline': _duration(qos.deadline_ns),
        'lifespan': _duration(qos.lifespan_ns),
        'liveliness': policy(qos.liveliness),
        'liveliness_lease_duration': _duration(qos.liveliness_lease_ns),
        'avoid_ros_namespace_conventions': qos.avoid_ros_namespace_conventions,
    }


def _duration(duration_ns: int) -> dict[str, int]:
    seconds, nanoseconds = divmod(duration_ns, 1_000_000_000)
    return {'sec': seconds, 'nsec': nanoseconds}


def _parse_profile(mapping: Mapping[str, Any]) -> QosProfile:
    return QosProfile(
        history=_policy(History, mapping['history']),
        depth=int(mapping['depth']),
        reliability=_policy(Reliability, mapping['reliability']),
        durability=_policy(Durability, mapping['durability']),
        deadline_ns=_duration_ns(mapping['deadline']),
        lifespan_ns=_duration_ns(mapping['lifespan']),
        liveliness=_policy(Liveliness, mapping['liveliness']),
        liveliness_lease_ns=_duration_ns(mapping['liveliness_lease_duration']),
        avoid_ros_namespace_conventions=bool(mapping['avoid_ros_namespace_conventions']),
    )


_Policy = TypeVar('_Policy', History, Reliability, Durability, Liveliness)


def _policy(kind: type[_Policy], value: Any) -> _Policy:
    return kind[value.upper()] if isinstance(value, str) else kind(value)


def _duration_ns(mapping: Mapping[str, Any]) -> int:
    return int(mapping['sec']) * 1_000_000_000 + int(mapping['nsec'])
