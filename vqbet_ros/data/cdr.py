"""The bytes of serialised ROS messages (CDR), read without a ROS installation."""

from collections.abc import Iterable
from functools import lru_cache
import struct
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import get_typestore, Stores
from rosbags.typesys.store import Typestore
from vqbet_ros.errors import BadMessage
from vqbet_ros.message_types import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    JOY,
    POSE_STAMPED,
    TWIST_STAMPED,
)

WITH_HEADER = {
    IMAGE,
    COMPRESSED_IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    JOY,
    POSE_STAMPED,
    TWIST_STAMPED,
}
# Publishers may over-estimate a message's size: bytes beyond its end carry no meaning.
_MAX_TRAILING_BYTES = 64


def header_stamp_ns(cdr: bytes, type_name: str) -> int | None:
    """Read a message's header stamp without deserialising the message.

    Args:
        cdr: The serialised message, with its 4-byte encapsulation header.
        type_name: For example 'sensor_msgs/msg/Image'.

    Returns:
        Nanoseconds; None where the type has no header or its stamp was never set (zero).

    Raises:
        BadMessage: The message is shorter than a header.
    """
    if type_name not in WITH_HEADER:
        return None
    if len(cdr) < 12:
        raise BadMessage(f'{type_name}: {len(cdr)} bytes are too few for a header')
    seconds, nanoseconds = struct.unpack_from('<iI' if cdr[1] else '>iI', cdr, 4)
    return int(seconds * 1_000_000_000 + nanoseconds) or None


def same_content(one: bytes, other: bytes) -> bool:
    """Tell whether two serialised messages differ in nothing but their header's stamp.

    Args:
        one: A message of a type with a header, with its 4-byte encapsulation header.
        other: Likewise.
    """
    # As fast as it gets without a copy; it ends at once where the last bytes differ.
    return len(one) == len(other) and one.endswith(memoryview(other)[12:])


def warm_up(type_names: Iterable[str]) -> None:
    """Build the readers of these types now: the first message of a type would take 0.1 s.

    Args:
        type_names: Keys of DECODERS.
    """
    for type_name in type_names:
        _typestore().get_msgdef(type_name)


@lru_cache(maxsize=1)
def _typestore() -> Typestore:
    # These types are the same from Humble on; building a store takes 0.1 s.
    return get_typestore(Stores.ROS2_HUMBLE)


def deserialize(cdr: bytes, type_name: str) -> Any:
    """Deserialise; unlike `Typestore.deserialize_cdr`, let a few bytes follow the message.

    Raises:
        BadMessage: Truncated or damaged.
    """
    if len(cdr) < 4 or bytes(cdr[:2]) not in (b'\0\0', b'\0\1'):
        raise BadMessage(f'{type_name}: {len(cdr)} bytes without a CDR header')
    store = _typestore()
    definition = store.get_msgdef(type_name)
    read = definition.deserialize_cdr_le if cdr[1] else definition.deserialize_cdr_be
    try:
        message, end = read(memoryview(cdr)[4:], 0, definition.cls, store)
    except (SerdeError, struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise BadMessage(f'{type_name}: truncated or damaged ({error})') from error
    if end + 4 > len(cdr) + 3 or len(cdr) - end - 4 > _MAX_TRAILING_BYTES:
        raise BadMessage(f'{type_name}: {len(cdr)} bytes for a message of {end + 4}')
    return message
