"""Motion in three numbers whose speed and acceleration are lengths: a point, or a rotation."""

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.motion import reach, scaled

Vector = NDArray[np.float64]


class Point:
    """A velocity (3,) that moves something towards a target within two limits.

    Args:
        velocity: Largest speed.
        acceleration: Largest acceleration.
    """

    def __init__(self, velocity: float, acceleration: float) -> None:
        self.velocity = np.zeros(3)
        self._max_velocity, self._max_acceleration = velocity, acceleration
        self._target_velocity = np.zeros(3)

    def brake(self, tick_s: float) -> Vector:
        """Return the velocity after a tick of braking straight on."""
        speed = float(np.linalg.norm(self.velocity))
        change = self._max_acceleration * tick_s
        return np.zeros(3) if speed <= change else self.velocity * (1.0 - change / speed)

    def towards(self, way: Vector, moved: Vector, tick_s: float, scale: float) -> Vector:
        """Return the next velocity.

        Args:
            way: (3,) from here to the target.
            moved: (3,) by how much the target has moved since the last tick.
            tick_s: Time since then.
            scale: 0 to 1 of the largest speed.
        """
        limit, change = self._max_acceleration, self._max_acceleration * tick_s
        # The target's velocity, as far as it keeps the limits itself.
        wanted = _shortened(moved / tick_s, self._max_velocity)
        target_velocity = self._target_velocity + _shortened(
            wanted - self._target_velocity, change
        )
        self._target_velocity = target_velocity
        room = way - target_velocity * tick_s
        length = float(np.linalg.norm(room))
        wish = target_velocity
        if length > 0.0:
            wish = wish + room * (reach(length, limit, tick_s) / length)
        wish = _shortened(wish, scaled(self._max_velocity, scale))
        return np.asarray(self.velocity + _shortened(wish - self.velocity, change))

    def stands(self) -> None:
        """Take the target for one that moves as this does."""
        self._target_velocity = self.velocity.copy()


def rotation_vector(rotation: Vector) -> Vector:
    """Return axis times angle (3,) of a rotation matrix (3, 3), the angle from 0 to pi."""
    twice_sine = np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    sine = float(np.linalg.norm(twice_sine)) / 2.0
    cosine = (float(np.trace(rotation)) - 1.0) / 2.0
    angle = float(np.arctan2(sine, cosine))
    if sine > 1e-6:
        return np.asarray(twice_sine * (angle / (2.0 * sine)))
    if cosine > 0.0:
        return np.asarray(twice_sine / 2.0)
    # Half a turn: R + 1 = 2 axis axis^T; either sign of the axis is right.
    outer = (rotation + np.eye(3)) / 2.0
    column = outer[:, int(np.argmax(np.diag(outer)))]
    return np.asarray(column / np.linalg.norm(column) * angle)


def rotation_matrix(vector: Vector) -> Vector:
    """Return the (3, 3) matrix of axis times angle (3,) (Rodrigues' formula)."""
    angle = float(np.linalg.norm(vector))
    cross = np.array(
        [[0, -vector[2], vector[1]], [vector[2], 0, -vector[0]], [-vector[1], vector[0], 0]]
    )
    if angle < 1e-8:
        return np.asarray(np.eye(3) + cross + cross @ cross / 2.0)
    return np.asarray(
        np.eye(3)
        + np.sin(angle) / angle * cross
        + (1.0 - np.cos(angle)) / angle**2 * cross @ cross
    )


def _shortened(vector: Vector, length: float) -> Vector:
    norm = float(np.linalg.norm(vector))
    return vector if norm <= length else vector * (length / norm)
