"""Serialised ROS messages (CDR) to the arrays that the spec asks for, without a ROS installation.

Bags and live topics both carry CDR bytes, and both come through the functions of this file:
a frame that went through a bag and a frame from a live topic give the same array, bit for bit.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import isfinite
import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.serde import SerdeError
from rosbags.typesys import get_typestore, Stores
from rosbags.typesys.store import Typestore
from vqbet_ros.errors import BadMessage, listed
from vqbet_ros.message_types import (
    COMPRESSED_IMAGE,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    JOY,
    POSE_STAMPED,
    POSITION,
    TWIST,
    TWIST_STAMPED,
)
from vqbet_ros.runtime.rotation import rotation_6d
from vqbet_ros.spec import CameraSpec, StateSpec
from vqbet_ros.structured import did_you_mean

# Channels per pixel, and the order in which they give R, G, B.
_ENCODINGS: dict[str, tuple[int, tuple[int, int, int]]] = {
    'rgb8': (3, (0, 1, 2)),
    'bgr8': (3, (2, 1, 0)),
    'rgba8': (4, (0, 1, 2)),
    'bgra8': (4, (2, 1, 0)),
    'mono8': (1, (0, 0, 0)),
}
WITH_HEADER = {
    IMAGE,
    COMPRESSED_IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    JOY,
    POSE_STAMPED,
    TWIST_STAMPED,
}
# A spec that squashes the picture by more than this was meant for another camera mode.
_ASPECT_TOLERANCE = 0.02
# Publishers may over-estimate a message's size: bytes beyond its end carry no meaning.
_MAX_TRAILING_BYTES = 64
_POSE_FIELDS = (*POSITION, 'qx', 'qy', 'qz', 'qw')
# Single precision and rounded decimals are fine; an orientation that nobody filled in is not.
_QUATERNION_TOLERANCE = 0.01


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
    return to_spec_size(read_image(cdr, camera), camera)


def read_image(cdr: bytes, camera: CameraSpec) -> NDArray[np.uint8]:
    """Decode a `sensor_msgs/msg/Image` to (H, W, 3) RGB of its own size; see decode_image."""
    message = deserialize(cdr, IMAGE)
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
    if channels > 1 and order[0]:
        # OpenCV turns the channels around ten times as fast as NumPy, and to the same values.
        code = cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGB
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), code), dtype=np.uint8)
    rgb = pixels[..., :3] if channels > 1 else np.repeat(pixels, 3, axis=2)
    return np.array(rgb, dtype=np.uint8)  # a copy: the message's bytes are not the picture's


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
    return to_spec_size(read_compressed_image(cdr, camera), camera)


def read_compressed_image(cdr: bytes, camera: CameraSpec) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG to (H, W, 3) RGB of its own size; see decode_compressed_image."""
    message = deserialize(cdr, COMPRESSED_IMAGE)
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
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def decode_joint_state(cdr: bytes, state: StateSpec) -> NDArray[np.float64]:
    """Decode a `sensor_msgs/msg/JointState`, joined by joint name.

    Args:
        cdr: The serialised message; its joints may come in any order, with others among them.
        state: Names the joints and fields.

    Returns:
        (channels,) in the order of the state's channels, in its unit; NaN for joints that the
        message does not name, and for fields that it leaves empty.

    Raises:
        BadMessage: Lists every repeated joint, short field and non-finite value.
    """
    message = deserialize(cdr, JOINT_STATE)
    columns: list[NDArray[np.float64]] = []
    problems = repeated(message.name, state.names)
    for field in state.fields:
        values = getattr(message, field)
        if values.size not in (0, len(message.name)):
            problems.append(f"field '{field}' has {values.size} values for {len(message.name)}")
        # A NaN that was sent is refused; what is not there becomes NaN.
        wrong = [n for n, v in zip(message.name, values.tolist(), strict=False) if not isfinite(v)]
        problems += [f'not a finite number: {n}/{field}' for n in wrong if n in state.names]
        columns.append(by_name(message.name, values, state.names))
    if problems:
        raise BadMessage(listed(f'{state.topic}: bad joint state', problems))
    return np.concatenate(columns)


def repeated(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Describe each wanted name that a message gives more than once."""
    return [f'joint {name} appears more than once' for name in wanted if names.count(name) > 1]


def by_name(
    names: Sequence[str], values: NDArray[np.float64], wanted: Sequence[str]
) -> NDArray[np.float64]:
    """Return the values of the wanted names in order; NaN for those that have none."""
    index = {name: i for i, name in enumerate(names) if i < values.size}
    return np.array([values[index[name]] if name in index else np.nan for name in wanted])


def decode_pose(cdr: bytes, state: StateSpec) -> NDArray[np.float64]:
    """Decode a `geometry_msgs/msg/PoseStamped`.

    Args:
        cdr: The serialised message; its quaternion may have either sign.
        state: Says the frame.

    Returns:
        (9,): x, y, z, then the first two columns of the rotation matrix.

    Raises:
        BadMessage: In another frame, no rotation (its quaternion is 0), or a non-finite value.
    """
    return read_pose(cdr, state.topic, state.frame_id)


def read_pose(cdr: bytes, topic: str, frame_id: str) -> NDArray[np.float64]:
    """Decode a pose; see decode_pose."""
    message = deserialize(cdr, POSE_STAMPED)
    _require_frame(message, topic, frame_id)
    at, turned = message.pose.position, message.pose.orientation
    position = np.array([at.x, at.y, at.z], dtype=np.float64)
    quaternion = np.array([turned.x, turned.y, turned.z, turned.w], dtype=np.float64)
    _require_finite(np.concatenate([position, quaternion]), _POSE_FIELDS, topic)
    length = float(np.linalg.norm(quaternion))
    if abs(length - 1) > _QUATERNION_TOLERANCE:
        raise BadMessage(f'{topic}: a quaternion of length {length:g}, expected 1')
    return np.concatenate([position, rotation_6d(quaternion)])


def decode_twist(cdr: bytes, state: StateSpec) -> NDArray[np.float64]:
    """Decode a `geometry_msgs/msg/TwistStamped`.

    Returns:
        (6,): linear, then angular velocity.

    Raises:
        BadMessage: In another frame, or a non-finite value.
    """
    return read_twist(cdr, state.topic, state.frame_id)


def read_twist(cdr: bytes, topic: str, frame_id: str) -> NDArray[np.float64]:
    """Decode a twist; see decode_twist."""
    message = deserialize(cdr, TWIST_STAMPED)
    _require_frame(message, topic, frame_id)
    parts = (message.twist.linear, message.twist.angular)
    values = np.array([v for p in parts for v in (p.x, p.y, p.z)], dtype=np.float64)
    return _require_finite(values, TWIST, topic)


def decode_joy(cdr: bytes, state: StateSpec) -> NDArray[np.float64]:
    """Decode a `sensor_msgs/msg/Joy`: the axes and buttons that the spec names.

    Raises:
        BadMessage: It has fewer axes or buttons, or a non-finite value.
    """
    return read_joy(cdr, state.topic, state.names)


def read_joy(cdr: bytes, topic: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Decode a Joy; see decode_joy."""
    message = deserialize(cdr, JOY)
    parts = {'axes': message.axes, 'buttons': message.buttons}
    values, absent = [], []
    for name in names:
        kind, index = name.split('/')
        if int(index) < len(parts[kind]):
            values.append(float(parts[kind][int(index)]))
        else:
            absent.append(name)
    if absent:
        raise BadMessage(
            f'{topic}: no {", ".join(absent)}: this Joy has {len(message.axes)} axes and '
            f'{len(message.buttons)} buttons'
        )
    return _require_finite(np.array(values, dtype=np.float64), names, topic)


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
    return read_float64_array(cdr, state.topic, state.names)


def read_float64_array(cdr: bytes, topic: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Decode an array of as many values as names; see decode_float64_array."""
    message = deserialize(cdr, FLOAT64_MULTI_ARRAY)
    if message.data.size != len(names):
        raise BadMessage(
            f'{topic}: got {message.data.size} values, expected {len(names)} ({", ".join(names)})'
        )
    return _require_finite(message.data.astype(np.float64), names, topic)


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
    POSE_STAMPED: decode_pose,
    TWIST_STAMPED: decode_twist,
    JOY: decode_joy,
}
"""From a message type to `decode(cdr, part of the spec)`: what a camera or the state may be.

Another type is added here, in `message_types.py`, in `StateSpec` (its type and its channels) and,
for live topics, in the subscriptions of `ros/inputs.py`."""

PICTURES: dict[str, Callable[[bytes, CameraSpec], NDArray[np.uint8]]] = {
    IMAGE: read_image,
    COMPRESSED_IMAGE: read_compressed_image,
}
"""From a camera's message type to what decodes a picture in its own size."""


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


def _require_finite(
    values: NDArray[np.float64], names: Sequence[str], topic: str
) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        bad = ', '.join(n for n, v in zip(names, values.tolist(), strict=True) if not isfinite(v))
        raise BadMessage(f'{topic}: not a finite number: {bad}')
    return values


def _require_frame(message: Any, topic: str, frame_id: str) -> None:
    got = message.header.frame_id
    if frame_id and got != frame_id:
        raise BadMessage(f"{topic}: in frame '{got}', expected '{frame_id}'")
