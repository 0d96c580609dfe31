"""Grippers that listen to a topic: std_msgs, or the Interbotix message for one joint."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Float64, Float64MultiArray
from vqbet_ros.ros import qos
from vqbet_ros.ros.commands.messages import message_type
from vqbet_ros.ros.commands.plain import GripperGate
from vqbet_ros.spec import GripperCommand, GripperSpec


class GripperTopic:
    """`float64`, `float64_array` and `joint_single`.

    Args:
        gripper: The gripper.
        command: How it is commanded.
    """

    def __init__(self, gripper: GripperSpec, command: GripperCommand) -> None:
        self._gripper, self._command = gripper, command
        self._gate = GripperGate(command, gripper.limits.position)
        self._node: LifecycleNode | None = None

    @property
    def problem(self) -> str | None:
        """Nothing that listens can be asked."""
        return None

    def configure(self, node: LifecycleNode) -> None:
        """Create the publisher.

        Raises:
            UnknownType: interbotix_xs_msgs is wanted and not installed.
        """
        kind, self._build = self._message()
        self._publisher = node.create_lifecycle_publisher(kind, self._command.topic, qos.COMMAND)
        self._node = node

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Publish the target (1,), if it has changed and the last one is long enough ago."""
        due = self._gate.due(float(values[0]), now_ns)
        if due is not None:
            self._publisher.publish(self._build(due))
            self._gate.sent(due, now_ns)

    def stop(self, now_ns: int) -> None:
        """Let the gripper hold what it holds; the next target is sent again."""
        self._gate.forget()

    def close(self) -> None:
        """Destroy the publisher."""
        if self._node is not None:
            node, self._node = self._node, None
            node.destroy_lifecycle_publisher(self._publisher)

    def _message(self) -> tuple[Any, Callable[[float], Any]]:
        """Return the type, and what fills one."""
        if self._command.interface == 'float64':
            return Float64, lambda value: Float64(data=value)
        if self._command.interface == 'float64_array':
            return Float64MultiArray, lambda value: Float64MultiArray(data=[value])
        kind = message_type(
            'interbotix_xs_msgs/msg/JointSingleCommand', "gripper interface 'joint_single'"
        )
        return kind, lambda value: kind(name=self._gripper.name, cmd=value)
