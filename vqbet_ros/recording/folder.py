"""The folder of a bag: what lies in it, whether it is whole, and its metadata.yaml."""

from collections.abc import Mapping
import os
from pathlib import Path
import struct
from typing import Any

from mcap.opcode import Opcode
from vqbet_ros.data.bag_folders import COPY_SUFFIX as COPY_SUFFIX
from vqbet_ros.data.bag_folders import CRASHED_SUFFIX as CRASHED_SUFFIX
from vqbet_ros.data.layout import write_atomically
from vqbet_ros.errors import BadBag
from vqbet_ros.recording.mcap_file import MAGIC
from vqbet_ros.recording.metadata import custom_data_of, parse_information, ROOT_KEY, to_yaml
from vqbet_ros.recording.salvage import beginning_of

METADATA = 'metadata.yaml'
_FOOTER = struct.Struct('<BQQQI')


def update_custom_data(path: Path | str, changes: Mapping[str, str]) -> None:
    """Change or add texts in the metadata.yaml of a closed bag.

    Args:
        path: The bag's folder.
        changes: Texts by key; other keys stay.

    Raises:
        BadBag: There is no metadata.yaml, or it is broken.
        OSError: It could not be written; the old one is untouched.
    """
    information = read_information(Path(path))
    information['custom_data'] = {**custom_data_of(information), **changes}
    write_information(Path(path), information)


def read_custom_data(path: Path | str) -> dict[str, str]:
    """Read the texts of a bag; of an unfinished one those that were known at its start.

    Raises:
        BadBag: There is no bag, or its metadata.yaml is broken.
    """
    path = Path(path)
    if (path / METADATA).is_file():
        return custom_data_of(read_information(path))
    return custom_data_of(beginning_of(mcap_file(path)).information)


def is_whole(path: Path | str) -> bool:
    """Tell whether a bag was closed: it has metadata.yaml, and its files have their ends."""
    path = Path(path)
    if not (path / METADATA).is_file():
        return False
    try:
        names = read_information(path).get('relative_file_paths')
    except BadBag:
        return False
    files = [path / str(name) for name in names] if isinstance(names, list) else []
    return bool(files) and all(file.is_file() and has_end(file) for file in files)


def has_end(file: Path) -> bool:
    """Tell whether an MCAP file ends as a finished one does."""
    with file.open('rb') as stream:
        size = stream.seek(0, os.SEEK_END)
        length = _FOOTER.size + len(MAGIC)
        if size < length:
            return False
        stream.seek(size - length)
        tail = stream.read(length)
    opcode, footer_length, summary_start, _, _ = _FOOTER.unpack_from(tail)
    footer = opcode == Opcode.FOOTER and footer_length == _FOOTER.size - 9
    return tail.endswith(MAGIC) and footer and len(MAGIC) < summary_start < size


def mcap_file(path: Path) -> Path:
    """Find the one MCAP file of a bag.

    Raises:
        BadBag: There is no such folder, or not exactly one such file in it.
    """
    if not path.is_dir():
        what = 'is a file' if path.exists() else 'no such folder'
        raise BadBag(f'{path}: {what}, expected the folder of a bag')
    files = sorted(path.glob('*.mcap'))
    if len(files) != 1:
        got = ', '.join(file.name for file in files) or 'none'
        raise BadBag(f'{path}: got {got}, expected one .mcap file')
    return files[0]


def read_information(path: Path) -> dict[str, Any]:
    """Read the metadata.yaml of a bag.

    Raises:
        BadBag: There is none, or it is broken.
    """
    file = path / METADATA
    if not file.is_file():
        raise BadBag(
            f'{path}: no {METADATA}: the bag was not closed; run `vqbet recover {path}`'
            if path.is_dir()
            else f'{path}: no such folder, expected a bag'
        )
    return parse_information(file.read_text(encoding='utf-8', errors='replace'), str(file))


def write_information(path: Path, information: Mapping[str, Any]) -> None:
    """Write the metadata.yaml of a bag: whole, or not at all.

    Raises:
        OSError: The disk failed.
    """
    write_atomically(path / METADATA, to_yaml({ROOT_KEY: dict(information)}).encode())
    sync_folder(path)


def sync_folder(path: Path) -> None:
    """Make new names in a folder survive a power cut.

    Raises:
        OSError: The disk failed.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
