"""Whether a bag holds exactly what it should, told by readers that did not write it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import hashlib
import os
from pathlib import Path
import struct
from typing import Any, IO

from mcap.reader import make_reader
from mcap.records import Channel, Message
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import Reader
from vqbet_ros.recording.folder import mcap_file, read_information

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


@dataclass
class Contents:
    """What a bag that was ended turned out to hold.

    Attributes:
        messages: How many could be read, per topic.
        start_ns: Log time of the earliest one; 0 without messages.
        last_ns: Log time of the latest one.
        problems: Everything that is not as it should be.
    """

    messages: dict[str, int] = field(default_factory=dict)
    start_ns: int = 0
    last_ns: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, topic: str, log_ns: int) -> None:
        """Count a message."""
        self.start_ns = min(self.start_ns or log_ns, log_ns)
        self.last_ns = max(self.last_ns, log_ns)
        self.messages[topic] += 1


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
    except OSError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        return [f'it cannot be read: {_text(error)}']
    found = (
        ('messages and checksums', read, dict(expected)),
        ('messages by the index', indexed, counts),
        ('messages by rosbags', opened, counts),
    )
    return [
        f'{what}: got {got}, expected {wanted}' for what, got, wanted in found if got != wanted
    ]


def look_through(path: Path, progress: Progress) -> Contents:
    """Read a bag that was ended as `vqbet prepare` does, checksums included, and count.

    Args:
        path: The bag's folder.
        progress: Told how far it is.

    Raises:
        OSError: The disk failed.
    """
    files = sorted(path.glob('*.mcap'))
    size = sum(file.stat().st_size for file in files)
    seen = Contents()
    indexed: Counter[str] = Counter()
    try:
        for file in files:
            with file.open('rb') as stream:
                indexed.update(_indexed_counts(stream))
        with Reader(path) as reader:
            seen.messages.update(dict.fromkeys(reader.topics, 0))
            done = 0
            for connection, log_ns, payload in reader.messages():
                seen.add(connection.topic, log_ns)
                done += len(payload)
                progress(min(done, size), size)
            told = {topic: info.msgcount for topic, info in reader.topics.items()}
        custom = read_information(path).get('custom_data')
    except OSError:
        raise
    except Exception as error:  # as above
        after = sum(seen.messages.values())
        seen.problems.append(f'after {after} messages it cannot be read: {_text(error)}')
        return seen
    if not isinstance(custom, dict | None):
        seen.problems.append(f'custom_data: got {custom!r}, expected texts by key')
    index = indexed or seen.messages  # other recorders need not count there
    for topic in sorted({*seen.messages, *index}):
        counts = seen.messages.get(topic, 0), index.get(topic, 0), told.get(topic, 0)
        if len(set(counts)) > 1:
            seen.problems.append(
                '{}: got {} messages, expected {} by the index, {} by metadata.yaml'.format(
                    topic, *counts
                )
            )
    return seen


def _text(error: Exception) -> str:
    return f'{type(error).__name__}: {error}'


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
