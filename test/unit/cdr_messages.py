"""Serialised messages for tests, made by a library of its own."""

import cv2
import numpy as np
from rosbags.typesys import get_typestore, Stores
from vqbet_ros.data.bag import BagMessage
from vqbet_ros.message_types import (
    COMPRESSED_IMAGE,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    JOY,
    POSE_STAMPED,
    TWIST_STAMPED,
)
from vqbet_ros.recording.bag import BagOptions, BagWriter, Topic

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types


def store_bag(path, messages, texts=None, chunk_bytes=1 << 12):
    """Write messages to a bag as the recorder does, in their order."""
    writer = BagWriter(path, BagOptions(chunk_bytes=chunk_bytes), texts or {})
    types = {message.topic: message.type for message in messages}
    topics = {topic: writer.add_topic(Topic(topic, kind)) for topic, kind in types.items()}
    for number, message in enumerate(messages):
        writer.write(topics[message.topic], message.payload, message.log_ns, 0, number)
    writer.close(texts or {})
    return path


def make(kind, /, **fields):
    return TYPES[kind](**fields)


def time(stamp_ns):
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    return make('builtin_interfaces/msg/Time', sec=seconds, nanosec=nanoseconds)


def header(stamp_ns, frame_id=''):
    return make('std_msgs/msg/Header', stamp=time(stamp_ns), frame_id=frame_id)


def cdr(message, type_name):
    return bytes(STORE.serialize_cdr(message, type_name))


def image(stamp_ns, pixels):
    """Serialise (H, W, 3) RGB."""
    height, width, _ = pixels.shape
    message = make(
        IMAGE,
        header=header(stamp_ns),
        height=height,
        width=width,
        encoding='rgb8',
        is_bigendian=0,
        step=3 * width,
        data=np.ascontiguousarray(pixels).reshape(-1),
    )
    return cdr(message, IMAGE)


def jpeg(stamp_ns, pixels, length=None):
    """Serialise (H, W, 3) RGB as a JPEG, of which only `length` bytes may be there."""
    content = cv2.imencode('.jpg', pixels[..., ::-1])[1].tobytes()[:length]
    data = np.frombuffer(content, np.uint8)
    text = 'rgb8; jpeg compressed bgr8'
    message = make(COMPRESSED_IMAGE, header=header(stamp_ns), format=text, data=data)
    return cdr(message, COMPRESSED_IMAGE)


def joints(stamp_ns, /, **positions):
    empty = np.zeros(0)
    message = make(
        JOINT_STATE,
        header=header(stamp_ns),
        name=list(positions),
        position=np.array(list(positions.values()), np.float64),
        velocity=empty,
        effort=empty,
    )
    return cdr(message, JOINT_STATE)


def array(*values):
    layout = make('std_msgs/msg/MultiArrayLayout', dim=[], data_offset=0)
    message = make(FLOAT64_MULTI_ARRAY, layout=layout, data=np.array(values, np.float64))
    return cdr(message, FLOAT64_MULTI_ARRAY)


def pose(stamp_ns, position, quaternion, frame_id='base'):
    message = make(
        POSE_STAMPED,
        header=header(stamp_ns, frame_id),
        pose=make(
            'geometry_msgs/msg/Pose',
            position=make('geometry_msgs/msg/Point', **_floats('xyz', position)),
            orientation=make('geometry_msgs/msg/Quaternion', **_floats('xyzw', quaternion)),
        ),
    )
    return cdr(message, POSE_STAMPED)


def twist(stamp_ns, linear, angular, frame_id='base'):
    vector = 'geometry_msgs/msg/Vector3'
    message = make(
        TWIST_STAMPED,
        header=header(stamp_ns, frame_id),
        twist=make(
            'geometry_msgs/msg/Twist',
            linear=make(vector, **_floats('xyz', linear)),
            angular=make(vector, **_floats('xyz', angular)),
        ),
    )
    return cdr(message, TWIST_STAMPED)


def joy(stamp_ns, axes, buttons):
    message = make(
        JOY,
        header=header(stamp_ns),
        axes=np.array(axes, np.float32),
        buttons=np.array(buttons, np.int32),
    )
    return cdr(message, JOY)


def trajectory(stamp_ns, names, points):
    """Serialise points, each (nanoseconds after the stamp, positions)."""
    empty = np.zeros(0)
    rows = []
    for offset_ns, positions in points:
        seconds, nanoseconds = divmod(offset_ns, 10**9)
        rows.append(
            make(
                'trajectory_msgs/msg/JointTrajectoryPoint',
                positions=np.array(positions, np.float64),
                velocities=empty,
                accelerations=empty,
                effort=empty,
                time_from_start=make(
                    'builtin_interfaces/msg/Duration', sec=seconds, nanosec=nanoseconds
                ),
            )
        )
    message = make(JOINT_TRAJECTORY, header=header(stamp_ns), joint_names=list(names), points=rows)
    return cdr(message, JOINT_TRAJECTORY)


def recorded(topic, type_name, log_ns, payload):
    return BagMessage(topic, type_name, log_ns, payload)


def _floats(names, values):
    return {name: float(value) for name, value in zip(names, values, strict=True)}
