"""Episodes that a crash left without an end, and what repairs them."""

from dataclasses import dataclass
from pathlib import Path
import shlex

from vqbet_ros.data.live import is_being_recorded
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
    """Find the episodes that earlier recorders left without an end, but no running one.

    Args:
        root: Folder of the episodes; need not exist.

    Raises:
        OSError: The folder cannot be read.
    """
    if not root.is_dir():
        return []
    return [Unfinished(path) for path in map(_left_in, sorted(root.iterdir())) if path]


def _left_in(folder: Path) -> Path | None:
    """Return the bag that a folder is, or stands for, if it has to be recovered."""
    if folder.suffix == COPY_SUFFIX:
        # Of a recovery that was killed at its last step, when the original was aside already.
        bag = folder.with_suffix('')
        return bag if is_whole(folder / bag.name) and not bag.exists() else None
    if folder.suffix == CRASHED_SUFFIX or not any(folder.glob('*.mcap')):
        return None
    # In this order: a bag that is ended in between is whole by then.
    return None if is_being_recorded(folder) or is_whole(folder) else folder
