"""What can still be read of an MCAP file without an end.

That is every whole record, and of a chunk that was cut short the messages that are whole.
Readers of whole files start from the summary at the end; this one starts from the beginning and
believes nothing: sizes, checksums and references are checked, and what does not fit is counted.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
import io
from pathlib import Path
import struct
from types import TracebackType
from typing import Any, IO

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Metadata, Schema
from mcap.stream_reader import get_chunk_data_stream
from vqbet_ros.errors import BadBag
from vqbet_ros.recording.chunks import CHUNK_HEAD, Compression
from vqbet_ros.recording.mcap_file import MAGIC
from vqbet_ros.recording.metadata import RECORD_KEY, RECORD_NAME
import yaml
import zstandard

Record = Schema | Channel | Message | Metadata

_COMPRESSIONS: dict[str, Compression] = {'lz4': 'lz4', 'zstd': 'zstd'}
_HEAD = struct.Struct('<BQ')
_MESSAGE = struct.Struct('<HIQQ')
_READ: dict[int, Any] = {
    Opcode.SCHEMA: Schema,
    Opcode.CHANNEL: Channel,
    Opcode.METADATA: Metadata,
}
# File systems may show zeros where a power cut kept data from being written.
_ZEROS_BYTES = 4096
_DAMAGED = (
    McapError,
    MemoryError,
    RuntimeError,  # lz4
    UnicodeDecodeError,
    ValueError,  # checksums
    struct.error,
    zstandard.ZstdError,
)


@dataclass(frozen=True)
class Beginning:
    """What an MCAP file tells before its first message.

    Attributes:
        information: What was written about the bag when it was opened; empty if nothing was.
        compression: Of its first chunk.
    """

    information: dict[str, Any]
    compression: Compression


class Salvage:
    """Reads a file from its beginning; a context manager.

    Args:
        file: The MCAP file.

    Attributes:
        size: Of the file, in bytes.
        position: How far it has been read, in bytes.
        lost_bytes: Bytes so far from which nothing could be read.
        damaged_chunks: Chunks so far whose checksum or content was wrong.
        compression: Of the first chunk; empty for none.
        complete: The end of the messages was reached; what follows them does not matter.

    Raises:
        BadBag: It is not an MCAP file.
    """

    def __init__(self, file: Path) -> None:
        """Open the file."""
        self.size = file.stat().st_size
        self.position = 0
        self.lost_bytes = 0
        self.damaged_chunks = 0
        self.compression = ''
        self.complete = False
        self._schemas: set[int] = set()
        self._channels: set[int] = set()
        self._stream: IO[bytes] = file.open('rb')
        magic = self._stream.read(len(MAGIC))
        if not MAGIC.startswith(magic.rstrip(b'\0')):
            self._stream.close()
            raise BadBag(f'{file}: not an MCAP file, it begins with {magic!r}')

    def __enter__(self) -> 'Salvage':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def records(self) -> Iterator[Record]:
        """Yield what is whole, in the order of the file; to be called once.

        Schemas come before their channels, channels before their messages.

        Raises:
            OSError: The disk failed.
        """
        self.position = kept = len(MAGIC)
        while not self.complete:
            start = self.position + _HEAD.size
            self._stream.seek(self.position)
            head = self._stream.read(_HEAD.size)
            if start > self.size:
                break
            opcode, length = _HEAD.unpack(head)
            if opcode == 0 or start + length > self.size:
                if opcode == Opcode.CHUNK:
                    kept = yield from self._cut_chunk(self._stream.read(self.size - start), kept)
                break
            if opcode == Opcode.CHUNK:
                yield from self._chunk(self._stream.read(length))
            elif opcode == Opcode.MESSAGE or opcode in _READ:
                yield from self._record(opcode, self._stream.read(length))
            self.position = kept = start + length
            # Behind the data there is only what can be made again.
            self.complete = opcode == Opcode.DATA_END and length == 4
        if not self.complete:
            self.lost_bytes += max(0, self.size - kept)
        self.position = self.size

    def _chunk(self, body: bytes) -> Iterator[Record]:
        try:
            chunk = Chunk.read(ReadDataStream(io.BytesIO(body)))
            stream, length = get_chunk_data_stream(chunk, validate_crc=True)
            data = stream.read(length)
        except _DAMAGED:
            self.damaged_chunks += 1
            self.lost_bytes += _HEAD.size + len(body)
            return
        self.compression = self.compression or chunk.compression
        read = yield from self._inside(data)
        self.lost_bytes += len(data) - read

    def _cut_chunk(self, body: bytes, kept: int) -> Generator[Record, None, int]:
        """Read what is there of the last chunk; return where in the file the readable part ends.

        Its checksum covers what is missing too, and is of no use.
        """
        content = body.rstrip(b'\0')
        if len(body) - len(content) >= _ZEROS_BYTES:
            body = content
        fields = CHUNK_HEAD.size - _HEAD.size
        data_starts = fields + 8  # without a name of a compression
        if len(body) < data_starts or CHUNK_HEAD.unpack_from(bytes(_HEAD.size) + body)[-1]:
            return kept
        read = yield from self._inside(body[data_starts:])
        return self.position + _HEAD.size + data_starts + read if read else kept

    def _inside(self, data: bytes) -> Generator[Record, None, int]:
        """Read the whole records of a chunk; return how many bytes they are."""
        view, position = memoryview(data), 0
        while position + _HEAD.size <= len(view):
            opcode, length = _HEAD.unpack_from(view, position)
            start = position + _HEAD.size
            if opcode == 0 or start + length > len(view):
                break
            yield from self._record(opcode, bytes(view[start : start + length]))
            position = start + length
        return position

    def _record(self, opcode: int, body: bytes) -> Iterator[Record]:
        try:
            if opcode == Opcode.MESSAGE:
                channel, sequence, log_ns, publish_ns = _MESSAGE.unpack_from(body)
                if channel not in self._channels:
                    raise ValueError(channel)
                yield Message(channel, log_ns, body[_MESSAGE.size :], publish_ns, sequence)
            elif opcode in _READ:
                record = _READ[opcode].read(ReadDataStream(io.BytesIO(body)))
                if isinstance(record, Schema):
                    self._schemas.add(record.id)
                if isinstance(record, Channel):
                    if record.schema_id not in self._schemas or record.message_encoding != 'cdr':
                        raise ValueError(record.topic)
                    self._channels.add(record.id)
                yield record
        except _DAMAGED:
            self.lost_bytes += _HEAD.size + len(body)


def information_in(record: Metadata) -> dict[str, Any]:
    """Return what a metadata record says about the bag; nothing if it is another's or broken."""
    if record.name != RECORD_NAME:
        return {}
    try:
        information = yaml.safe_load(record.metadata.get(RECORD_KEY, ''))
    except yaml.YAMLError:
        return {}
    return information if isinstance(information, dict) else {}


def beginning_of(file: Path) -> Beginning:
    """Read an MCAP file up to its first message.

    Raises:
        BadBag: It is not an MCAP file.
        OSError: The disk failed.
    """
    information: dict[str, Any] = {}
    with Salvage(file) as salvage:
        for record in salvage.records():
            if isinstance(record, Message):
                break
            if isinstance(record, Metadata):
                information = information_in(record) or information
        return Beginning(information, _COMPRESSIONS.get(salvage.compression, 'none'))
