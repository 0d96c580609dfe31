"""control_msgs/JointJog: velocities of joints, as MoveIt Servo takes them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from vqbet_ros.ros import qos
from vqbet_ros.ros.commands.messages import message_type
from vqbet_ros.spec import ActionSpec


class ServoJoint:
    """`servo_joint`.

    Args:
        action: Velocities of joints.
        period_ns: Time between two commands, which the message calls its duration.
    """

    def __init__(self, action: ActionSpec, period_ns: int) -> None:
        self._action = action
        self._duration_s = period_ns / 1e9
        self._node: LifecycleNode | None = None
        self._type: Any = None
        self._moving = False  # something was sent since the last stop

    @property
    def problem(self) -> str | None:
        """MoveIt Servo has no list that could be compared; it logs names that it does not know."""
        return None

    def configure(self, node: LifecycleNode) -> None:
        """Create the publisher.

        Raises:
            UnknownType: control_msgs is not installed.
        """
        self._type = message_type('control_msgs/msg/JointJog', "command_interface 'servo_joint'")
        self._publisher = node.create_lifecycle_publisher(
            self._type, self._action.command_topic, qos.COMMAND
        )
        self._node = node

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Publish (n,) velocities, stamped now: Servo takes older ones for stale."""
        self._publish(values.tolist(), now_ns)
        self._moving = True

    def stop(self, now_ns: int) -> None:
        """Publish zeros."""
        if self._moving:
            self._moving = False
            self._publish([0.0] * len(self._action.names), now_ns)

    def close(self) -> None:
        """Destroy the publisher."""
        if self._node is not None:
            node, self._node = self._node, None
            node.destroy_lifecycle_publisher(self._publisher)

    def _publish(self, velocities: list[float], now_ns: int) -> None:
        message = self._type(
            joint_names=list(self._action.names),
            velocities=velocities,  # without displacements, which Servo ignores
            duration=self._duration_s,
        )
        message.header.frame_id = self._action.frame_id
        message.header.stamp = Time(nanoseconds=now_ns).to_msg()
        self._publisher.publish(message)
