"""What the operator's hands do: emergency stop and deadman switch, as topics.

A switch that comes as a message is no safety function: the arm's own emergency stop stays in
reach.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node, SubscriptionEventCallbacks  # type: ignore[attr-defined]
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool
from vqbet_ros.ros import qos


class Switch:
    """A topic that says whether something is pressed.

    Args:
        node: Subscribes.
        topic: Name.
        tell: Called with each message's content.
        profiles: How it is subscribed to.

    Attributes:
        pressed: What was heard last.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        tell: Callable[[bool], object],
        profiles: Sequence[QoSProfile] = qos.OPERATOR,
    ) -> None:
        """Listen."""
        self.pressed = False
        self._node, self._tell = node, tell
        self._subscriptions: list[Any] = [
            node.create_subscription(
                Bool,
                topic,
                self._on_message,
                profile,
                # Else there would be a warning of a publisher that one of them cannot hear.
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            )
            for profile in profiles
        ]

    def destroy(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_message(self, message: Bool) -> None:
        self.pressed = bool(message.data)
        self._tell(self.pressed)


class EmergencyStop:
    """A switch that is heard also where it was pressed before this node was there.

    That takes a publisher that keeps its last message, and a subscription that hears no other
    publisher. What comes twice comes in either order: so each of the two remembers what it heard
    last, and it is pressed as long as one of them says so.

    Args:
        node: Subscribes.
        topic: Name.
        tell: Called after each message with whether it is pressed.
    """

    def __init__(self, node: Node, topic: str, tell: Callable[[bool], object]) -> None:
        """Listen."""
        self._tell = tell
        self._switches = [
            Switch(node, topic, self._on_message, profiles)
            for profiles in (qos.OPERATOR, qos.LATCHED)
        ]

    @property
    def pressed(self) -> bool:
        """Whether it is pressed, as far as was heard."""
        return any(switch.pressed for switch in self._switches)

    def _on_message(self, _pressed: bool) -> None:
        self._tell(self.pressed)
