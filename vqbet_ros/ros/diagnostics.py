"""Small helpers around diagnostic_msgs."""

from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue


def diagnostic(
    name: str, hardware_id: str, level: bytes, message: str, values: Mapping[str, Any]
) -> DiagnosticStatus:
    """Build one DiagnosticStatus.

    Args:
        name: Node and component, 'policy_node: inference'.
        hardware_id: The robot's name.
        level: DiagnosticStatus.OK, WARN, ERROR or STALE.
        message: One line for people.
        values: For programs; printed with str().
    """
    return DiagnosticStatus(
        name=name,
        hardware_id=hardware_id,
        level=level,
        message=message,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
