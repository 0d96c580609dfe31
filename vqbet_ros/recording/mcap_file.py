"""An MCAP file written chunk by chunk, each whole on the disk when `flush` returns.

The records are the `mcap` library's. Only what holds payloads, Message and Chunk, is put together
here: large payloads go from the middleware's buffer to the kernel without a copy, which takes a
third of the time of `mcap.writer` for raw images, and a chunk that did not fit on the disk is cut
off again, so that the file stays readable up to there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import os
from pathlib import Path
import struct
from typing import Any
import zlib

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)
from vqbet_ros.data.live import lock
from vqbet_ros.recording.chunks import (
    Chunk,
    CHUNK_HEAD,
    compress,
    Compression,
    MAX_NS,
    write_all,
)

MAGIC = b'\x89MCAP0\r\n'
PROFILE = 'ros2'
_CHUNK_FIELDS_BYTES = CHUNK_HEAD.size - 9 + 8
_U32 = 0xFFFF_FFFF


@dataclass(frozen=True)
class FileSummary:
    """What a finished file holds.

    Attributes:
        messages: How many, per channel id.
        bytes: The file's size.
        start_ns: Log time of the earliest message; 0 without messages.
        end_ns: Log time of the latest message; 0 without messages.
    """

    messages: dict[int, int]
    bytes: int
    start_ns: int
    end_ns: int


class McapFile:
    """Writes one MCAP file; used by one thread at a time. The file is locked until it is let go.

    Args:
        path: The file; it must not exist.
        compression: Of the chunks.
        chunk_bytes: A chunk is closed when it holds this much.
        library: Names the writer in the file.

    Attributes:
        counts: Messages in the file, per channel id; those of the open chunk do not count.
        size: Bytes in the file.

    Raises:
        FileExistsError: The file exists.
        OSError: It cannot be created.
    """

    def __init__(
        self, path: Path, compression: Compression, chunk_bytes: int, library: str
    ) -> None:
        """Create the file."""
        self.counts: dict[int, int] = {}
        self.size = 0
        self._path = path
        self._file = path.open('xb', buffering=0)
        self._chunk_bytes = chunk_bytes
        self._compression = compression
        self._chunk = Chunk()
        self._schemas: list[Schema] = []
        self._channels: list[Channel] = []
        self._chunk_index = bytearray()
        self._chunks = 0
        self._metadata: list[MetadataIndex] = []
        self._start_ns = MAX_NS
        self._end_ns = 0
        try:
            lock(self._file)
            self._append([MAGIC, _record(Header(PROFILE, library))])
        except BaseException:
            self._file.close()
            raise

    def add_schema(self, name: str, encoding: str, data: bytes) -> int:
        """Add a type's definition; return its id."""
        schema = Schema(id=len(self._schemas) + 1, name=name, encoding=encoding, data=data)
        self._append([_record(schema)])
        self._schemas.append(schema)
        return schema.id

    def add_channel(self, topic: str, schema_id: int, metadata: Mapping[str, str]) -> int:
        """Add a topic with CDR messages; return its id."""
        channel = Channel(
            id=len(self._channels) + 1,
            topic=topic,
            message_encoding='cdr',
            metadata=dict(metadata),
            schema_id=schema_id,
        )
        self._append([_record(channel)])
        self._channels.append(channel)
        self.counts[channel.id] = 0
        return channel.id

    def add_message(
        self, channel: int, payload: bytes, log_ns: int, publish_ns: int, sequence: int
    ) -> None:
        """Add a message to the open chunk, and write the chunk when it is full.

        Args:
            channel: From `add_channel`.
            payload: Kept until the chunk is written: it must not change.
            log_ns: When it was received, 0 or more.
            publish_ns: When it was sent, 0 or more.
            sequence: The publisher's number; the file holds its lowest 32 bits.

        Raises:
            KeyError: There is no such channel.
            OSError: The chunk could not be written; its messages are lost.
        """
        if channel not in self.counts:
            raise KeyError(channel)
        chunk = self._chunk
        chunk.add(channel, payload, log_ns, publish_ns, sequence & _U32)
        if chunk.size >= self._chunk_bytes:
            self.close_chunk()

    def add_metadata(self, name: str, entries: Mapping[str, str]) -> None:
        """Add texts by key, under a name."""
        record = _record(Metadata(name=name, metadata=dict(entries)))
        offset = self.size
        self._append([record])
        self._metadata.append(MetadataIndex(offset=offset, length=len(record), name=name))

    def close_chunk(self) -> None:
        """Write the open chunk; without messages in it, do nothing.

        Raises:
            OSError: It could not be written; its messages are lost, the file is as before.
        """
        chunk, self._chunk = self._chunk, Chunk()
        if not chunk.size:
            return
        crc = 0
        for part in chunk.parts:
            crc = zlib.crc32(part, crc)
        name, parts = compress(chunk.parts, self._compression)
        stored = sum(len(part) for part in parts)
        head = CHUNK_HEAD.pack(
            Opcode.CHUNK,
            _CHUNK_FIELDS_BYTES + len(name) + stored,
            chunk.start_ns,
            chunk.end_ns,
            chunk.size,
            crc,
            len(name),
        )
        head += name.encode() + struct.pack('<Q', stored)
        offset, length = self.size, len(head) + stored
        builder = RecordBuilder()
        index_offsets = {}
        for channel, records in chunk.records.items():
            index_offsets[channel] = offset + length + builder.count
            MessageIndex(channel_id=channel, records=records).write(builder)
        indexes = builder.end()
        self._append([head, *parts, indexes])
        index = ChunkIndex(
            chunk_start_offset=offset,
            chunk_length=length,
            compression=name,
            compressed_size=stored,
            message_start_time=chunk.start_ns,
            message_end_time=chunk.end_ns,
            message_index_offsets=index_offsets,
            message_index_length=len(indexes),
            uncompressed_size=chunk.size,
        )
        # Serialised at once: an hour of chunks as objects would take 100 MB.
        self._chunk_index += _record(index)
        self._chunks += 1
        self._start_ns = min(self._start_ns, chunk.start_ns)
        self._end_ns = max(self._end_ns, chunk.end_ns)
        for channel, records in chunk.records.items():
            self.counts[channel] += len(records)

    def sync(self) -> None:
        """Bring on the disk what was written, so that it survives a power cut.

        Raises:
            OSError: The disk failed.
        """
        try:
            os.fdatasync(self._file.fileno())
            # Nobody reads it back soon. Left in the page cache, an episode fills the memory, and
            # from then on the kernel makes whoever asks for some wait: callbacks, for 40 ms.
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            error.filename = str(self._path)
            raise

    def describe(self) -> FileSummary:
        """Say what the file holds, without the open chunk."""
        empty = self._start_ns > self._end_ns
        return FileSummary(
            messages=dict(self.counts),
            bytes=self.size,
            start_ns=0 if empty else self._start_ns,
            end_ns=0 if empty else self._end_ns,
        )

    def finish(self) -> FileSummary:
        """Write the summary and the end; the file is held until `release`.

        Raises:
            OSError: It could not be written; the file has no end, and can be recovered.
        """
        self.close_chunk()
        held = self.describe()
        data_end = _record(DataEnd(data_section_crc=0))
        start = self.size + len(data_end)
        statistics = Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts={i: count for i, count in self.counts.items() if count},
            chunk_count=self._chunks,
            message_count=sum(self.counts.values()),
            message_start_time=held.start_ns,
            message_end_time=held.end_ns,
            metadata_count=len(self._metadata),
            schema_count=len(self._schemas),
        )
        groups = (
            (Opcode.SCHEMA, b''.join(map(_record, self._schemas))),
            (Opcode.CHANNEL, b''.join(map(_record, self._channels))),
            (Opcode.STATISTICS, _record(statistics)),
            (Opcode.CHUNK_INDEX, bytes(self._chunk_index)),
            (Opcode.METADATA_INDEX, b''.join(map(_record, self._metadata))),
        )
        summary = b''.join(records for _, records in groups)
        offsets_start, group_start = start + len(summary), start
        for opcode, records in groups:
            if records:
                summary += _record(SummaryOffset(opcode, group_start, len(records)))
            group_start += len(records)
        # The CRC covers the footer up to itself.
        footer = _record(Footer(start, offsets_start, 0))
        crc = zlib.crc32(footer[:-4], zlib.crc32(summary))
        self._append([data_end, summary, footer[:-4], struct.pack('<I', crc), MAGIC])
        self.sync()
        return FileSummary(held.messages, self.size, held.start_ns, held.end_ns)

    def release(self) -> None:
        """Close the file as it is: from now on others may take it."""
        self._file.close()

    def _append(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Write all parts, or none."""
        total = sum(len(part) for part in parts)
        try:
            write_all(self._file.fileno(), parts)
        except OSError as error:
            os.ftruncate(self._file.fileno(), self.size)
            os.lseek(self._file.fileno(), self.size, os.SEEK_SET)
            error.filename = str(self._path)
            raise
        self.size += total


def _record(record: Any) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    data: bytes = builder.end()
    return data
