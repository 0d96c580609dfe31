"""Rotations in 6 numbers against quaternions written out by hand."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.runtime.rotation import from_matrix, matrix, quaternion, rotation_6d, slerp

numbers = st.floats(-1, 1).filter(lambda x: x == 0 or abs(x) > 1e-6)
quaternions = st.tuples(numbers, numbers, numbers, numbers).map(np.array)


def product(p, q):
    """Hamilton's product of (x, y, z, w)."""
    vector = p[3] * q[:3] + q[3] * p[:3] + np.cross(p[:3], q[:3])
    return np.append(vector, p[3] * q[3] - p[:3] @ q[:3])


def turned(q, vector):
    """Turn a vector: q v q*."""
    conjugate = q * [-1, -1, -1, 1]
    return product(product(q, np.append(vector, 0.0)), conjugate)[:3] / (q @ q)


def angle_between(p, q):
    """Angle of the rotation from one quaternion to another, 0 to pi."""
    cosine = abs(p @ q) / np.sqrt((p @ p) * (q @ q))
    sine = np.linalg.norm(product(p * [-1, -1, -1, 1], q)[:3]) / np.sqrt((p @ p) * (q @ q))
    return 2 * np.arctan2(sine, cosine)


def proper(q):
    assume(np.linalg.norm(q) > 0.1)
    return q


@settings(derandomize=True, deadline=None)
@given(quaternions)
def test_the_numbers_are_where_the_axes_go(q):
    proper(q)
    six = rotation_6d(q)
    np.testing.assert_allclose(six[:3], turned(q, np.array([1.0, 0, 0])), atol=1e-12)
    np.testing.assert_allclose(six[3:], turned(q, np.array([0.0, 1, 0])), atol=1e-12)
    np.testing.assert_array_equal(six, rotation_6d(-q))
    np.testing.assert_allclose(matrix(six)[:, 2], turned(q, np.array([0.0, 0, 1])), atol=1e-12)
    np.testing.assert_allclose(from_matrix(matrix(six)), six, atol=1e-12)


@settings(derandomize=True, deadline=None)
@given(quaternions)
def test_a_quaternion_comes_back(q):
    unit = proper(q) / np.linalg.norm(q)
    back = quaternion(rotation_6d(q))
    assert back[3] >= 0
    assert min(np.abs(back - unit).max(), np.abs(back + unit).max()) < 1e-9


@settings(derandomize=True, deadline=None)
@given(quaternions, quaternions, st.floats(0, 1))
def test_turning_is_at_constant_speed_on_the_shorter_way(p, q, weight):
    angle = angle_between(proper(p), proper(q))
    assume(angle < 3.1)  # at half a turn, both ways are as short
    between = quaternion(slerp(rotation_6d(p), rotation_6d(q), weight))
    assert abs(angle_between(p, between) - weight * angle) < 1e-6
    assert abs(angle_between(between, q) - (1 - weight) * angle) < 1e-6


def test_what_a_network_says_is_made_a_rotation():
    rng = np.random.default_rng(0)
    for six in rng.normal(size=(50, 6)):
        m = matrix(six)
        np.testing.assert_allclose(m.T @ m, np.eye(3), atol=1e-12)
        assert np.linalg.det(m) == pytest.approx(1)
    for nothing in (np.zeros(6), np.array([1.0, 0, 0, 2.0, 0, 0])):
        with pytest.raises(ValueError, match='no rotation'):
            matrix(nothing)
