"""The parameters of `recorder_node`."""

from dataclasses import dataclass

from vqbet_ros.ros.parameters import parameter


@dataclass(frozen=True)
class RecorderParameters:
    """The parameters of `recorder_node`."""

    spec: str = parameter('', "The robot's spec (YAML file); empty: PushT with its camera.")
    root: str = parameter('recordings', 'Folder of the episodes; made if it is not there.')
    task: str = parameter(
        '', 'What is demonstrated; written into the episodes begun from then on.', read_only=False
    )
    operator: str = parameter(
        '', 'Who demonstrates it; written into the episodes begun from then on.', read_only=False
    )
    goal: str = parameter(
        '', 'Goal of the episode; written into the episodes begun from then on.', read_only=False
    )
    extra_topics: tuple[str, ...] = parameter(
        ('/tf', '/tf_static', '/robot_description'),
        "Topics recorded besides the spec's, while they are published, of any type.",
    )
    prefer_compressed: bool = parameter(
        True, "Record a raw camera's <topic>/compressed instead, where that is published."
    )
    compression: str = parameter(
        'none', 'Compression of the bags.', choices=('none', 'lz4', 'zstd')
    )
    chunk_mb: float = parameter(1.0, 'Size of a chunk in the bag, in MB.', bounds=(0.01, 64.0))
    queue_mb: float = parameter(
        256.0,
        'Messages that may wait for a slow disk, in MB; what is more is lost, and counted.',
        bounds=(0.01, 65536.0),
    )
    metadata_version: int = parameter(
        0,
        'Version of metadata.yaml; 0: what this ROS 2 reads, 8 for Humble and Iron, else 9.',
        choices=(0, 8, 9),
    )
    warn_free_gb: float = parameter(
        10.0, 'Free disk in GB below which the status warns.', bounds=(0.0, 1e6)
    )
    stop_free_gb: float = parameter(
        1.0,
        'Free disk in GB below which an episode is ended and kept, and none begins.',
        bounds=(0.0, 1e6),
    )
    recover_on_start: bool = parameter(
        False, 'Recover the unfinished episodes of a killed recorder at the start.'
    )
    joy_topic: str = parameter('', 'sensor_msgs/Joy of the joystick; empty: none.')
    joy_start: int = parameter(
        0,
        'Button that starts; -1: none. The same number for start and stop makes it a switch.',
        bounds=(-1, 63),
    )
    joy_stop: int = parameter(1, 'Button that stops and keeps; -1: none.', bounds=(-1, 63))
    joy_discard: int = parameter(2, 'Button that discards; -1: none.', bounds=(-1, 63))
    joy_success: int = parameter(
        3, 'Button that marks the last episode a success; -1: none.', bounds=(-1, 63)
    )
    joy_failure: int = parameter(
        -1, 'Button that marks the last episode a failure; -1: none.', bounds=(-1, 63)
    )
