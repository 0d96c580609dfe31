"""Quality of service, by what a topic is for."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

_BUSY_S = 0.2


def sensor_input(rate_hz: float = 0.0) -> QoSProfile:
    """Return how a sensor is subscribed to: best effort matches every publisher.

    Args:
        rate_hz: Of the sensor. What comes in while the machine is busy for a fifth of a second,
            and 5 messages in any case, is kept until it is taken.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=max(5, round(_BUSY_S * rate_hz)),
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


SENSOR_OUTPUT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Publishers of sensors: reliable matches every subscription."""

COMMAND = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Commands: as ros2_control's controllers take them; only the newest counts."""

OPERATOR = tuple(
    QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=10,
        reliability=reliability,
        durability=DurabilityPolicy.VOLATILE,
    )
    for reliability in (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT)
)
"""What an operator sends: the first loses nothing, the second hears also who sends best effort."""

LATCHED = (
    QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    ),
)
"""Hears who keeps the last message for those that come later, and nobody else."""

STATUS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Status and diagnostics."""

GOAL = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Goal images: none is lost, and publishers that keep their last message are heard as well."""
