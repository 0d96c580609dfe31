"""Opening a bag for reading, or saying what is wrong with it and what repairs it."""

from pathlib import Path

from rosbags.rosbag2 import Reader
from rosbags.rosbag2.reader import DirectoryReader
from vqbet_ros.data.live import is_being_recorded
from vqbet_ros.errors import BadBag

METADATA = 'metadata.yaml'
STORAGES = ('.mcap', '.db3', '.zstd')


def opened(path: Path) -> Reader:
    """Return an open reader of a bag.

    Raises:
        BadBag: There is no bag, or it is not whole.
    """
    if not path.exists():
        raise BadBag(f'no such file or directory: {path}')
    if is_being_recorded(path):
        raise BadBag(f'{path} is being recorded, or recovered: wait until that has ended')
    if path.is_dir() and not (path / METADATA).exists():
        if not any(file.suffix in STORAGES for file in path.iterdir()):
            raise BadBag(
                f'{path} is no bag: it holds no {METADATA} and no file of {", ".join(STORAGES)}'
            )
        raise damaged(path, f'its {METADATA} is missing: the recorder was killed')
    if path.is_file() and path.suffix not in STORAGES:
        raise BadBag(f'{path} is no bag: expected a directory with {METADATA}, or an .mcap file')
    unwritten = [file for file in path.parent.glob(f'{path.name}*-wal') if path.is_file()]
    unwritten += path.glob('*.db3-wal') if path.is_dir() else []
    if any(file.stat().st_size for file in unwritten):
        raise BadBag(
            f'{unwritten[0]} holds messages that were never put into the bag: its recorder was '
            f"killed. Run: sqlite3 {str(unwritten[0])[:-4]} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )
    # Whatever a damaged file makes the readers and their decompressors raise.
    try:
        reader = Reader(path)
        reader.open()
        storage = reader.storage
        if isinstance(storage, DirectoryReader) and not isinstance(storage.files, list):
            storage.files = []  # else it cannot even be closed
            raise TypeError('its list of files is none')
    except Exception as error:
        raise damaged(path, text_of(error)) from error
    return reader


def damaged(path: Path, what: str) -> BadBag:
    """Return the error of a bag that is not whole."""
    return BadBag(f'{path} cannot be read as it is: {what}. {_repair(path)}')


def _repair(path: Path) -> str:
    """Say what repairs a bag; `vqbet recover` works on a folder with one MCAP file."""
    folder = path if path.is_dir() else path.parent
    files = [file for file in folder.iterdir() if file.suffix in STORAGES]
    if [file.suffix for file in files] == ['.mcap']:
        return f'To repair it: vqbet recover {folder}'
    if all(file.suffix == '.mcap' for file in files) or path.suffix == '.mcap':
        return 'To repair an MCAP file: put it into a folder of its own, and `vqbet recover` that'
    return f'Where only {METADATA} is missing or broken: ros2 bag reindex {folder}'


def text_of(error: Exception) -> str:
    """Return what an error says, or its name."""
    return str(error).rstrip('.') or type(error).__name__
