"""Rotations as 6 numbers: the first two columns of the matrix, one after the other.

This representation has no jumps and no two values for one rotation (Zhou et al., "On the
Continuity of Rotation Representations in Neural Networks", CVPR 2019). Quaternions are
(x, y, z, w), as in ROS; q and -q are the same rotation, and give the same 6 numbers.
"""

import math

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def rotation_6d(quaternion: Vector) -> Vector:
    """Return the 6 numbers of a quaternion (4,) of any length but 0."""
    x, y, z, w = (quaternion / np.linalg.norm(quaternion)).tolist()
    return np.array(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y + w * z),
            2 * (x * z - w * y),
            2 * (x * y - w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z + w * x),
        ]
    )


def matrix(rotation: Vector) -> Vector:
    """Return the (3, 3) matrix of 6 numbers, made orthonormal as in Zhou et al., eq. 15.

    Raises:
        ValueError: One column is zero, or the two are parallel: no rotation is near.
    """
    first, second = np.asarray(rotation[:3], float), np.asarray(rotation[3:], float)
    x_axis = _unit(first)
    y_axis = _unit(second - (x_axis @ second) * x_axis)
    return np.stack([x_axis, y_axis, np.cross(x_axis, y_axis)], axis=1)


def from_matrix(matrix_: Vector) -> Vector:
    """Return the 6 numbers of a (3, 3) rotation matrix."""
    return np.concatenate([matrix_[:, 0], matrix_[:, 1]])


def quaternion(rotation: Vector) -> Vector:
    """Return the quaternion (x, y, z, w) of 6 numbers; of the two, the one with w >= 0."""
    m = matrix(rotation)
    # The largest of the four squares is at least 1/4: dividing by its root is safe.
    squares = np.array(
        [
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
            1 + m[0, 0] + m[1, 1] + m[2, 2],
        ]
    )
    products = np.array(
        [
            [squares[0], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
            [m[0, 1] + m[1, 0], squares[1], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], squares[2], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], squares[3]],
        ]
    )
    found = _unit(products[int(np.argmax(squares))])
    return found if found[3] >= 0 else -found


def slerp(before: Vector, after: Vector, weight: float) -> Vector:
    """Turn from one rotation to another at constant speed, on the shorter way.

    Args:
        before: 6 numbers.
        after: 6 numbers.
        weight: 0 for the first to 1 for the second.

    Returns:
        6 numbers.
    """
    first, second = quaternion(before), quaternion(after)
    cosine = float(first @ second)
    if cosine < 0:  # the other sign of the same rotation is nearer
        second, cosine = -second, -cosine
    angle = math.acos(min(1.0, cosine))
    if angle < 1e-8:
        return rotation_6d((1 - weight) * first + weight * second)
    return rotation_6d(math.sin((1 - weight) * angle) * first + math.sin(weight * angle) * second)


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    if length < 1e-9:
        raise ValueError(f'no rotation: a column of length {length:g}')
    return vector / length
