"""RobotSpec: the contract that recording, preparing, training and running agree on.

One YAML file names the cameras, the proprioception, the action, their units, rates and limits.
The spec travels with the data: bag, dataset, checkpoint, node. Stages that disagree refuse to
work together and list every difference.

A stream is one topic that feeds the observation. Its name is the camera's name, or the topic for
proprioception.
"""

from collections.abc import Iterable
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vqbet_ros.action_spec import ActionSpec, GripperSpec, joy_checks
from vqbet_ros.checks import (
    Check,
    identifier_check,
    name_checks,
    positive,
    require,
    stream_checks,
    unique_checks,
)
from vqbet_ros.command_spec import CommandOptions, GripperCommand, JointLimits
from vqbet_ros.errors import ConfigError, listed, SpecMismatch
from vqbet_ros.message_types import (
    COMPRESSED_IMAGE,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    pose_channels,
    POSE_STAMPED,
    twist_channels,
    TWIST_STAMPED,
)
from vqbet_ros.runtime_spec import RuntimeSettings
from vqbet_ros.structured import from_mapping, load_yaml, parse_yaml, to_yaml
import yaml

__all__ = [
    'COMPRESSED_IMAGE',
    'FLOAT64_MULTI_ARRAY',
    'IMAGE',
    'JOINT_STATE',
    'ActionSpec',
    'CameraSpec',
    'CommandOptions',
    'Crop',
    'GripperCommand',
    'GripperSpec',
    'JointLimits',
    'RobotSpec',
    'StateSpec',
]


@dataclass(frozen=True)
class Crop:
    """A rectangle of the source image, in source pixels, cut out before resizing."""

    top: int
    left: int
    height: int
    width: int

    def __post_init__(self) -> None:
        """Refuse rectangles that are empty or start outside the image."""
        require(
            (self.top >= 0, f'top: got {self.top}, expected 0 or more'),
            (self.left >= 0, f'left: got {self.left}, expected 0 or more'),
            (self.height > 0, f'height: got {self.height}, expected 1 or more'),
            (self.width > 0, f'width: got {self.width}, expected 1 or more'),
        )


class _Timed:
    """The times of a stream in ns."""

    latency_s: float
    max_age_s: float

    @property
    def latency_ns(self) -> int:
        """Latency in ns."""
        return round(self.latency_s * 1e9)

    @property
    def max_age_ns(self) -> int:
        """Staleness limit in ns."""
        return round(self.max_age_s * 1e9)


@dataclass(frozen=True)
class CameraSpec(_Timed):
    """One camera.

    Attributes:
        name: The stream's name, also the name of its array in a dataset.
        topic: Absolute ROS topic.
        type: ROS message type.
        height: Rows of the image that is stored and that the policy sees, in px.
        width: Columns of that image, in px.
        rate_hz: Rate at which the driver publishes.
        max_age_s: An older newest frame stops the robot. From the time of exposure.
        crop: What is cut out of the source image before it is resized.
        latency_s: By how much `header.stamp` is later than the exposure.
    """

    name: str
    topic: str
    type: Literal['sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage']
    height: int
    width: int
    rate_hz: float
    max_age_s: float
    crop: Crop | None = None
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        """Check names, sizes and times."""
        require(
            identifier_check('name', self.name),
            (self.height > 0, f'height: got {self.height}, expected 1 or more px'),
            (self.width > 0, f'width: got {self.width}, expected 1 or more px'),
            *stream_checks(self.topic, self.rate_hz, self.latency_s, self.max_age_s),
        )

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self.name

    @property
    def compressed(self) -> 'CameraSpec':
        """The same camera where image_transport publishes its raw images compressed."""
        if self.type != IMAGE:
            return self
        return dataclasses.replace(self, type=COMPRESSED_IMAGE, topic=f'{self.topic}/compressed')


@dataclass(frozen=True)
class StateSpec(_Timed):
    """One topic of proprioception (or any other vector that the policy sees).

    Attributes:
        topic: Absolute ROS topic, also the stream's name.
        type: ROS message type. A JointState is joined by joint name, and several messages with a
            part of the joints each are merged; the numbers of a Float64MultiArray are taken in
            order. A PoseStamped becomes 9 numbers: position and 6-D rotation; a TwistStamped 6.
        names: Joints, or the names of the array's numbers; of a Joy, `axes/I` and `buttons/I`; of
            a pose or twist, one name for what has it, say tool0.
        unit: Unit of a position (velocities are in that unit per second).
        rate_hz: Rate at which the topic is published.
        max_age_s: An older newest sample stops the robot.
        fields: Which fields of a JointState are read.
        latency_s: By how much the stamp is later than the measurement.
        hold: Names whose value stays until the next one, such as a switch; all others are
            interpolated.
        frame_id: The frame of a pose or twist; one in another frame is refused. Empty for any.
    """

    topic: str
    type: Literal[
        'sensor_msgs/msg/JointState',
        'std_msgs/msg/Float64MultiArray',
        'geometry_msgs/msg/PoseStamped',
        'geometry_msgs/msg/TwistStamped',
        'sensor_msgs/msg/Joy',
    ]
    names: tuple[str, ...]
    unit: str
    rate_hz: float
    max_age_s: float
    fields: tuple[Literal['position', 'velocity', 'effort'], ...] = ('position',)
    latency_s: float = 0.0
    hold: tuple[str, ...] = ()
    frame_id: str = ''

    def __post_init__(self) -> None:
        """Check names, units and times."""
        whole = self.type in (POSE_STAMPED, TWIST_STAMPED)
        unknown = [name for name in self.hold if name not in self.names]
        require(
            *name_checks('names', self.names),
            *name_checks('fields', self.fields),
            (self.unit, "unit: got '', expected for example rad, m or px"),
            (
                self.type == JOINT_STATE or self.fields == ('position',),
                f'fields: got {list(self.fields)}, but a {self.type} has none: leave fields out',
            ),
            *joy_checks('names', self.type, self.names),
            (
                not whole or len(self.names) == 1,
                f'names: got {len(self.names)}, but a {self.type} has one: what is there',
            ),
            (
                whole or not self.frame_id,
                f"frame_id: got '{self.frame_id}', but a {self.type} is in no frame",
            ),
            *unique_checks('hold', self.hold),
            (not unknown, f'hold: {", ".join(unknown)} is no name of the stream'),
            *stream_checks(self.topic, self.rate_hz, self.latency_s, self.max_age_s),
        )

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self.topic

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the stream's numbers in order: all of the first field, then of the next."""
        if self.type == JOINT_STATE:
            return tuple(f'{name}/{field}' for field in self.fields for name in self.names)
        if self.type == POSE_STAMPED:
            return pose_channels(self.names[0])
        if self.type == TWIST_STAMPED:
            return twist_channels(self.names[0])
        return self.names

    @property
    def held(self) -> tuple[bool, ...]:
        """For each channel, whether it is held instead of interpolated."""
        if self.type == JOINT_STATE:
            return tuple(name in self.hold for _ in self.fields for name in self.names)
        if self.type in (POSE_STAMPED, TWIST_STAMPED):
            return (bool(self.hold),) * len(self.channels)
        return tuple(name in self.hold for name in self.names)


@dataclass(frozen=True)
class RobotSpec:
    """The whole contract of one robot.

    Attributes:
        robot: The robot's name.
        rate_hz: Rate of the dataset's frames, of the policy's steps and of the actions.
        action: What is commanded.
        cameras: In the order in which the policy sees them; may be empty.
        state: In the order in which their channels form the state vector; may be empty.
        runtime: How cautiously the policy is run on it.
    """

    robot: str
    rate_hz: float
    action: ActionSpec
    cameras: tuple[CameraSpec, ...] = ()
    state: tuple[StateSpec, ...] = ()
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)

    def __post_init__(self) -> None:
        """Check what holds between the parts."""
        topics = [stream.topic for stream in self.streams]
        require(
            (self.robot, "robot: got '', expected a name"),
            (positive(self.rate_hz), f'rate_hz: got {self.rate_hz}, expected more than 0'),
            (self.streams, 'cameras and state are both empty: the policy would see nothing'),
            *unique_checks('cameras', [camera.name for camera in self.cameras]),
            *unique_checks('topics', topics),
            *unique_checks('state', self.state_names),
            *self._action_checks(),
            *self.runtime.gate.checks(self.streams),
        )

    @classmethod
    def from_yaml(cls, path: str | Path) -> 'RobotSpec':
        """Read a spec file.

        Raises:
            ConfigError: The file is absent or wrong; lists every problem.
        """
        return from_mapping(cls, load_yaml(path), str(path))

    @classmethod
    def from_text(cls, text: str, where: str) -> 'RobotSpec':
        """Read a spec that travelled inside another file.

        Args:
            text: YAML.
            where: Names the source in errors.

        Raises:
            ConfigError: The text is no YAML or wrong; lists every problem.
        """
        try:
            mapping = parse_yaml(text)
        except yaml.YAMLError as error:
            raise ConfigError(f'{where} is not valid YAML: {error}') from error
        return from_mapping(cls, mapping, where)

    def to_yaml(self) -> str:
        """Return YAML that `from_text` reads back to an equal spec."""
        return to_yaml(self)

    @property
    def streams(self) -> tuple[CameraSpec | StateSpec, ...]:
        """Cameras, then proprioception."""
        return (*self.cameras, *self.state)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state vector's channels in order, for example 'x/position'."""
        return tuple(channel for part in self.state for channel in part.channels)

    @property
    def state_dim(self) -> int:
        """Length of the state vector, S."""
        return len(self.state_names)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action vector's channels in order."""
        return self.action.channels

    @property
    def action_dim(self) -> int:
        """Length of the action vector, A."""
        return len(self.action.channels)

    @property
    def recorded_topics(self) -> dict[str, str]:
        """The message types of all topics that a recording must hold."""
        sources = (*self.streams, *self.action.sources)
        return {source.topic: source.type for source in sources}

    def measured(self, channel: str) -> int | None:
        """Return which number of the state is what an action's channel commands, if one is."""
        for name in (f'{channel}/position', channel):
            if name in self.state_names:
                return self.state_names.index(name)
        return None

    @property
    def period_ns(self) -> int:
        """One policy step in ns."""
        return round(1e9 / self.rate_hz)

    def camera(self, name: str) -> CameraSpec:
        """Return the camera of that name.

        Raises:
            ConfigError: The spec has no such camera.
        """
        for camera in self.cameras:
            if camera.name == name:
                return camera
        known = ', '.join(camera.name for camera in self.cameras) or 'none'
        raise ConfigError(f"{self.robot} has no camera '{name}'; its cameras: {known}")

    def differences(self, other: 'RobotSpec') -> list[str]:
        """List what a policy or dataset made for one spec would misread under the other.

        What counts: which numbers there are and in which order, rates, units, frames, what an
        action is relative to, sizes and crops of images. Topics, message types, the interface that
        takes the commands, latencies, staleness, limits and `runtime` may differ: they belong to
        the robot at hand, and change neither the meaning nor the shape of any number.

        Returns:
            One line per difference, `what: ours, theirs`; empty when the two agree.
        """
        ours, theirs = self._meaning(), other._meaning()
        absent = 'absent'
        return [
            f'{key}: {ours.get(key, absent)}, {theirs.get(key, absent)}'
            for key in dict.fromkeys([*ours, *theirs])
            if ours.get(key, absent) != theirs.get(key, absent)
        ]

    def require_equal(
        self, other: 'RobotSpec', ours: str = 'checkpoint', theirs: str = 'robot'
    ) -> None:
        """Refuse to go on when the two specs differ.

        Args:
            other: The spec to compare with.
            ours: What this spec belongs to, for the message.
            theirs: What the other belongs to.

        Raises:
            SpecMismatch: Lists every difference.
        """
        problems = self.differences(other)
        if problems:
            title = (
                f'the specs of {ours} and {theirs} differ in {len(problems)} point(s), '
                f'given as {ours}, {theirs}; use a {ours} made for this {theirs}, or mend its spec'
            )
            raise SpecMismatch(listed(title, problems))

    def _meaning(self) -> dict[str, str]:
        """Return what decides the meaning of the arrays, flat and printable."""
        numbers = [
            (channel, part.unit, part.frame_id, held)
            for part in self.state
            for channel, held in zip(part.channels, part.held, strict=True)
        ]
        meaning = {
            'robot': self.robot,
            'rate_hz': f'{self.rate_hz:g}',
            'camera order': str([camera.name for camera in self.cameras]),
            'state order': str(list(self.state_names)),
            **self.action.meaning(),
        }
        for camera in self.cameras:
            meaning[f'camera {camera.name}, height x width'] = f'{camera.height} x {camera.width}'
            crop = camera.crop and dataclasses.astuple(camera.crop)
            meaning[f'camera {camera.name}, crop (top, left, height, width)'] = str(crop)
        for name, unit, frame_id, held in numbers:
            meaning[f'state {name}, unit'] = unit
            meaning[f'state {name}, frame'] = frame_id or 'none'
            meaning[f'state {name}, between samples'] = 'held' if held else 'interpolated'
        return meaning

    def _action_checks(self) -> Iterable[Check]:
        """Check that what the action is measured by is part of the state."""
        action = self.action
        recorded = {name for source in action.sources for name in source.channels}
        needed = [name for name in action.channels if name not in recorded]
        if action.reference == 'delta':
            needed = list(dict.fromkeys([*needed, *action.arm_channels]))
        absent = [name for name in needed if self.measured(name) is None]
        yield (
            not absent,
            f'action: {", ".join(absent)} must be in the state, as NAME/position or as it is: its '
            'record_topic is null or its reference is delta',
        )
