"""What the operator's hands do: emergency stop and deadman switch, as topics.

A switch that comes as a message is no safety function: the arm's own emergency stop stays in
reach.
"""

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from std_msgs.msg import Bool
from vqbet_ros.ros import qos


class Switch:
    """A topic that says whether something is pressed.

    Args:
        node: Subscribes.
        topic: Name.
        tell: Called with each message's content.

    Attributes:
        pressed: What was heard last.
    """

    def __init__(self, node: Node, topic: str, tell: Callable[[bool], object]) -> None:
        self.pressed = False
        self._node, self._tell = node, tell
        self._subscriptions: list[Any] = [
            node.create_subscription(Bool, topic, self._on_message, profile)
            for profile in qos.OPERATOR
        ]

    def destroy(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_message(self, message: Bool) -> None:
        self.pressed = bool(message.data)
        self._tell(self.pressed)
