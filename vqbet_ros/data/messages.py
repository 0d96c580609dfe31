"""Serialised ROS messages (CDR) to the arrays that the spec asks for, without a ROS installation.

Bags and live topics both carry CDR bytes, and both come through the functions of this file:
a frame that went through a bag and a frame from a live topic give the same array, bit for bit.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.serde import SerdeError
from rosbags.typesys import get_typestore, Stores
from rosbags.typesys.store import Typestore
from vqbet_ros.errors import BadMessage, listed
from vqbet_ros.spec import (
    CameraSpec,
    COMPRESSED_IMAGE,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    StateSpec,
)
from vqbet_ros.structured import did_you_mean

# Channels per pixel, and the order in which they give R, G, B.
_ENCODINGS: dict[str, tuple[int, tuple[int, int, int]]] = {
    'rgb8': (3, (0, 1, 2)),
    'bgr8': (3, (2, 1, 0)),
    'rgba8': (4, (0, 1, 2)),
    'bgra8': (4, (2, 1, 0)),
    'mono8': (1, (0, 0, 0)),
}
_WITH_HEADER = {IMAGE, COMPRESSED_IMAGE, JOINT_STATE}
# A spec that squashes the picture by more than this was meant for another camera mode.
_ASPECT_TOLERANCE = 0.02
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
    if type_name not in _WITH_HEADER:
        return None
    if len(cdr) < 12:
        raise BadMessage(f'{type_name}: {len(cdr)} bytes are too few for a header')
    seconds, nanoseconds = struct.unpack_from('<iI' if cdr[1] else '>iI', cdr, 4)
    return int(seconds * 1_000_000_000 + nanoseconds) or None


def decode_image(cdr: bytes, camera: CameraSpec) -> NDArray[np.uint8]:
    """Decode a `sensor_msgs/msg/Image`.

    Args:
        cdr: The serialised message.
        camera: Says the crop and the size to deliver.

    Returns:
        (height, width, 3) RGB of the camera's size, contiguous.

    Raises:
        BadMessage: Unknown encoding, wrong sizes, truncated data.
    """
    message = _deserialize(cdr, IMAGE)
    if message.encoding not in _ENCODINGS:
        raise BadMessage(
            f"camera '{camera.name}': encoding '{message.encoding}' is not supported, "
            f'expected one of {", ".join(_ENCODINGS)}' + did_you_mean(message.encoding, _ENCODINGS)
        )
    channels, order = _ENCODINGS[message.encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    row = width * channels
    if height == 0 or row == 0 or step < row or message.data.size < step * (height - 1) + row:
        raise BadMessage(
            f"camera '{camera.name}': a {width}x{height} {message.encoding} image with "
            f'step {step} does not fit its {message.data.size} bytes of data'
        )
    # Rows may be padded to `step` bytes, and the last row's padding may be left out.
    pixels = np.lib.stride_tricks.as_strided(
        message.data, shape=(height, width, channels), strides=(step, channels, 1), writeable=False
    )
    return to_spec_size(pixels[..., order], camera)


def decode_compressed_image(cdr: bytes, camera: CameraSpec) -> NDArray[np.uint8]:
    """Decode a `sensor_msgs/msg/CompressedImage` that holds a JPEG or PNG file.

    Args:
        cdr: The serialised message.
        camera: Says the crop and the size to deliver.

    Returns:
        (height, width, 3) RGB of the camera's size, contiguous.

    Raises:
        BadMessage: Neither JPEG nor PNG, truncated, deeper than 8 bits, wrong size.
    """
    message = _deserialize(cdr, COMPRESSED_IMAGE)
    what = f"camera '{camera.name}': compressed image with format '{message.format}'"
    content = bytes(message.data)
    # Decoders fill the missing part of a truncated picture with grey, so its end is checked here.
    if content.startswith(b'\xff\xd8'):
        complete = content.rstrip(b'\0').endswith(b'\xff\xd9')
    elif content.startswith(b'\x89PNG\r\n\x1a\n'):
        complete = content[-8:-4] == b'IEND'
        if complete and content[24] != 8:
            raise BadMessage(f'{what}: {content[24]} bits per channel, expected 8')
    else:
        raise BadMessage(f'{what}: neither a JPEG nor a PNG ({len(content)} bytes)')
    if not complete:
        raise BadMessage(f'{what}: truncated after {len(content)} bytes')
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        raise BadMessage(f'{what}: {len(content)} bytes that do not decode')
    return to_spec_size(pixels[..., ::-1].astype(np.uint8, copy=False), camera)


def decode_joint_state(cdr: bytes, state: StateSpec) -> NDArray[np.float64]:
    """Decode a `sensor_msgs/msg/JointState`, joined by joint name.

    Args:
        cdr: The serialised message; its joints may come in any order, with others among them.
        state: Names the joints and fields.

    Returns:
        (channels,) in the order of the state's channels, in its unit.

    Raises:
        BadMessage: Lists every missing joint, short field and non-finite value.
    """
    message = _deserialize(cdr, JOINT_STATE)
    index = {name: i for i, name in enumerate(message.name)}
    missing = [name for name in state.names if name not in index]
    if missing:
        raise BadMessage(
            listed(
                f'{state.topic}: missing joint(s), got {", ".join(message.name) or "none"}',
                [name + did_you_mean(name, index) for name in missing],
            )
        )
    problems = [
        f'joint {name} appears more than once'
        for name in state.names
        if message.name.count(name) > 1
    ]
    columns: list[NDArray[np.float64]] = []
    for field in state.fields:
        values = getattr(message, field)
        if values.size != len(message.name):
            problems.append(f"field '{field}' has {values.size} values for {len(message.name)}")
            continue
        columns.append(values[[index[name] for name in state.names]])
    if problems:
        raise BadMessage(listed(f'{state.topic}: incomplete joint state', problems))
    return _finite(np.concatenate(columns), state)


def decode_float64_array(cdr: bytes, state: StateSpec) -> NDArray[np.float64]:
    """Decode a `std_msgs/msg/Float64MultiArray`, whose values are in the spec's order.

    Args:
        cdr: The serialised message.
        state: Names the values.

    Returns:
        (names,) in the state's unit.

    Raises:
        BadMessage: Another number of values than names, or a non-finite value.
    """
    message = _deserialize(cdr, FLOAT64_MULTI_ARRAY)
    if message.data.size != len(state.names):
        raise BadMessage(
            f'{state.topic}: got {message.data.size} values, expected {len(state.names)} '
            f'({", ".join(state.names)})'
        )
    return _finite(message.data.astype(np.float64), state)


def to_spec_size(pixels: NDArray[np.uint8], camera: CameraSpec) -> NDArray[np.uint8]:
    """Cut out the camera's crop, then shrink without aliasing; refuse what would distort.

    Args:
        pixels: (H, W, 3) RGB as the camera delivers it.
        camera: Says the crop in source pixels, and the size to deliver.

    Returns:
        (height, width, 3) contiguous; the same pixels where the size is already right.

    Raises:
        BadMessage: Smaller than the crop or the size, or of another shape.
    """
    height, width = pixels.shape[:2]
    got = f"camera '{camera.name}': the picture is {width}x{height}"
    if camera.crop is not None:
        bottom, right = camera.crop.top + camera.crop.height, camera.crop.left + camera.crop.width
        if bottom > height or right > width:
            raise BadMessage(
                f'{got}, too small for the crop that ends at column {right}, row {bottom}'
            )
        pixels = pixels[camera.crop.top : bottom, camera.crop.left : right]
        height, width = pixels.shape[:2]
    if (height, width) == (camera.height, camera.width):
        return np.ascontiguousarray(pixels)
    wanted = f'expected {camera.width}x{camera.height}'
    if height < camera.height or width < camera.width:
        raise BadMessage(f'{got}, {wanted} or larger: set the camera to a larger mode')
    stretch = (width / height) / (camera.width / camera.height)
    if abs(stretch - 1.0) > _ASPECT_TOLERANCE:
        raise BadMessage(
            f'{got}, {wanted} or the same shape: set the camera to that shape, '
            "or cut it with the spec's `crop`"
        )
    resized = cv2.resize(
        np.ascontiguousarray(pixels), (camera.width, camera.height), interpolation=cv2.INTER_AREA
    )
    return np.ascontiguousarray(resized, dtype=np.uint8)


DECODERS: dict[str, Callable[[bytes, Any], NDArray[Any]]] = {
    IMAGE: decode_image,
    COMPRESSED_IMAGE: decode_compressed_image,
    JOINT_STATE: decode_joint_state,
    FLOAT64_MULTI_ARRAY: decode_float64_array,
}
"""From a message type to `decode(cdr, part of the spec)`."""


def warm_up(type_names: Iterable[str]) -> None:
    """Build the readers of these types now: the first message of a type would take 0.1 s.

    Args:
        type_names: Keys of DECODERS.
    """
    for type_name in type_names:
        _typestore().get_msgdef(type_name)


@lru_cache(maxsize=1)
def _typestore() -> Typestore:
    # These five types are the same from Humble on; building a store takes 0.1 s.
    return get_typestore(Stores.ROS2_HUMBLE)


def _deserialize(cdr: bytes, type_name: str) -> Any:
    """Deserialise; unlike `Typestore.deserialize_cdr`, let a few bytes follow the message."""
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


def _finite(values: NDArray[np.float64], state: StateSpec) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        bad = ', '.join(state.channels[i] for i in np.flatnonzero(~np.isfinite(values)))
        raise BadMessage(f'{state.topic}: not a finite number: {bad}')
    return values
