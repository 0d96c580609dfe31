"""Serialised ROS messages (CDR) to the arrays that the spec asks for, without a ROS installation.

Bags and live topics both carry CDR bytes, and both come through the functions of this file:
a frame that went through a bag and a frame from a live topic give the same array, bit for bit.
"""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.data.cdr import deserialize
from vqbet_ros.data.pictures import decode_compressed_image, decode_image
from vqbet_ros.errors import BadMessage, listed
from vqbet_ros.message_types import (
    COMPRESSED_IMAGE,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    JOY,
    POSE_STAMPED,
    POSITION,
    TWIST,
    TWIST_STAMPED,
)
from vqbet_ros.runtime.rotation import rotation_6d
from vqbet_ros.spec import StateSpec

_POSE_FIELDS = (*POSITION, 'qx', 'qy', 'qz', 'qw')
# Single precision and rounded decimals are fine; an orientation that nobody filled in is not.
_QUATERNION_TOLERANCE = 0.01


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
