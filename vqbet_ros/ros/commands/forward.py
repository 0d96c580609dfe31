"""Numbers alone, in the controller's own order: ros2_control's forward_command_controller.

Nothing below this has a timeout: the last command stays (docs/arms.md).
"""

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Float64MultiArray
from vqbet_ros.ros import qos
from vqbet_ros.ros.commands.joints_check import JointsCheck
from vqbet_ros.spec import ActionSpec


class Forward:
    """`forward_position` and `forward_velocity`: std_msgs/Float64MultiArray.

    Args:
        action: Positions or velocities of joints. Velocities are stopped with zeros; positions
            stay where they are without another message.
    """

    def __init__(self, action: ActionSpec) -> None:
        self._action = action
        self._node: LifecycleNode | None = None
        self._moving = False  # velocities were sent since the last stop

    @property
    def problem(self) -> str | None:
        """See `JointsCheck.problem`."""
        return self._check.problem if self._node is not None else None

    def configure(self, node: LifecycleNode) -> None:
        """Create the publisher, and begin to ask the controller for its joints."""
        topic = self._action.command_topic
        self._publisher = node.create_lifecycle_publisher(Float64MultiArray, topic, qos.COMMAND)
        self._check = JointsCheck(node, topic, self._action.names, ordered=True)
        self._node = node

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Publish (n,) numbers; the message has no stamp."""
        self._publisher.publish(Float64MultiArray(data=values.tolist()))
        self._moving = self._action.is_velocity

    def stop(self, now_ns: int) -> None:
        """Publish zeros if velocities were sent."""
        if self._moving:
            self._moving = False
            self._publisher.publish(Float64MultiArray(data=[0.0] * len(self._action.names)))

    def close(self) -> None:
        """Destroy the publisher and the client."""
        if self._node is not None:
            node, self._node = self._node, None
            self._check.destroy()
            node.destroy_lifecycle_publisher(self._publisher)
