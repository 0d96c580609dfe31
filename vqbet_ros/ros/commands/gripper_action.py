"""Grippers behind an action of control_msgs: GripperCommand, or ParallelGripperCommand.

A goal is sent and not waited for: a gripper's controller drops its goal for a newer one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.action.client import ActionClient
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import JointState
from vqbet_ros.ros.commands.messages import message_type
from vqbet_ros.ros.commands.plain import GripperGate
from vqbet_ros.spec import GripperCommand, GripperSpec

_TYPES = {
    'gripper_command': 'control_msgs/action/GripperCommand',
    'parallel_gripper_command': 'control_msgs/action/ParallelGripperCommand',
}
_WARN_EVERY_S = 5.0


class GripperAction:
    """`gripper_command` and `parallel_gripper_command`.

    Args:
        gripper: The gripper; its name is the joint's.
        command: How it is commanded.

    Attributes:
        rejected: Goals that the gripper did not take.
    """

    def __init__(self, gripper: GripperSpec, command: GripperCommand) -> None:
        self._gripper, self._command = gripper, command
        self._gate = GripperGate(command, gripper.limits.position)
        self._node: LifecycleNode | None = None
        self._type: Any = None
        self.rejected = 0

    @property
    def problem(self) -> str | None:
        """A gripper that is not there holds nothing up: the warning says so."""
        return None

    def configure(self, node: LifecycleNode) -> None:
        """Create the client.

        Raises:
            UnknownType: control_msgs is not installed, or has no such action.
        """
        interface = self._command.interface
        self._type = message_type(_TYPES[interface], f"gripper interface '{interface}'")
        self._client: Any = ActionClient(node, self._type, self._command.topic)
        self._node = node

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Send the target (1,) as a goal, if it has changed and the last is long enough ago."""
        due = self._gate.due(float(values[0]), now_ns)
        if due is None or self._node is None:
            return
        if not self._client.server_is_ready():
            self._node.get_logger().warning(
                f'{self._command.topic}: no such action server, the gripper is not commanded',
                throttle_duration_sec=_WARN_EVERY_S,
            )
            return
        goal = goal_of(self._type, self._gripper, self._command, due)
        self._client.send_goal_async(goal).add_done_callback(self._answered)
        self._gate.sent(due, now_ns)

    def stop(self, now_ns: int) -> None:
        """Let the gripper hold what it holds; the next target is sent again."""
        self._gate.forget()

    def close(self) -> None:
        """Destroy the client."""
        if self._node is not None:
            self._node = None
            self._client.destroy()

    def _answered(self, future: Any) -> None:
        if future.cancelled() or future.exception() or not future.result().accepted:
            self.rejected += 1
            self._gate.forget()  # the target, still wanted, is sent again
            if self._node is not None:
                self._node.get_logger().warning(
                    f'{self._command.topic} rejected a goal ({self.rejected} so far)',
                    throttle_duration_sec=_WARN_EVERY_S,
                )


def goal_of(kind: Any, gripper: GripperSpec, command: GripperCommand, value: float) -> Any:
    """Return a goal of the action type `kind`."""
    goal = kind.Goal()
    if command.interface == 'gripper_command':
        goal.command.position = value
        goal.command.max_effort = command.max_effort or 0.0  # zero leaves it to the gripper
    else:
        effort = [] if command.max_effort is None else [command.max_effort]
        goal.command = JointState(name=[gripper.name], position=[value], effort=effort)
    return goal
