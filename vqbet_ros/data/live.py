"""Whether a bag is being recorded: whoever writes its file holds a lock until the bag is whole.

The lock is flock's: it ends with its process, and keeps nobody from reading. Where the file system
knows no such locks, no bag counts as being recorded.
"""

import errno
import fcntl
from pathlib import Path
from typing import Any, IO


def lock(file: IO[Any]) -> bool:
    """Keep other recorders and recoveries from a file until it is closed.

    Args:
        file: Opened for writing: NFS locks no other.

    Returns:
        False if the file system knows no such locks.

    Raises:
        BlockingIOError: Another one has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        why = 'another program is recording, recovering or looking at this file; try again'
        raise BlockingIOError(errno.EWOULDBLOCK, why, file.name) from None
    except OSError:
        return False
    return True


def is_being_recorded(bag: Path) -> bool:
    """Tell whether a bag, a folder or a bare file, is being recorded or recovered right now."""
    return any(_is_locked(file) for file in (bag.glob('*.mcap') if bag.is_dir() else [bag]))


def _is_locked(path: Path) -> bool:
    try:
        with path.open('rb') as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no such locks; or no such file, which whoever reads it says better
    return False
