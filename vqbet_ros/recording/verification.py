"""Whether a bag holds exactly what it should, told by readers that did not write it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import hashlib
import os
from pathlib import Path
import struct
from typing import Any, IO

from mcap.exceptions import McapError
from mcap.reader import make_reader
from mcap.records import Channel, Message
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import Reader, ReaderError
from vqbet_ros.recording.folder import mcap_file

Progress = Callable[[int, int], None]
"""Called as (bytes done, bytes in all)."""

Result = tuple[int, str]
"""Count and checksum of one topic's messages."""


@dataclass
class Tally:
    """Count and checksum of one topic's messages, in the order of the file, stamps included."""

    count: int = 0
    checksum: Any = field(default_factory=hashlib.blake2b)

    def add(self, message: Message) -> None:
        """Count a message."""
        self.count += 1
        times = (message.log_time, message.publish_time, message.sequence, len(message.data))
        self.checksum.update(struct.pack('<QQIQ', *times))
        self.checksum.update(message.data)

    def result(self) -> Result:
        """Return count and checksum."""
        return self.count, self.checksum.hexdigest()


def verify(path: Path, expected: Mapping[str, Result], progress: Progress) -> list[str]:
    """Read a bag in three ways, and compare it with what it should hold.

    Args:
        path: The bag's folder.
        expected: Per topic.
        progress: Told the second half of the way.

    Returns:
        Every problem; none if all is as it should be.

    Raises:
        OSError: The disk failed.
    """
    file = mcap_file(path)
    counts = {topic: count for topic, (count, _) in expected.items()}
    try:
        with file.open('rb') as stream:
            read = _read_all(stream, progress)
        with file.open('rb') as stream:
            indexed = _indexed_counts(stream)
        with Reader(path) as reader:
            opened = {topic: info.msgcount for topic, info in reader.topics.items()}
    except (McapError, ReaderError, struct.error, ValueError) as error:
        return [f'it cannot be read: {error}']
    found = (
        ('messages and checksums', read, dict(expected)),
        ('messages by the index', indexed, counts),
        ('messages by rosbags', opened, counts),
    )
    return [
        f'{what}: got {got}, expected {wanted}' for what, got, wanted in found if got != wanted
    ]


def _read_all(stream: IO[bytes], progress: Progress) -> dict[str, Result]:
    # From the disk, not from what is still in memory.
    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    size = os.fstat(stream.fileno()).st_size
    channels: dict[int, Tally] = {}
    tallies: dict[str, Tally] = {}
    for record in StreamReader(stream, validate_crcs=True).records:
        if isinstance(record, Channel):
            channels[record.id] = tallies.setdefault(record.topic, Tally())
        elif isinstance(record, Message):
            channels[record.channel_id].add(record)
            progress(size + stream.tell(), 2 * size)
    progress(2 * size, 2 * size)
    return {topic: tally.result() for topic, tally in tallies.items()}


def _indexed_counts(stream: IO[bytes]) -> dict[str, int]:
    summary = make_reader(stream).get_summary()
    if summary is None or summary.statistics is None:
        return {}
    counts = summary.statistics.channel_message_counts
    return {channel.topic: counts.get(i, 0) for i, channel in summary.channels.items()}
