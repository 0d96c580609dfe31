"""interbotix_xs_msgs/JointGroupCommand: positions for a group of Dynamixel joints.

The order is that of the group in the driver's motor configuration; the message carries no names.
The driver has no timeout: the last command stays (docs/arms.md).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from vqbet_ros.ros import qos
from vqbet_ros.ros.commands.messages import message_type
from vqbet_ros.spec import ActionSpec


class JointGroup:
    """`joint_group`.

    Args:
        action: Positions of joints; the options name their group.
    """

    def __init__(self, action: ActionSpec) -> None:
        self._action = action
        self._node: LifecycleNode | None = None
        self._type: Any = None

    @property
    def problem(self) -> str | None:
        """The driver's groups are not among its parameters."""
        return None

    def configure(self, node: LifecycleNode) -> None:
        """Create the publisher.

        Raises:
            UnknownType: interbotix_xs_msgs is not installed.
        """
        self._type = message_type(
            'interbotix_xs_msgs/msg/JointGroupCommand', "command_interface 'joint_group'"
        )
        self._publisher = node.create_lifecycle_publisher(
            self._type, self._action.command_topic, qos.COMMAND
        )
        self._node = node

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Publish (n,) positions; the message has no stamp."""
        group = self._action.command_options.group
        self._publisher.publish(self._type(name=group, cmd=values.tolist()))

    def stop(self, now_ns: int) -> None:
        """Nothing to do: what was sent is a place, not a movement."""

    def close(self) -> None:
        """Destroy the publisher."""
        if self._node is not None:
            node, self._node = self._node, None
            node.destroy_lifecycle_publisher(self._publisher)
