"""The disk that episodes go to: how much is free, and what that means."""

from dataclasses import dataclass
from pathlib import Path

from vqbet_ros.errors import ConfigError
from vqbet_ros.recording.disk import DiskGuard, free_bytes, Level
from vqbet_ros.ros.recorder_parameters import RecorderParameters


@dataclass(frozen=True)
class Disk:
    """The disk at one moment.

    Attributes:
        level: What the free space asks for.
        free_gb: Free space.
        left_s: How long it lasts; None while nothing is written.
        problem: Why no episode can begin; empty if one can.
    """

    level: Level
    free_gb: float
    left_s: float | None
    problem: str = ''


class DiskWatch:
    """Looks at the disk.

    Args:
        root: Folder of the episodes; need not exist.
        values: Have the levels.
    """

    def __init__(self, root: Path, values: RecorderParameters) -> None:
        """Take the levels.

        Raises:
            ConfigError: They contradict each other.
        """
        self._root = root
        self._stop_gb = values.stop_free_gb
        try:
            self._guard = DiskGuard(
                warn_bytes=round(values.warn_free_gb * 1e9),
                stop_bytes=round(values.stop_free_gb * 1e9),
            )
        except ValueError as error:
            raise ConfigError(f'parameters warn_free_gb and stop_free_gb: {error}') from error

    def look(self, bytes_per_s: float) -> Disk:
        """Look now.

        Args:
            bytes_per_s: What is written meanwhile.
        """
        try:
            free = free_bytes(self._root)
        except OSError as error:
            return Disk('stop', 0.0, None, f'{self._root}: {error}')
        level, free_gb = self._guard.level(free), free / 1e9
        problem = ''
        if level == 'stop':
            problem = (
                f'{self._root}: {free_gb:.1f} GB of disk are free, expected at least '
                f'{self._stop_gb:g} GB (parameter stop_free_gb)'
            )
        return Disk(level, free_gb, self._guard.seconds_left(free, bytes_per_s), problem)
