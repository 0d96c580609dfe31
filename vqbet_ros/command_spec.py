"""The part of the spec that says in which messages commands reach the robot, and their limits."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
import math
from typing import Final, Literal

from vqbet_ros.checks import Check, positive, require, topic_check
from vqbet_ros.message_types import FLOAT64_MULTI_ARRAY, JOY

Interface = Literal[
    'forward_position',
    'forward_velocity',
    'joint_trajectory',
    'joint_group',
    'servo_joint',
    'servo_twist',
    'servo_pose',
    'cartesian_pose',
]
"""What listens on the command topic; docs/arms.md says what each is and needs."""

INTERFACE_KINDS: Final[Mapping[str, str]] = {
    'forward_position': 'joints',
    'forward_velocity': 'joints',
    'joint_trajectory': 'joints',
    'joint_group': 'joints',
    'servo_joint': 'joints',
    'servo_twist': 'twist',
    'servo_pose': 'pose',
    'cartesian_pose': 'pose',
}
"""The kind of action that each interface takes."""

VELOCITY_INTERFACES: Final = ('forward_velocity', 'servo_joint', 'servo_twist')
"""Interfaces whose numbers are velocities: for them, zero means to stand still."""


@dataclass(frozen=True)
class JointLimits:
    """Limits of one joint's commands, in the action's unit and its derivatives per second.

    Attributes:
        position: Lowest and highest number that may be commanded.
        velocity: Largest speed in unit/s; null where it is not limited.
        acceleration: Largest acceleration in unit/s^2, or null.
        jerk: Largest jerk in unit/s^3, or null.
    """

    position: tuple[float, float]
    velocity: float | None = None
    acceleration: float | None = None
    jerk: float | None = None

    def __post_init__(self) -> None:
        """Refuse empty ranges and limits that are not positive."""
        low, high = self.position
        # Without an end, no stop before it can be planned, and no share of the range be told.
        ends = math.isfinite(low) and math.isfinite(high) and low < high
        require(
            (ends, f'position: got [{low}, {high}], expected [lower, higher], both finite'),
            *(
                (
                    limit is None or positive(limit),
                    f'{name}: got {limit}, expected more than 0, or null',
                )
                for name, limit in (
                    ('velocity', self.velocity),
                    ('acceleration', self.acceleration),
                    ('jerk', self.jerk),
                )
            ),
        )


@dataclass(frozen=True)
class CommandOptions:
    """What an interface leaves open; each is for the interface that is named with it.

    Attributes:
        trajectory: joint_trajectory: one 'point' for each command, or the whole rest of the
            'chunk' when it is planned.
        reach_s: joint_trajectory, points: time in which a point is to be reached; null for the
            time until the next command.
        stop_s: joint_trajectory: time in which the arm comes to rest when commands stop coming,
            or, chunks, when it is stopped.
        group: joint_group: the group of joints that is commanded.
    """

    trajectory: Literal['point', 'chunk'] = 'point'
    reach_s: float | None = None
    stop_s: float = 0.2
    group: str = 'arm'

    def __post_init__(self) -> None:
        """Check times and names."""
        fine = self.reach_s is None or positive(self.reach_s)
        require(
            (fine, f'reach_s: got {self.reach_s}, expected more than 0, or null'),
            (positive(self.stop_s), f'stop_s: got {self.stop_s}, expected more than 0'),
            (self.group, "group: got '', expected the name of a group of joints"),
        )


@dataclass(frozen=True)
class GripperCommand:
    """How a gripper is commanded: when its target has changed, and not too often.

    Attributes:
        interface: 'float64' and 'float64_array' are std_msgs on a topic; 'joint_single' is the
            Interbotix message; the other two are control_msgs' actions.
        topic: The topic, or the action's name.
        min_change: Smaller changes of the target, in the gripper's unit, are not sent.
        max_rate_hz: At most so many commands per second.
        switch: For grippers that only open and close: a target below the first number sends the
            lower end of the gripper's limits, one above the second the upper end, and one in
            between changes nothing. Null sends the target itself.
        max_effort: For the actions, in the gripper's own unit; null leaves it to the gripper.
    """

    interface: Literal[
        'float64', 'float64_array', 'joint_single', 'gripper_command', 'parallel_gripper_command'
    ]
    topic: str
    min_change: float = 0.0
    max_rate_hz: float = 5.0
    switch: tuple[float, float] | None = None
    max_effort: float | None = None

    def __post_init__(self) -> None:
        """Check the topic and the numbers."""
        fine = math.isfinite(self.min_change) and self.min_change >= 0
        ordered = self.switch is None or self.switch[0] <= self.switch[1]
        effort = self.max_effort is None or positive(self.max_effort)
        action = self.is_action
        require(
            topic_check('topic', self.topic),
            (fine, f'min_change: got {self.min_change}, expected 0 or more'),
            (positive(self.max_rate_hz), f'max_rate_hz: got {self.max_rate_hz}, expected > 0'),
            (ordered, f'switch: got {self.switch}, expected [close below, open above]'),
            (effort, f'max_effort: got {self.max_effort}, expected more than 0, or null'),
            (
                action or self.max_effort is None,
                f"max_effort: got {self.max_effort}, but '{self.interface}' has none",
            ),
        )

    @property
    def is_action(self) -> bool:
        """Whether it is an action of control_msgs, not a topic."""
        return self.interface in ('gripper_command', 'parallel_gripper_command')


def interface_checks(interface: str, kind: str, unit: str) -> Iterable[Check]:
    """Check that an action can be sent through an interface at all.

    Args:
        interface: One of `INTERFACE_KINDS`.
        kind: The action's kind.
        unit: The action's unit; velocities of joints end in '/s', positions do not.
    """
    expected = INTERFACE_KINDS[interface]
    yield (
        kind == expected,
        f"command_interface: got '{interface}', which takes kind '{expected}', not '{kind}'",
    )
    if kind == expected == 'joints':
        wanted = interface in VELOCITY_INTERFACES
        what = 'velocities: expected for example rad/s' if wanted else 'positions: expected no /s'
        yield (
            unit.endswith('/s') == wanted,
            f"unit: got '{unit}', but '{interface}' takes {what}",
        )


def velocity_checks(record_type: str | None, reference: str) -> Iterable[Check]:
    """Check that velocities of joints are recorded as such: a JointState gives positions."""
    allowed = (FLOAT64_MULTI_ARRAY, JOY)
    what = 'velocities of joints are recorded as one of'
    yield (
        record_type in allowed,
        f'record_type: got {record_type}, but {what} {", ".join(allowed)}',
    )
    yield (
        reference == 'absolute',
        f"reference: got '{reference}', but the commands are velocities: expected 'absolute'",
    )
