"""Who else is on the topics that command the robot."""

from collections.abc import Sequence

from rclpy.node import Node


class Neighbours:
    """Looks at the ROS graph.

    Args:
        node: Whose own publishers do not count.
        topics: Where it publishes commands.
    """

    def __init__(self, node: Node, topics: Sequence[str]) -> None:
        self._node = node
        self._topics = tuple(node.resolve_topic_name(topic) for topic in topics)
        self._own = (node.get_name(), node.get_namespace())

    def publishers(self) -> tuple[str, ...]:
        """Return the names of other nodes that publish commands too."""
        names = set()
        for topic in self._topics:
            own = 0
            for info in self._node.get_publishers_info_by_topic(topic):
                if (info.node_name, info.node_namespace) == self._own:
                    own += 1  # a second one of the same name is another process
                if (info.node_name, info.node_namespace) != self._own or own > 1:
                    names.add(f'{info.node_namespace.rstrip("/")}/{info.node_name} on {topic}')
        return tuple(sorted(names))

    def unheard(self) -> tuple[str, ...]:
        """Return the topics that nobody subscribes to."""
        return tuple(topic for topic in self._topics if not self._node.count_subscribers(topic))
