"""One program at a time writes a dataset; one that was killed holds nothing back."""

from contextlib import ExitStack
import fcntl
import os
from pathlib import Path
import socket
from typing import TextIO

from vqbet_ros.data.layout import LOCK
from vqbet_ros.errors import BadDataset


class DatasetLock:
    """Holds a directory for this process alone, until `release` or the process's end.

    Args:
        folder: The dataset's directory; made if absent.

    Raises:
        BadDataset: Another process holds it, or it cannot be locked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _locked(folder / LOCK)
        except BlockingIOError as error:
            raise BadDataset(
                f'{folder} is being written by {_holder(folder / LOCK)}: wait until that is done, '
                'or write to another directory'
            ) from error
        except OSError as error:
            raise BadDataset(
                f'cannot make and lock the directory {folder}: {error.strerror or error}'
            ) from error

    def release(self) -> None:
        """Let others have it; a directory that was made, and never filled, is taken away."""
        if self._file.closed:
            return
        (self._folder / LOCK).unlink(missing_ok=True)  # while nobody else can hold it
        if self._made and self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()
        self._file.close()


def _locked(path: Path) -> TextIO:
    """Open a file that no other process has locked, and lock it.

    Raises:
        BlockingIOError: Another process has.
        OSError: It cannot be written or locked.
    """
    while True:
        with ExitStack() as stack:
            file = stack.enter_context(path.open('a+', encoding='utf-8'))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed it after it was opened here.
            if _is(file, path):
                file.truncate(0)
                file.write(f'process {os.getpid()} on {socket.gethostname()}')
                file.flush()
                stack.pop_all()
                return file


def _is(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8') or 'another process'
    except FileNotFoundError:
        return 'another process'
