"""Episodes that a crash left without an end, and what repairs them."""

from dataclasses import dataclass
from pathlib import Path
import shlex

from vqbet_ros.recording.bag import COPY_SUFFIX, CRASHED_SUFFIX, is_whole


@dataclass(frozen=True)
class Unfinished:
    """An episode that was cut short by a crash."""

    path: Path

    @property
    def command(self) -> str:
        """What repairs it."""
        return f'vqbet recover {shlex.quote(str(self.path))}'

    def __str__(self) -> str:
        return f'{self.path.name} was never ended; repair it: {self.command}'


def unfinished(root: Path) -> list[Unfinished]:
    """Find the episodes that earlier recorders left without an end; not while one is recorded.

    Args:
        root: Folder of the episodes; need not exist.

    Raises:
        OSError: The folder cannot be read.
    """
    if not root.is_dir():
        return []
    return [
        Unfinished(path)
        for path in sorted(root.iterdir())
        if path.suffix not in (CRASHED_SUFFIX, COPY_SUFFIX)
        and any(path.glob('*.mcap'))
        and not is_whole(path)
    ]
