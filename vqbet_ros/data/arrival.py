"""The order in which messages came, where their times do not tell it: a clock was set back.

Readers of bags sort by the time of arrival. Where that clock was set back (by NTP, by the reset of
a simulator), they interleave what came before with what came after. A recorder writes each topic
in the order of its arrival; that order is looked at here without the messages themselves, and read
where it differs.
"""

from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
import sqlite3
import struct

from mcap.data_stream import ReadDataStream
from mcap.reader import make_reader
from mcap.records import Chunk, ChunkIndex, Message
from mcap.stream_reader import breakup_chunk
from mcap.summary import Summary
import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.observation import CLOCK_RESET_NS

Written = tuple[str, str, int, bytes]
"""Topic, type, time of arrival, payload."""

_INDEX = struct.Struct('<BQHI')  # of a chunk's messages of one channel: opcode, length, id, size
_MCAP = '.mcap'


def is_set_back(file: Path) -> bool:
    """Tell whether a topic's times of arrival go back in the order in which they were written.

    Args:
        file: An MCAP or SQLite file that readers can open.

    Raises:
        Exception: Whatever a damaged file makes its reader raise.
    """
    newest_ns: dict[int, int] = {}
    for topic, times_ns in _mcap_times(file) if file.suffix == _MCAP else _sqlite_times(file):
        before_ns = newest_ns.get(topic, int(times_ns[0]))
        highest = np.maximum(np.maximum.accumulate(times_ns), before_ns)
        if (highest - times_ns > CLOCK_RESET_NS).any():
            return True
        newest_ns[topic] = int(highest[-1])
    return False


def as_written(file: Path, topics: Collection[str]) -> Iterator[Written]:
    """Read a file's messages in the order in which they were written.

    Raises:
        Exception: Whatever a damaged file makes its reader raise.
    """
    return _mcap_messages(file, topics) if file.suffix == _MCAP else _sqlite_rows(file, topics)


def _mcap_times(file: Path) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Iterate over the times of each chunk's channels, from the indices behind the chunks."""
    with file.open('rb') as stream:
        for chunk in _chunks(make_reader(stream).get_summary()):
            stream.seek(chunk.chunk_start_offset + chunk.chunk_length)
            indices = stream.read(chunk.message_index_length)
            place = 0
            while place < len(indices):
                _, _, channel, size = _INDEX.unpack_from(indices, place)
                place += _INDEX.size
                entries = np.frombuffer(indices, '<i8', size // 8, place).reshape(-1, 2)
                place += size
                if len(entries):
                    yield channel, entries[entries[:, 1].argsort(), 0]  # by place in the chunk


def _mcap_messages(file: Path, topics: Collection[str]) -> Iterator[Written]:
    with file.open('rb') as stream:
        summary = make_reader(stream).get_summary()
        if summary is None:
            return
        wanted = {
            number: (channel.topic, summary.schemas[channel.schema_id].name)
            for number, channel in summary.channels.items()
            if channel.topic in topics
        }
        for index in _chunks(summary):
            stream.seek(index.chunk_start_offset + 9)
            chunk = Chunk.read(ReadDataStream(stream))
            for record in breakup_chunk(chunk, validate_crc=True):
                if isinstance(record, Message) and record.channel_id in wanted:
                    yield *wanted[record.channel_id], record.log_time, record.data


def _chunks(summary: Summary | None) -> list[ChunkIndex]:
    """Return a file's chunks as they lie in it; none where it has no index of them."""
    chunks = summary.chunk_indexes if summary else []
    return sorted(chunks, key=lambda chunk: chunk.chunk_start_offset)


def _sqlite_times(file: Path) -> Iterator[tuple[int, NDArray[np.int64]]]:
    with closing(_database(file)) as database:
        for (topic,) in database.execute('SELECT id FROM topics').fetchall():
            rows = database.execute(
                'SELECT timestamp FROM messages WHERE topic_id = ? ORDER BY id', (topic,)
            )
            times_ns = np.fromiter((time_ns for (time_ns,) in rows), np.int64)
            if len(times_ns):
                yield topic, times_ns


def _sqlite_rows(file: Path, topics: Collection[str]) -> Iterator[Written]:
    with closing(_database(file)) as database:
        for row in database.execute(
            'SELECT name, type, timestamp, data FROM messages JOIN topics '
            'ON topics.id = messages.topic_id ORDER BY messages.id'
        ):
            if row[0] in topics:
                yield row


def _database(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f'{file.absolute().as_uri()}?immutable=1', uri=True)
