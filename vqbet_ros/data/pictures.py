"""Camera messages to pictures of the spec's size, the same for bags and live topics."""

from collections.abc import Callable
import struct
from typing import NamedTuple
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
from vqbet_ros.data.cdr import deserialize
from vqbet_ros.errors import BadMessage
from vqbet_ros.message_types import COMPRESSED_IMAGE, IMAGE
from vqbet_ros.spec import CameraSpec
from vqbet_ros.structured import did_you_mean

# Channels per pixel, and the order in which they give R, G, B.
_ENCODINGS: dict[str, tuple[int, tuple[int, int, int]]] = {
    'rgb8': (3, (0, 1, 2)),
    'bgr8': (3, (2, 1, 0)),
    'rgba8': (4, (0, 1, 2)),
    'bgra8': (4, (2, 1, 0)),
    'mono8': (1, (0, 0, 0)),
}
# A spec that squashes the picture by more than this was meant for another camera mode.
_ASPECT_TOLERANCE = 0.02
_READ_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class Picture(NamedTuple):
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) RGB, of its own size, or reduced as a whole.
        size: Its own height and width.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


def decode_image(cdr: bytes, camera: CameraSpec) -> NDArray[np.uint8]:
    """Decode a `sensor_msgs/msg/Image` to the camera's size; see to_spec_size."""
    return to_spec_size(read_image(cdr, camera).pixels, camera)


def read_image(cdr: bytes, camera: CameraSpec) -> Picture:
    """Decode a `sensor_msgs/msg/Image`.

    Args:
        cdr: The serialised message.
        camera: Its name is for errors.

    Raises:
        BadMessage: Unknown encoding, wrong sizes, truncated data.
    """
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
        rgb = cv2.cvtColor(np.ascontiguousarray(pixels), code)
        return Picture(np.asarray(rgb, dtype=np.uint8), (height, width))
    rgb = pixels[..., :3] if channels > 1 else np.repeat(pixels, 3, axis=2)
    # A copy: the message's bytes are not the picture's.
    return Picture(np.array(rgb, dtype=np.uint8), (height, width))


def decode_compressed_image(cdr: bytes, camera: CameraSpec) -> NDArray[np.uint8]:
    """Decode a `sensor_msgs/msg/CompressedImage` to the camera's size; see to_spec_size."""
    return to_spec_size(read_compressed_image(cdr, camera).pixels, camera)


def read_compressed_image(cdr: bytes, camera: CameraSpec) -> Picture:
    """Decode a `sensor_msgs/msg/CompressedImage` that holds a JPEG or PNG file.

    A JPEG several times as large as the camera's size is decoded at 1/2, 1/4 or 1/8 of its own,
    which averages its pixels and takes a fraction of the time.

    Raises:
        BadMessage: Neither JPEG nor PNG, truncated, deeper than 8 bits.
    """
    message = deserialize(cdr, COMPRESSED_IMAGE)
    what = f"camera '{camera.name}': compressed image with format '{message.format}'"
    content = bytes(message.data)
    # Decoders fill the missing part of a truncated picture with grey, so its end is checked here.
    if content.startswith(b'\xff\xd8'):
        complete = content.rstrip(b'\0').endswith(b'\xff\xd9')
    elif content.startswith(b'\x89PNG\r\n\x1a\n'):
        complete = content[-8:-4] == b'IEND'
        # OpenCV believes a size that broke on the way, and makes room for it.
        if complete and content[29:33] != struct.pack('>I', zlib.crc32(content[12:29])):
            raise BadMessage(f'{what}: {len(content)} bytes whose header is broken')
        if complete and content[24] != 8:
            raise BadMessage(f'{what}: {content[24]} bits per channel, expected 8')
    else:
        raise BadMessage(f'{what}: neither a JPEG nor a PNG ({len(content)} bytes)')
    if not complete:
        raise BadMessage(f'{what}: truncated after {len(content)} bytes')
    size = jpeg_size(content)
    divisor = 1 if size is None else _divisor(size, camera)
    flags = _READ_REDUCED[divisor] | cv2.IMREAD_IGNORE_ORIENTATION
    failure: cv2.error | None = None
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:  # a size, for example, that nothing has
        pixels, failure = None, error
    if pixels is None:
        raise BadMessage(f'{what}: {len(content)} bytes that do not decode') from failure
    height, width = pixels.shape[:2]
    rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return Picture(np.asarray(rgb, dtype=np.uint8), (divisor * height, divisor * width))


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Read the (height, width) of a JPEG from its header; None if it has none, or one of zero."""
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack_from('>HH', content, at + 5)
            return (height, width) if height and width else None
        else:
            at += 2 + struct.unpack_from('>H', content, at + 2)[0]
    return None


def _is_stretched(size: tuple[int, int], camera: CameraSpec) -> bool:
    stretch = (size[1] / size[0]) / (camera.width / camera.height)
    return abs(stretch - 1.0) > _ASPECT_TOLERANCE


def _divisor(size: tuple[int, int], camera: CameraSpec) -> int:
    """Choose by how much a JPEG may be reduced without an effect on what follows."""
    height, width = size
    # A crop counts in pixels of the source; a picture that will be refused is described whole.
    if camera.crop is not None or _is_stretched(size, camera):
        return 1
    for divisor in (8, 4, 2):
        whole = height % divisor == 0 and width % divisor == 0
        if whole and height >= divisor * camera.height and width >= divisor * camera.width:
            return divisor
    return 1


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
    if _is_stretched((height, width), camera):
        raise BadMessage(
            f'{got}, {wanted} or the same shape: set the camera to that shape, '
            "or cut it with the spec's `crop`"
        )
    resized = cv2.resize(
        np.ascontiguousarray(pixels), (camera.width, camera.height), interpolation=cv2.INTER_AREA
    )
    return np.ascontiguousarray(resized, dtype=np.uint8)


PICTURES: dict[str, Callable[[bytes, CameraSpec], Picture]] = {
    IMAGE: read_image,
    COMPRESSED_IMAGE: read_compressed_image,
}
"""From a camera's message type to what decodes a picture."""
