"""What the operator's hands do: emergency stop and deadman switch, as topics."""

from typing import Any

from rclpy.node import Node
from std_msgs.msg import Bool
from vqbet_ros.ros import qos
from vqbet_ros.ros.pipeline import Pipeline


class Operator:
    """Hands `~/estop` and, where the spec has a timeout for it, `~/deadman` to a pipeline.

    A switch that comes as a message is no safety function: the arm's own emergency stop stays in
    reach.

    Args:
        node: Subscribes.
        pipeline: Is told.
    """

    def __init__(self, node: Node, pipeline: Pipeline) -> None:
        self._node = node
        topics = {'~/estop': pipeline.estop}
        if pipeline.spec.runtime.watch.deadman_timeout_s is not None:
            topics['~/deadman'] = pipeline.deadman
        self._subscriptions: list[Any] = [
            node.create_subscription(
                Bool, topic, lambda message, tell=tell: tell(message.data), profile
            )
            for topic, tell in topics.items()
            for profile in qos.OPERATOR
        ]

    def destroy(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []
