"""All that a spec commands: the arm's interface, and the gripper's where it has one."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from vqbet_ros.command_spec import interface_checks
from vqbet_ros.errors import ConfigError, listed, VqbetError
from vqbet_ros.ros.commands.forward import Forward
from vqbet_ros.ros.commands.gripper_action import GripperAction
from vqbet_ros.ros.commands.gripper_topic import GripperTopic
from vqbet_ros.ros.commands.joint_group import JointGroup
from vqbet_ros.ros.commands.joint_trajectory import JointTrajectory
from vqbet_ros.ros.commands.pose import Pose
from vqbet_ros.ros.commands.protocol import CommandInterface
from vqbet_ros.ros.commands.servo_joint import ServoJoint
from vqbet_ros.ros.commands.servo_twist import ServoTwist
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.spec import ActionSpec, GripperSpec

_ARMS: dict[str, Callable[[ActionSpec, int, Callable[[], int] | None], CommandInterface]] = {
    'forward_position': lambda action, period_ns, steady: Forward(action),
    'forward_velocity': lambda action, period_ns, steady: Forward(action),
    'joint_trajectory': JointTrajectory,
    'joint_group': lambda action, period_ns, steady: JointGroup(action),
    'servo_joint': lambda action, period_ns, steady: ServoJoint(action, period_ns),
    'servo_twist': lambda action, period_ns, steady: ServoTwist(action),
    'servo_pose': lambda action, period_ns, steady: Pose(action),
    'cartesian_pose': lambda action, period_ns, steady: Pose(action),
}


class Commands:
    """Sends the actions of a spec to its robot.

    Args:
        action: What is commanded, and through what.
        period_ns: Time between two commands.
        steady: A clock that never jumps; None where time is simulated.

    Raises:
        ConfigError: The interface does not take such an action, or nothing commands the gripper.
    """

    def __init__(
        self, action: ActionSpec, period_ns: int, steady: Callable[[], int] | None = None
    ) -> None:
        checks = interface_checks(action.command_interface, action.kind, action.unit)
        problems = [text for passed, text in checks if not passed]
        if action.gripper is not None and action.gripper.command is None:
            problems.append("gripper.command: got null, expected the gripper's topic or action")
        if problems:
            raise ConfigError(listed('action: it cannot be commanded', problems))
        self._arm = _ARMS[action.command_interface](action, period_ns, steady)
        self._split = len(action.arm_channels)
        chunks = action.command_options.trajectory == 'chunk'
        self._chunks = self._arm if chunks and isinstance(self._arm, JointTrajectory) else None
        self._parts = [self._arm]
        self._gripper = None if action.gripper is None else _gripper(action.gripper)
        if self._gripper is not None:
            self._parts.append(self._gripper)

    @property
    def takes_courses(self) -> bool:
        """Whether the arm is to be sent whole courses; see `follow`."""
        return self._chunks is not None

    @property
    def problem(self) -> str | None:
        """Why the robot must not be moved; see `CommandInterface`."""
        problems = [part.problem for part in self._parts]
        return next((problem for problem in problems if problem is not None), None)

    def configure(self, node: LifecycleNode) -> None:
        """Create everything, or nothing.

        Raises:
            ConfigError: Lists every package that is missing.
        """
        problems = []
        for part in self._parts:
            try:
                part.configure(node)
            except VqbetError as error:
                problems.append(str(error))
        if problems:
            self.close()
            raise ConfigError(listed('the commands cannot be sent from here', problems))

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Send (A,) numbers: the arm's, then the gripper's."""
        self._arm.send(values[: self._split], now_ns)
        self._grip(values, now_ns)

    def follow(self, values: NDArray[np.float64], course: Chunk | None, now_ns: int) -> None:
        """Send a course to an arm that takes courses, and the gripper's number.

        Args:
            values: (A,) what is due now.
            course: What the arm does from now on; None where it goes on with the last one.
            now_ns: The node's time.
        """
        if self._chunks is not None and course is not None:
            self._chunks.send_chunk(course, now_ns)
        self._grip(values, now_ns)

    def _grip(self, values: NDArray[np.float64], now_ns: int) -> None:
        if self._gripper is not None:
            self._gripper.send(values[self._split :], now_ns)

    def stop(self, now_ns: int) -> None:
        """Bring the robot to rest."""
        for part in self._parts:
            part.stop(now_ns)

    def close(self) -> None:
        """Destroy everything; safe to call twice."""
        for part in self._parts:
            part.close()


def _gripper(gripper: GripperSpec) -> CommandInterface:
    assert gripper.command is not None  # noqa: S101 - refused above
    if gripper.command.is_action:
        return GripperAction(gripper, gripper.command)
    return GripperTopic(gripper, gripper.command)
