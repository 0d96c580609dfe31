"""Free space: warn while there is time to act, and stop while the episode can still be ended."""

from dataclasses import dataclass
from pathlib import Path
import shutil
from typing import Literal

from vqbet_ros.checks import require

Level = Literal['ok', 'warn', 'stop']


@dataclass(frozen=True)
class DiskGuard:
    """Judges the free space of the disk that episodes go to.

    Attributes:
        warn_bytes: With less, the operator is warned.
        stop_bytes: With less, no episode begins and a running one is ended and kept. What waits
            in the queue, and the index that ends a bag, must still fit.
    """

    warn_bytes: int
    stop_bytes: int

    def __post_init__(self) -> None:
        """Refuse levels of which the warning would come too late."""
        require(
            (self.stop_bytes >= 0, f'stop_bytes: got {self.stop_bytes}, expected 0 or more'),
            (
                self.warn_bytes >= self.stop_bytes,
                f'warn_bytes: got {self.warn_bytes}, expected at least '
                f'stop_bytes ({self.stop_bytes})',
            ),
        )

    def level(self, free_bytes: int) -> Level:
        """Say what the free space asks for."""
        if free_bytes < self.stop_bytes:
            return 'stop'
        return 'warn' if free_bytes < self.warn_bytes else 'ok'

    def seconds_left(self, free_bytes: int, bytes_per_s: float) -> float | None:
        """Return how long an episode can go on; None while nothing is written."""
        if bytes_per_s <= 0:
            return None
        return max(0.0, (free_bytes - self.stop_bytes) / bytes_per_s)


def free_bytes(path: Path) -> int:
    """Return the free space where a folder is, or will be made.

    Raises:
        OSError: The disk cannot be asked.
    """
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
