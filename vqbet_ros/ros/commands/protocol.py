"""What every way of commanding a robot has in common."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode


class CommandInterface(Protocol):
    """Puts the numbers of an arm, or of its gripper, into messages, and sends them.

    `send` and `stop` may come from any thread, but not at the same time; nothing here ever waits.
    """

    @property
    def problem(self) -> str | None:
        """Why the robot must not be moved; None where nothing is known against it.

        Whoever sends looks at it: while it stands a motion is brought to rest, which has to be
        sent all the same, and none is begun.
        """

    def configure(self, node: LifecycleNode) -> None:
        """Create what sends.

        Raises:
            VqbetError: A package of messages is missing.
        """

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Send what is due now.

        Args:
            values: (n,) finite numbers, within the limits.
            now_ns: The node's time, for the message's stamp.
        """

    def stop(self, now_ns: int) -> None:
        """Let the robot come to rest, if what it was sent would move it on; safe to call twice."""

    def close(self) -> None:
        """Destroy what `configure` created; safe to call twice."""
