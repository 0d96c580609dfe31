"""geometry_msgs/TwistStamped: the velocity of the tool, as MoveIt Servo takes it."""

from geometry_msgs.msg import Twist, TwistStamped, Vector3
import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from vqbet_ros.message_types import TWIST
from vqbet_ros.ros import qos
from vqbet_ros.spec import ActionSpec


class ServoTwist:
    """`servo_twist`.

    Args:
        action: Linear and angular velocity in 6 numbers, in its `frame_id`.
    """

    def __init__(self, action: ActionSpec) -> None:
        self._action = action
        self._node: LifecycleNode | None = None
        self._moving = False  # something was sent since the last stop

    @property
    def problem(self) -> str | None:
        """MoveIt Servo has no list that could be compared."""
        return None

    def configure(self, node: LifecycleNode) -> None:
        """Create the publisher."""
        self._publisher = node.create_lifecycle_publisher(
            TwistStamped, self._action.command_topic, qos.COMMAND
        )
        self._node = node

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Publish (6,) velocities, stamped now: Servo takes older ones for stale."""
        self._publish(values.tolist(), now_ns)
        self._moving = True

    def stop(self, now_ns: int) -> None:
        """Publish zeros."""
        if self._moving:
            self._moving = False
            self._publish([0.0] * len(TWIST), now_ns)

    def close(self) -> None:
        """Destroy the publisher."""
        if self._node is not None:
            node, self._node = self._node, None
            node.destroy_lifecycle_publisher(self._publisher)

    def _publish(self, values: list[float], now_ns: int) -> None:
        vx, vy, vz, wx, wy, wz = values
        twist = Twist(linear=Vector3(x=vx, y=vy, z=vz), angular=Vector3(x=wx, y=wy, z=wz))
        message = TwistStamped(twist=twist)
        message.header.frame_id = self._action.frame_id
        message.header.stamp = Time(nanoseconds=now_ns).to_msg()
        self._publisher.publish(message)
