"""The part of the spec that says what the policy commands, and where demonstrations show it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
import math
import re
from typing import Literal

from vqbet_ros.checks import Check, name_checks, positive, require, topic_check, unique_checks
from vqbet_ros.command_spec import (
    CommandOptions,
    GripperCommand,
    Interface,
    interface_checks,
    JointLimits,
    velocity_checks,
    VELOCITY_INTERFACES,
)
from vqbet_ros.message_types import (
    FLOAT64_MULTI_ARRAY,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    JOY,
    pose_channels,
    POSE_STAMPED,
    POSITION,
    twist_channels,
    TWIST_STAMPED,
)

JOINT_RECORDS = (JOINT_STATE, FLOAT64_MULTI_ARRAY, JOINT_TRAJECTORY, JOY)
_RECORDS = {'joints': JOINT_RECORDS, 'pose': (POSE_STAMPED,), 'twist': (TWIST_STAMPED,)}
_JOY_NAME = re.compile(r'(axes|buttons)/\d+')


@dataclass(frozen=True)
class CommandSource:
    """One recorded topic that gives some channels of the action.

    Attributes:
        label: 'action' or 'gripper', for reports.
        topic: Absolute ROS topic.
        type: ROS message type.
        names: What is looked for in its messages: joints, axes, or the one thing that moves.
        channels: The action's channels that it gives, in order.
        frame_id: The frame that poses and twists must be in; empty for any.
        latency_ns: By how much stamps are later than the commands.
        max_age_ns: How long a command is valid; None until the next one.
    """

    label: str
    topic: str
    type: str
    names: tuple[str, ...]
    channels: tuple[str, ...]
    frame_id: str
    latency_ns: int
    max_age_ns: int | None


@dataclass(frozen=True)
class GripperSpec:
    """A gripper that is commanded on a topic of its own: the last channel of the action.

    It is always an absolute target, also where the arm's reference is 'delta'.

    Attributes:
        name: The channel; also the joint that is looked for in recorded messages.
        unit: Unit of the target.
        limits: Its range and rates.
        topic: Where its commands are read while recording; null where it has none: the target is
            then the next measured position.
        type: Message type of that topic.
        latency_s: By how much the stamps of its commands are late.
        max_age_s: How long a command is valid; null until the next one.
        command: How it is commanded while the policy runs; null where it cannot be.
    """

    name: str
    unit: str
    limits: JointLimits
    topic: str | None = None
    type: (
        Literal[
            'sensor_msgs/msg/JointState',
            'std_msgs/msg/Float64MultiArray',
            'trajectory_msgs/msg/JointTrajectory',
            'sensor_msgs/msg/Joy',
        ]
        | None
    ) = None
    latency_s: float = 0.0
    max_age_s: float | None = None
    command: GripperCommand | None = None

    def __post_init__(self) -> None:
        """Check names, topic and times."""
        require(
            (self.name, "name: got '', expected a name"),
            (self.unit, "unit: got '', expected for example rad, m or px"),
            *_record_checks('', self.topic, self.type, (self.name,), JOINT_RECORDS),
            *_time_checks('', self.latency_s, self.max_age_s),
        )

    @property
    def source(self) -> CommandSource | None:
        """Where its commands are recorded, if they are."""
        if self.topic is None or self.type is None:
            return None
        names = (self.name,)
        times = round(self.latency_s * 1e9), _ns(self.max_age_s)
        return CommandSource('gripper', self.topic, self.type, names, names, '', *times)


@dataclass(frozen=True)
class ActionSpec:
    """What the policy commands.

    Attributes:
        kind: 'joints': one number per name. 'pose': the pose of one thing, say tool0, in 9
            numbers (x, y, z in `unit`, then the first two columns of its rotation matrix).
            'twist': its linear and angular velocity in 6 numbers.
        reference: 'absolute' targets; or 'delta' from what is measured at the beginning of the
            step: the difference of numbers, and for a rotation R_target R_measured^T, so that
            positions and rotations both turn about the axes of `frame_id`.
        names: Joints in the order of the action vector; for a pose or twist, the one name. For a
            Joy as the record, `axes/I` and `buttons/I`.
        unit: Unit of the targets (of a pose's position).
        command_topic: Where commands are published while the policy runs.
        command_interface: What listens there; docs/arms.md lists the interfaces. Those that take
            velocities want joints in a unit per second, say rad/s; their limits' `position` is
            then the range of the velocity.
        command_options: What that interface leaves open.
        record_topic: Where the demonstrator's commands are read while recording; null where there
            are none: the target is then what is measured one step later.
        record_type: Its message type; null without a topic.
        record_latency_s: By how much the stamps of commands are late.
        record_max_age_s: How long a command is valid; null until the next one.
        frame_id: The frame of a pose or twist; recorded ones in another frame are refused.
        gripper: A gripper with a topic of its own, if there is one.
        limits: Per joint; for a pose per axis (NAME/x, NAME/y, NAME/z: the workspace), for a
            twist per channel.
    """

    names: tuple[str, ...]
    unit: str
    command_topic: str
    record_topic: str | None
    limits: dict[str, JointLimits]
    record_type: (
        Literal[
            'std_msgs/msg/Float64MultiArray',
            'sensor_msgs/msg/JointState',
            'trajectory_msgs/msg/JointTrajectory',
            'geometry_msgs/msg/PoseStamped',
            'geometry_msgs/msg/TwistStamped',
            'sensor_msgs/msg/Joy',
        ]
        | None
    ) = None
    kind: Literal['joints', 'pose', 'twist'] = 'joints'
    reference: Literal['absolute', 'delta'] = 'absolute'
    command_interface: Interface = 'forward_position'
    command_options: CommandOptions = field(default_factory=CommandOptions)
    record_latency_s: float = 0.0
    record_max_age_s: float | None = None
    frame_id: str = ''
    gripper: GripperSpec | None = None

    def __post_init__(self) -> None:
        """Check names, topics and that each joint has its limits."""
        limited = self._limited()
        missing = [name for name in limited if name not in self.limits]
        unknown = [name for name in self.limits if name not in limited]
        require(
            *name_checks('names', self.names),
            (self.unit, "unit: got '', expected for example rad, m or px"),
            topic_check('command_topic', self.command_topic),
            *_record_checks(
                'record_', self.record_topic, self.record_type, self.names, _RECORDS[self.kind]
            ),
            *_time_checks('record_', self.record_latency_s, self.record_max_age_s),
            (not missing, f'limits: missing for {", ".join(missing)}'),
            (not unknown, f'limits: {", ".join(unknown)} is no name of the action'),
            (
                self.kind == 'joints' or len(self.names) == 1,
                f'names: got {len(self.names)}, expected one: what has the {self.kind}',
            ),
            (
                self.kind == 'joints' or self.frame_id,
                f"frame_id: got '', expected the frame that the {self.kind} is in",
            ),
            (
                self.kind != 'twist' or self.reference == 'absolute',
                "reference: got 'delta', but a twist is a velocity: expected 'absolute'",
            ),
            *self._interface_checks(),
            *unique_checks('names and gripper', self.channels),
        )

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the action vector's numbers in order; the gripper's is the last."""
        gripper = () if self.gripper is None else (self.gripper.name,)
        return (*self.arm_channels, *gripper)

    @property
    def arm_channels(self) -> tuple[str, ...]:
        """The channels without the gripper's."""
        if self.kind == 'joints':
            return self.names
        name = pose_channels if self.kind == 'pose' else twist_channels
        return tuple(channel for one in self.names for channel in name(one))

    @property
    def sources(self) -> tuple[CommandSource, ...]:
        """The recorded topics that show what was commanded; none where the next state does."""
        sources = [] if self.gripper is None else [self.gripper.source]
        if self.record_topic is not None and self.record_type is not None:
            arm = CommandSource(
                label='action',
                topic=self.record_topic,
                type=self.record_type,
                names=self.names,
                channels=self.arm_channels,
                frame_id=self.frame_id,
                latency_ns=round(self.record_latency_s * 1e9),
                max_age_ns=_ns(self.record_max_age_s),
            )
            sources.insert(0, arm)
        return tuple(source for source in sources if source is not None)

    @property
    def is_velocity(self) -> bool:
        """Whether the arm's numbers are velocities, so that zeros mean to stand still."""
        return self.kind == 'twist' or self.command_interface in VELOCITY_INTERFACES

    def meaning(self) -> dict[str, str]:
        """Return what decides the meaning of the action's numbers, flat and printable.

        That is: which numbers there are, of what kind, relative to what, in which unit and frame.
        How they reach the robot (topic, interface and its options, the gripper's commands) is not
        part of it: one policy may run through any interface that takes its kind and unit.
        """
        meaning = {
            'action order': str(list(self.channels)),
            'action kind': self.kind,
            'action reference': self.reference,
            'action unit': self.unit,
            'action frame': self.frame_id or 'none',
        }
        if self.gripper is not None:
            meaning['gripper unit'] = self.gripper.unit
        return meaning

    def _interface_checks(self) -> Iterable[Check]:
        # The default says nothing about the robot: a spec without an interface can be recorded.
        if self.command_interface != 'forward_position':
            yield from interface_checks(self.command_interface, self.kind, self.unit)
            if self.is_velocity and self.kind == 'joints':
                yield from velocity_checks(self.record_type, self.reference)

    def _limited(self) -> tuple[str, ...]:
        return self.arm_channels[: len(POSITION)] if self.kind == 'pose' else self.arm_channels


def joy_checks(key: str, type_name: str | None, names: Iterable[str]) -> Iterable[Check]:
    """Check that names say which axis or button of a Joy they mean."""
    wrong = [name for name in names if type_name == JOY and not _JOY_NAME.fullmatch(name)]
    yield (not wrong, f'{key}: got {", ".join(wrong)}, but a Joy has axes/0, buttons/0 and so on')


def _record_checks(
    prefix: str,
    topic: str | None,
    type_name: str | None,
    names: Sequence[str],
    allowed: Sequence[str],
) -> Iterable[Check]:
    if topic is not None:
        yield topic_check(f'{prefix}topic', topic)
        expected = f'expected one of {", ".join(allowed)}'
        yield (type_name in allowed, f'{prefix}type: got {type_name}, {expected}')
    else:
        yield (
            type_name is None,
            f'{prefix}type: got {type_name}, but {prefix}topic is null: expected null',
        )
    yield from joy_checks('names', type_name, names)


def _time_checks(prefix: str, latency_s: float, max_age_s: float | None) -> Iterable[Check]:
    fine = math.isfinite(latency_s) and latency_s >= 0
    yield (fine, f'{prefix}latency_s: got {latency_s}, expected 0 or more')
    fine = max_age_s is None or positive(max_age_s)
    yield (fine, f'{prefix}max_age_s: got {max_age_s}, expected more than 0, or null')


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)
