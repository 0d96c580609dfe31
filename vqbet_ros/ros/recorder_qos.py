"""Quality of service of the recorder's subscriptions: what the publishers offer, as rosbag2."""

from collections.abc import Sequence

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from vqbet_ros.recording.metadata import (
    Durability,
    History,
    Liveliness,
    QosProfile,
    Reliability,
)

# What waits in the middleware while Python is busy elsewhere: a second of messages.
_DEPTH_S = 1.0
_MIN_DEPTH, _DEPTH, _MAX_DEPTH = 10, 100, 1000


def adapted(offers: Sequence[QoSProfile], depth: int) -> QoSProfile:
    """Return what to ask for, so that every publisher's messages come: rosbag2's rule.

    Args:
        offers: Of every publisher; at least one.
        depth: Messages that may wait.

    Returns:
        Reliable only if all are, latched (transient local) only if all are.
    """
    reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
    latched = all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        # Each publisher of /tf_static latches messages of its own.
        depth=max(depth, _MAX_DEPTH) if latched else depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=(DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE),
    )


def offered(qos: QoSProfile) -> QosProfile:
    """Turn what a publisher offers into what a bag says of it."""
    return QosProfile(
        history=History(int(qos.history)),
        depth=qos.depth,
        reliability=Reliability(int(qos.reliability)),
        durability=Durability(int(qos.durability)),
        deadline_ns=qos.deadline.nanoseconds,
        lifespan_ns=qos.lifespan.nanoseconds,
        liveliness=Liveliness(int(qos.liveliness)),
        liveliness_lease_ns=qos.liveliness_lease_duration.nanoseconds,
        avoid_ros_namespace_conventions=qos.avoid_ros_namespace_conventions,
    )


def depth_for(rate_hz: float | None) -> int:
    """Return how many messages may wait for Python.

    Args:
        rate_hz: The stream's rate, where it is known.
    """
    if rate_hz is None:
        return _DEPTH
    return min(max(round(rate_hz * _DEPTH_S), _MIN_DEPTH), _MAX_DEPTH)


def same(one: QoSProfile, other: QoSProfile) -> bool:
    """Tell whether two subscriptions ask for the same."""
    return (one.reliability, one.durability) == (other.reliability, other.durability)


def asks_too_much(asked: QoSProfile, offers: Sequence[QoSProfile]) -> bool:
    """Tell whether a subscription gets nothing from some publisher."""
    least = adapted(offers, asked.depth)
    return (
        asked.reliability == ReliabilityPolicy.RELIABLE != least.reliability
        or asked.durability == DurabilityPolicy.TRANSIENT_LOCAL != least.durability
    )
