"""Serialised messages to arrays: every encoding, every kind of damage."""

import contextlib
from dataclasses import replace
import struct

import cv2
import numpy as np
import pytest
from rosbags.typesys import get_typestore, Stores
from vqbet_ros.data.cdr import header_stamp_ns
from vqbet_ros.data.messages import DECODERS
from vqbet_ros.data.pictures import jpeg_size, PICTURES
from vqbet_ros.errors import BadMessage
from vqbet_ros.message_types import (
    COMPRESSED_IMAGE,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    JOY,
    POSE_STAMPED,
    TWIST_STAMPED,
)
from vqbet_ros.spec import CameraSpec, Crop, StateSpec

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types
STAMP_NS = 1_700_000_000_123_456_789

JOINTS = StateSpec(
    topic='/joint_states',
    type='sensor_msgs/msg/JointState',
    names=('x', 'y'),
    unit='px',
    rate_hz=50,
    max_age_s=1,
)
POINTS = StateSpec(
    topic='/points',
    type='std_msgs/msg/Float64MultiArray',
    names=('a', 'b'),
    unit='px',
    rate_hz=50,
    max_age_s=1,
)


PARTS = {
    JOINT_STATE: JOINTS,
    FLOAT64_MULTI_ARRAY: POINTS,
    POSE_STAMPED: replace(POINTS, type=POSE_STAMPED, names=('tool0',), frame_id='base'),
    TWIST_STAMPED: replace(POINTS, type=TWIST_STAMPED, names=('tool0',), frame_id='base'),
    JOY: replace(POINTS, type=JOY, names=('axes/1', 'buttons/0')),
}


def make_camera(height=4, width=6, crop=None):
    return CameraSpec(
        name='top',
        topic='/image',
        type='sensor_msgs/msg/Image',
        height=height,
        width=width,
        rate_hz=10,
        max_age_s=1,
        crop=crop,
    )


def make_header(stamp_ns=STAMP_NS):
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    time = TYPES['builtin_interfaces/msg/Time'](sec=seconds, nanosec=nanoseconds)
    return TYPES['std_msgs/msg/Header'](stamp=time, frame_id='top')


def image_cdr(data, height, width, encoding, step, little_endian=True):
    message = TYPES[IMAGE](
        header=make_header(),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=np.frombuffer(bytes(data), np.uint8),
    )
    return bytes(STORE.serialize_cdr(message, IMAGE, little_endian=little_endian))


def compressed_cdr(content, text='jpeg'):
    message = TYPES[COMPRESSED_IMAGE](
        header=make_header(), format=text, data=np.frombuffer(content, np.uint8)
    )
    return bytes(STORE.serialize_cdr(message, COMPRESSED_IMAGE))


def joints_cdr(names, position=(), velocity=(), effort=(), little_endian=True):
    message = TYPES[JOINT_STATE](
        header=make_header(),
        name=list(names),
        position=np.array(position, np.float64),
        velocity=np.array(velocity, np.float64),
        effort=np.array(effort, np.float64),
    )
    return bytes(STORE.serialize_cdr(message, JOINT_STATE, little_endian=little_endian))


def points_cdr(values):
    layout = TYPES['std_msgs/msg/MultiArrayLayout'](dim=[], data_offset=0)
    message = TYPES[FLOAT64_MULTI_ARRAY](layout=layout, data=np.array(values, np.float64))
    return bytes(STORE.serialize_cdr(message, FLOAT64_MULTI_ARRAY))


def picture(height=4, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_picture(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 2, columns * 2, rows + columns], axis=-1).astype(np.uint8)


@pytest.mark.parametrize('little_endian', [True, False])
@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8'])
def test_every_encoding_gives_rgb(encoding, padding, little_endian):
    rgb = picture()
    if encoding == 'mono8':
        rgb = np.repeat(rgb[..., :1], 3, axis=2)
        sent = rgb[..., :1]
    else:
        sent = rgb if encoding.startswith('rgb') else rgb[..., ::-1]
        if encoding.endswith('a8'):
            sent = np.concatenate([sent, np.full((4, 6, 1), 7, np.uint8)], axis=2)
    rows = sent.reshape(4, -1)  # (H, W*channels)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    cdr = image_cdr(rows.tobytes(), 4, 6, encoding, rows.shape[1], little_endian)
    got = DECODERS[IMAGE](cdr, make_camera())
    np.testing.assert_array_equal(got, rgb)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous


def test_last_row_may_come_without_its_padding():
    rgb = picture()
    rows = np.pad(rgb.reshape(4, 18), ((0, 0), (0, 5)))  # (H, step)
    cdr = image_cdr(rows.tobytes()[:-5], 4, 6, 'rgb8', 23)
    np.testing.assert_array_equal(DECODERS[IMAGE](cdr, make_camera()), rgb)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'encoding': 'bayer_rggb8'}, "encoding 'bayer_rggb8' is not supported, expected one of"),
        ({'encoding': 'rgb16'}, "'rgb16' is not supported"),
        ({'step': 17}, 'does not fit'),
        ({'height': 5}, 'does not fit its 72 bytes'),
        ({'height': 0}, 'does not fit'),
        ({'width': 0}, 'does not fit'),
        ({'height': 2**32 - 1}, 'does not fit'),
    ],
)
def test_image_of_wrong_layout_is_refused(change, message):
    fields = {'height': 4, 'width': 6, 'encoding': 'rgb8', 'step': 18} | change
    with pytest.raises(BadMessage, match=message):
        DECODERS[IMAGE](image_cdr(picture().tobytes(), **fields), make_camera())


def test_larger_image_of_the_same_shape_is_shrunk_without_aliasing():
    rgb = picture(40, 60)
    cdr = image_cdr(rgb.tobytes(), 40, 60, 'rgb8', 180)
    got = DECODERS[IMAGE](cdr, make_camera())
    blocks = rgb.reshape(4, 10, 6, 10, 3).astype(float)  # (H, 10, W, 10, 3)
    np.testing.assert_allclose(got, blocks.mean(axis=(1, 3)), atol=0.51)


def test_crop_is_cut_out_before_resizing():
    rgb = picture(10, 20)
    camera = make_camera(crop=Crop(top=2, left=3, height=4, width=6))
    got = DECODERS[IMAGE](image_cdr(rgb.tobytes(), 10, 20, 'rgb8', 60), camera)
    np.testing.assert_array_equal(got, rgb[2:6, 3:9])


@pytest.mark.parametrize(
    ('height', 'width', 'crop', 'message'),
    [
        (8, 8, None, "'top': the picture is 8x8, expected 6x4 or the same shape.*crop"),
        (2, 3, None, 'the picture is 3x2, expected 6x4 or larger'),
        (4, 6, Crop(1, 0, 4, 6), 'too small for the crop that ends at column 6, row 5'),
    ],
)
def test_image_of_another_size_is_refused(height, width, crop, message):
    cdr = image_cdr(picture(height, width).tobytes(), height, width, 'rgb8', 3 * width)
    with pytest.raises(BadMessage, match=message):
        DECODERS[IMAGE](cdr, make_camera(crop=crop))


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
def test_compressed_image_gives_rgb(extension):
    rgb = smooth_picture(48, 72)
    content = cv2.imencode(extension, rgb[..., ::-1])[1].tobytes()
    got = DECODERS[COMPRESSED_IMAGE](compressed_cdr(content), make_camera(48, 72))
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    assert np.abs(got.astype(int) - rgb).mean() < (2.0 if extension == '.jpg' else 1e-9)


@pytest.mark.parametrize('flags', [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]])
@pytest.mark.parametrize(('height', 'width'), [(1, 1), (7, 300), (480, 640), (123, 45)])
def test_the_size_of_a_jpeg_stands_in_its_header(height, width, flags):
    content = cv2.imencode('.jpg', picture(height, width), flags)[1].tobytes()
    assert jpeg_size(content) == (height, width)
    comment = b'\xff\xfe' + struct.pack('>H', 6) + b'\xff\xc0ab'  # looks like a frame, is none
    assert jpeg_size(content[:2] + comment + content[2:]) == (height, width)


@pytest.mark.parametrize(('height', 'width'), [(48, 72), (30, 45), (24, 36), (12, 18), (95, 143)])
def test_large_jpegs_are_reduced_as_they_are_decoded(height, width):
    rgb = smooth_picture(96, 144)
    content = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    camera = make_camera(height, width)
    read = PICTURES[COMPRESSED_IMAGE](compressed_cdr(content), camera)
    assert read.size == (96, 144)
    assert read.pixels.shape[0] == 96 // max(k for k in (1, 2, 4, 8) if 96 // k >= height)
    got = DECODERS[COMPRESSED_IMAGE](compressed_cdr(content), camera)
    whole = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    assert np.abs(got.astype(int) - whole).mean() < 2.0


def test_a_crop_is_cut_from_the_whole_jpeg():
    content = cv2.imencode('.jpg', smooth_picture(96, 144))[1].tobytes()
    camera = make_camera(12, 18, crop=Crop(top=0, left=0, height=96, width=144))
    assert PICTURES[COMPRESSED_IMAGE](compressed_cdr(content), camera).pixels.shape[0] == 96


def test_grey_jpeg_gives_three_equal_channels():
    grey = smooth_picture(48, 72)[..., 0]
    content = cv2.imencode('.jpg', grey)[1].tobytes()
    got = DECODERS[COMPRESSED_IMAGE](compressed_cdr(content), make_camera(48, 72))
    assert (got == got[..., :1]).all()


def test_zeros_after_the_end_of_a_jpeg_do_no_harm():
    content = cv2.imencode('.jpg', smooth_picture(48, 72))[1].tobytes()
    padded = DECODERS[COMPRESSED_IMAGE](compressed_cdr(content + bytes(64)), make_camera(48, 72))
    bare = DECODERS[COMPRESSED_IMAGE](compressed_cdr(content), make_camera(48, 72))
    np.testing.assert_array_equal(padded, bare)


def sized(jpeg, height, width):
    """Let the header of a JPEG say another size."""
    at = jpeg.index(b'\xff\xc0') + 5
    return jpeg[:at] + struct.pack('>HH', height, width) + jpeg[at + 4 :]


@pytest.mark.parametrize('size', [(0, 64), (48, 0), (65535, 65535), (60000, 60000)])
def test_a_jpeg_of_an_impossible_size_is_refused(size):
    content = cv2.imencode('.jpg', np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    with pytest.raises(BadMessage, match='that do not decode'):
        DECODERS[COMPRESSED_IMAGE](compressed_cdr(sized(content, *size)), make_camera(24, 32))


def test_a_png_without_a_header_is_refused():
    content = b'\x89PNG\r\n\x1a\n' + b'IEND' + bytes(4)
    with pytest.raises(BadMessage, match='16 bytes whose header is broken'):
        DECODERS[COMPRESSED_IMAGE](compressed_cdr(content), make_camera())


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
def test_broken_bytes_are_a_picture_or_refused(extension):
    rng, camera, refused = np.random.default_rng(7), make_camera(24, 32), 0
    pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    whole = np.frombuffer(cv2.imencode(extension, pixels)[1].tobytes(), np.uint8)
    for _ in range(1000):
        content = whole.copy()
        # Among the first bytes is what decides about the rest; the last say that it is complete.
        reach = rng.choice([30, 200, len(whole) - 8])
        spots = rng.integers(3, reach, rng.integers(1, 5))
        content[spots] = rng.integers(0, 256, len(spots))
        if rng.random() < 0.5:  # a part is missing
            begin, end = np.sort(rng.integers(8, len(whole) - 8, 2))
            content = np.delete(content, slice(begin, end))
        try:
            picture = DECODERS[COMPRESSED_IMAGE](compressed_cdr(content.tobytes()), camera)
        except BadMessage:
            refused += 1
        else:
            assert picture.shape == (24, 32, 3)
    assert refused > 200


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
@pytest.mark.parametrize('share', [0.2, 0.5, 0.9, 0.999])
def test_truncated_compressed_image_is_refused(extension, share):
    content = cv2.imencode(extension, picture(48, 72))[1].tobytes()
    cdr = compressed_cdr(content[: int(len(content) * share)])
    with pytest.raises(BadMessage, match='truncated after'):
        DECODERS[COMPRESSED_IMAGE](cdr, make_camera(48, 72))


def test_what_is_no_picture_is_refused():
    with pytest.raises(BadMessage, match='neither a JPEG nor a PNG'):
        DECODERS[COMPRESSED_IMAGE](compressed_cdr(b'', '16UC1; compressedDepth'), make_camera())
    with pytest.raises(BadMessage, match='do not decode'):
        DECODERS[COMPRESSED_IMAGE](compressed_cdr(b'\xff\xd8\x00\xff\xd9'), make_camera())
    deep = cv2.imencode('.png', np.zeros((4, 6), np.uint16))[1].tobytes()
    with pytest.raises(BadMessage, match='16 bits per channel, expected 8'):
        DECODERS[COMPRESSED_IMAGE](compressed_cdr(deep, '16UC1; png'), make_camera())


@pytest.mark.parametrize('little_endian', [True, False])
def test_joint_states_are_joined_by_name(little_endian):
    cdr = joints_cdr(['y', 'gripper', 'x'], [2, 9, 1], little_endian=little_endian)
    got = DECODERS[JOINT_STATE](cdr, JOINTS)
    np.testing.assert_array_equal(got, [1, 2])
    assert got.dtype == np.float64


def test_joint_fields_come_in_the_order_of_the_channels():
    part = StateSpec(
        topic='/joint_states',
        type='sensor_msgs/msg/JointState',
        names=('x', 'y'),
        unit='px',
        rate_hz=50,
        max_age_s=1,
        fields=('velocity', 'position'),
    )
    assert part.channels == ('x/velocity', 'y/velocity', 'x/position', 'y/position')
    cdr = joints_cdr(['y', 'x'], position=[2, 1], velocity=[4, 3])
    np.testing.assert_array_equal(DECODERS[JOINT_STATE](cdr, part), [3, 4, 1, 2])


@pytest.mark.parametrize(
    ('cdr', 'message'),
    [
        (joints_cdr(['x', 'y'], [1]), "field 'position' has 1 values for 2"),
        (joints_cdr(['x', 'y'], [1, np.nan]), 'not a finite number: y/position'),
        (joints_cdr(['x', 'y'], [np.inf, 0]), 'not a finite number: x/position'),
        (joints_cdr(['x', 'y', 'x'], [1, 2, 3]), 'joint x appears more than once'),
    ],
)
def test_bad_joint_state_is_refused(cdr, message):
    with pytest.raises(BadMessage, match=message):
        DECODERS[JOINT_STATE](cdr, JOINTS)


def test_joints_that_a_message_does_not_speak_of_are_nan():
    part = replace(JOINTS, fields=('position', 'effort'))
    cdr = joints_cdr(['y', 'gripper'], position=[2, np.nan])
    np.testing.assert_array_equal(DECODERS[JOINT_STATE](cdr, part), [np.nan, 2, np.nan, np.nan])
    np.testing.assert_array_equal(DECODERS[JOINT_STATE](joints_cdr([]), JOINTS), [np.nan, np.nan])


def test_float_array_is_taken_in_order():
    np.testing.assert_array_equal(
        DECODERS[FLOAT64_MULTI_ARRAY](points_cdr([3, 4]), POINTS), [3, 4]
    )
    with pytest.raises(BadMessage, match=r'/points: got 3 values, expected 2 \(a, b\)'):
        DECODERS[FLOAT64_MULTI_ARRAY](points_cdr([1, 2, 3]), POINTS)
    with pytest.raises(BadMessage, match='not a finite number: b'):
        DECODERS[FLOAT64_MULTI_ARRAY](points_cdr([1, np.nan]), POINTS)


CASES = [
    (IMAGE, image_cdr(picture().tobytes(), 4, 6, 'rgb8', 18), make_camera()),
    (JOINT_STATE, joints_cdr(['x', 'y'], [1, 2]), JOINTS),
    (FLOAT64_MULTI_ARRAY, points_cdr([1, 2]), POINTS),
]


@pytest.mark.parametrize(('kind', 'cdr', 'part'), CASES)
def test_message_cut_anywhere_is_refused(kind, cdr, part):
    for length in range(len(cdr)):
        with pytest.raises(BadMessage):
            DECODERS[kind](cdr[:length], part)


@pytest.mark.parametrize(('kind', 'cdr', 'part'), CASES)
def test_few_bytes_after_the_end_carry_no_meaning(kind, cdr, part):
    # rclpy.serialization.serialize_message leaves up to 7 of them for each empty sequence.
    expected = DECODERS[kind](cdr, part)
    np.testing.assert_array_equal(DECODERS[kind](cdr + b'\x55' * 16, part), expected)
    with pytest.raises(BadMessage, match='bytes for a message of'):
        DECODERS[kind](cdr + bytes(1000), part)


@pytest.mark.parametrize('kind', list(DECODERS))
def test_random_bytes_never_raise_anything_else(kind):
    part = make_camera() if kind in PICTURES else PARTS[kind]
    generator = np.random.default_rng(0)
    for size in generator.integers(0, 200, 300):
        cdr = b'\0\1\0\0' + generator.bytes(int(size))
        with contextlib.suppress(BadMessage):
            DECODERS[kind](cdr, part)


def test_header_stamp_is_read_without_deserialising():
    little = joints_cdr(['x'], [1])
    big = joints_cdr(['x'], [1], little_endian=False)
    assert header_stamp_ns(little, JOINT_STATE) == STAMP_NS
    assert header_stamp_ns(big, JOINT_STATE) == STAMP_NS
    assert header_stamp_ns(points_cdr([1]), FLOAT64_MULTI_ARRAY) is None
    never_set = little[:4] + struct.pack('<iI', 0, 0) + little[12:]
    assert header_stamp_ns(never_set, JOINT_STATE) is None
    with pytest.raises(BadMessage, match='too few for a header'):
        header_stamp_ns(little[:8], JOINT_STATE)
