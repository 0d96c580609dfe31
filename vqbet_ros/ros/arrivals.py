"""When each message was sent and came, and how many did not come, as the middleware tells it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.subscription import Subscription

# Humble's rclpy gives no such information: receive times are the callback's then, and messages
# that were lost on the way are not counted.
HAS_MESSAGE_INFO = hasattr(Subscription, 'CallbackType')


class Arrival(NamedTuple):
    """One message's way to here.

    Attributes:
        received_ns: When it came, by the node's clock.
        sent_ns: When it was published, on the same clock; where that is unknown, when it came.
        sequence: Its number on this topic, from 1 on; lost messages leave gaps. 0: unknown.
    """

    received_ns: int
    sent_ns: int
    sequence: int


class Arrivals:
    """Follows the messages of one topic, of any number of publishers.

    Args:
        node: Has the clock; with simulated time the middleware's stamps, which are the system's,
            are left aside.

    Attributes:
        lost: Messages that were published and did not arrive.
    """

    def __init__(self, node: Node) -> None:
        """Begin with the next message."""
        self.lost = 0
        self._clock = node.get_clock()
        self._sim_time = bool(node.get_parameter('use_sim_time').value)
        self._newest: dict[object, int] = {}
        self._sequence = 0

    def note(self, info: Mapping[str, Any] | None) -> Arrival:
        """Take the next message.

        Args:
            info: What rclpy gives beside the message; None where it gives nothing.
        """
        info = info or {}
        sequence = self._count(info)
        received_ns = 0 if self._sim_time else info.get('received_timestamp') or 0
        if not received_ns:
            now_ns = self._clock.now().nanoseconds
            return Arrival(now_ns, now_ns, sequence)
        return Arrival(received_ns, info.get('source_timestamp') or received_ns, sequence)

    def _count(self, info: Mapping[str, Any]) -> int:
        number = info.get('publication_sequence_number')
        if not number:
            return 0
        publisher = (info.get('publisher_gid') or {}).get('data')
        before = self._newest.get(publisher, number - 1)
        missing = max(0, number - before - 1)
        self._newest[publisher] = max(number, before)
        self.lost += missing
        self._sequence += 1 + missing
        return self._sequence
