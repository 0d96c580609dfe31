"""Chunks of an MCAP file: messages put together so that a large payload is never copied."""

from collections.abc import Sequence
import os
import struct
from typing import Literal

import lz4.frame
from mcap.opcode import Opcode
import zstandard

Compression = Literal['none', 'lz4', 'zstd']

MESSAGE_HEAD = struct.Struct('<BQHIQQ')
"""Opcode, length, channel id, sequence, log time, publish time; the payload follows."""
CHUNK_HEAD = struct.Struct('<BQQQQII')
"""Opcode, length, start, end, size, CRC, length of the compression's name; name, size, data."""
_MESSAGE_FIELDS_BYTES = MESSAGE_HEAD.size - 9
# Smaller payloads are copied together: the kernel takes only so many pieces a call.
_COPIED_BYTES = 16 * 1024
_MAX_PIECES = os.sysconf('SC_IOV_MAX')
MAX_NS = 0xFFFF_FFFF_FFFF_FFFF


class Chunk:
    """Messages that are not yet in the file.

    Attributes:
        parts: The chunk's data, to be joined.
        records: Log time and place in the data of each message, per channel.
        size: Bytes of the data.
        start_ns: Earliest log time.
        end_ns: Latest log time.
    """

    def __init__(self) -> None:
        """Begin without messages."""
        self.parts: list[bytes | bytearray] = []
        self.records: dict[int, list[tuple[int, int]]] = {}
        self.size = 0
        self.start_ns = MAX_NS
        self.end_ns = 0

    def add(
        self, channel: int, payload: bytes, log_ns: int, publish_ns: int, sequence: int
    ) -> None:
        """Add a message; the payload is kept, and must not change."""
        length = _MESSAGE_FIELDS_BYTES + len(payload)
        head = MESSAGE_HEAD.pack(Opcode.MESSAGE, length, channel, sequence, log_ns, publish_ns)
        if not self.parts or not isinstance(self.parts[-1], bytearray):
            self.parts.append(bytearray())
        self.parts[-1] += head
        if len(payload) < _COPIED_BYTES:
            self.parts[-1] += payload
        else:
            self.parts.append(payload)
        self.records.setdefault(channel, []).append((log_ns, self.size))
        self.size += len(head) + len(payload)
        self.start_ns = min(self.start_ns, log_ns)
        self.end_ns = max(self.end_ns, log_ns)


def compress(
    parts: list[bytes | bytearray], compression: Compression
) -> tuple[str, Sequence[bytes | bytearray]]:
    """Compress a chunk's data; return the compression's name in the file, and the result."""
    if compression == 'none':
        return '', parts
    data = b''.join(parts)
    if compression == 'lz4':
        return 'lz4', [lz4.frame.compress(data)]
    # The fastest level that is worth the name: raw images at 55 MB/s must keep up.
    return 'zstd', [zstandard.ZstdCompressor(level=1).compress(data)]


def write_all(file: int, parts: Sequence[bytes | bytearray | memoryview]) -> None:
    """Write pieces one after the other, without joining them.

    Args:
        file: The descriptor of an open file.
        parts: In their order; however many.

    Raises:
        OSError: They could not be written, or not all of them.
    """
    for first in range(0, len(parts), _MAX_PIECES):
        left = [memoryview(part) for part in parts[first : first + _MAX_PIECES]]
        while left:
            written = os.writev(file, left)
            # A nearly full disk takes a part; the next call then says why.
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]
