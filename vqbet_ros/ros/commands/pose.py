"""geometry_msgs/PoseStamped: MoveIt Servo's pose target, or the target of a cartesian controller.

MoveIt Servo stops by itself when poses stop coming; a cartesian controller stays at the last one.
"""

from geometry_msgs.msg import Point, PoseStamped, Quaternion
from geometry_msgs.msg import Pose as PoseMessage
import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from vqbet_ros.ros import qos
from vqbet_ros.ros.commands.plain import ContinuousQuaternion
from vqbet_ros.spec import ActionSpec


class Pose:
    """`servo_pose` and `cartesian_pose`.

    Args:
        action: A pose in 9 numbers, in its `frame_id`.
    """

    def __init__(self, action: ActionSpec) -> None:
        self._action = action
        self._node: LifecycleNode | None = None

    @property
    def problem(self) -> str | None:
        """Nothing that listens to poses can be asked."""
        return None

    def configure(self, node: LifecycleNode) -> None:
        """Create the publisher."""
        self._publisher = node.create_lifecycle_publisher(
            PoseStamped, self._action.command_topic, qos.COMMAND
        )
        self._orientation = ContinuousQuaternion()
        self._node = node

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Publish position and 6-D rotation (9,), stamped now."""
        x, y, z = values[:3].tolist()
        qx, qy, qz, qw = self._orientation.next(values[3:]).tolist()
        pose = PoseMessage(
            position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw)
        )
        message = PoseStamped(pose=pose)
        message.header.frame_id = self._action.frame_id
        message.header.stamp = Time(nanoseconds=now_ns).to_msg()
        self._publisher.publish(message)

    def stop(self, now_ns: int) -> None:
        """Nothing to do: what was sent is a place, not a movement."""

    def close(self) -> None:
        """Destroy the publisher."""
        if self._node is not None:
            node, self._node = self._node, None
            node.destroy_lifecycle_publisher(self._publisher)
