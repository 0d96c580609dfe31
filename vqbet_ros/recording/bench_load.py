"""The load of `vqbet bench record`: an arm with four cameras, and what was sent of it.

Publisher, recorder and the comparison afterwards agree on this file. Each message ends with its
number on its topic, by which it is found again in a bag.
"""

from collections.abc import Iterable
from pathlib import Path
import struct
from typing import Any
import zlib

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.spec import (
    ActionSpec,
    CameraSpec,
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    JointLimits,
    RobotSpec,
    StateSpec,
)

WIDTH, HEIGHT = 640, 480
CAMERA_HZ, JOINTS_HZ = 30.0, 500.0
JOINTS = tuple(f'joint_{i + 1}' for i in range(7))
JOINTS_TOPIC = '/bench/joint_states'
TOPICS: dict[str, str] = {
    '/bench/raw_1/image_raw': IMAGE,
    '/bench/raw_2/image_raw': IMAGE,
    '/bench/jpeg_1/image_raw/compressed': COMPRESSED_IMAGE,
    '/bench/jpeg_2/image_raw/compressed': COMPRESSED_IMAGE,
    JOINTS_TOPIC: JOINT_STATE,
}
"""Message types by topic."""

LEDGER = np.dtype([('topic', 'u1'), ('number', '<i8'), ('stamp_ns', '<i8'), ('crc32', '<u4')])
"""One row of the ledger for each message that was sent; topics are counted as in TOPICS."""

NUMBER_BYTES = 8
_STAMP = struct.Struct('<iI')
_STAMP_AT = 4  # behind the encapsulation


def spec() -> RobotSpec:
    """Return the spec that makes a recorder record the load, and expect its rates."""
    cameras = [
        CameraSpec(
            name=topic.split('/')[2],
            topic=topic,
            type=kind,  # type: ignore[arg-type]
            height=HEIGHT,
            width=WIDTH,
            rate_hz=CAMERA_HZ,
            max_age_s=0.2,
        )
        for topic, kind in TOPICS.items()
        if kind in (IMAGE, COMPRESSED_IMAGE)
    ]
    joints = StateSpec(
        topic=JOINTS_TOPIC,
        type=JOINT_STATE,
        names=JOINTS,
        unit='rad',
        rate_hz=JOINTS_HZ,
        max_age_s=0.1,
    )
    # The demonstrator leads the arm by hand: there is no topic of commands.
    action = ActionSpec(
        names=JOINTS,
        unit='rad',
        record_topic=None,
        command_topic='/bench/commands',
        limits={name: JointLimits(position=(-3.2, 3.2)) for name in JOINTS},
    )
    return RobotSpec(
        robot='bench', rate_hz=30.0, action=action, cameras=tuple(cameras), state=(joints,)
    )


class Template:
    """A serialised message of which copies are made, each with its own stamp and number.

    Args:
        cdr: The message, little-endian, with a header at its beginning.
        mark: The 8 bytes in it that the number takes the place of.
        as_float: Whether the number is written as a float64 instead of an int64.
    """

    def __init__(self, cdr: bytes, mark: bytes, as_float: bool) -> None:
        at = cdr.rfind(mark)
        if len(mark) != NUMBER_BYTES or at < 0:
            raise ValueError(f'the mark of {len(mark)} bytes is not in the message')
        self._head = cdr[:_STAMP_AT]
        self._body = cdr[_STAMP_AT + _STAMP.size : at]
        self._tail = cdr[at + NUMBER_BYTES :]
        self._number = struct.Struct('<d' if as_float else '<q')

    def message(self, stamp_ns: int, number: int) -> bytes:
        """Return a copy with that stamp and number."""
        stamp = _STAMP.pack(*divmod(stamp_ns, 1_000_000_000))
        return b''.join((self._head, stamp, self._body, self._number.pack(number), self._tail))


def number_of(topic: str, cdr: Any) -> int:
    """Return a message's number.

    Args:
        topic: One of TOPICS.
        cdr: The message, as it was published.
    """
    layout = '<d' if TOPICS[topic] == JOINT_STATE else '<q'
    return int(struct.unpack_from(layout, cdr, len(cdr) - NUMBER_BYTES)[0])


def write_ledger(path: Path, rows: Iterable[tuple[int, int, int, int]]) -> None:
    """Write the ledger of a publisher."""
    np.save(path, np.array(list(rows), LEDGER), allow_pickle=False)


def read_ledger(path: Path) -> NDArray[Any]:
    """Read a ledger.

    Raises:
        OSError: There is none.
    """
    ledger: NDArray[Any] = np.load(path, allow_pickle=False)
    return ledger


def checksum(cdr: Any) -> int:
    """Return the CRC-32 of a message's bytes."""
    return zlib.crc32(cdr)
