"""From the policy's steps to commands at any time: a path through timed values.

Cubic means monotone Hermite pieces: between two values the path stays between them, and its
velocity has no jumps (Fritsch and Butland, "A Method for Constructing Local Monotone Piecewise
Cubic Interpolants", 1984). Where the values turn back the velocity is 0, so nothing overshoots.

Legend: N values, A numbers of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Interpolation = Literal['step', 'linear', 'cubic']
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Start:
    """Where a path begins: the last command.

    Attributes:
        time_ns: When it was sent.
        values: (A,).
        velocities: (A,) per second.
    """

    time_ns: int
    values: Vector
    velocities: Vector


class Path:
    """A path through values at their times.

    Args:
        times_ns: (N,) rising.
        values: (N, A).
        interpolation: 'step': a value is commanded for the whole time before it is due. 'linear'
            and 'cubic': it is reached when it is due.
        start: What comes before the first value; None for nothing: the first value stands there.
    """

    def __init__(
        self,
        times_ns: Sequence[int],
        values: Vector,
        interpolation: Interpolation,
        start: Start | None = None,
    ) -> None:
        keep = [start is None or time_ns > start.time_ns for time_ns in times_ns]
        self._times_ns = np.array(times_ns, dtype=np.int64)[keep]
        self._values = np.asarray(values, dtype=np.float64)[keep]
        self._interpolation = interpolation
        self._tangents: Vector | None = None
        if interpolation == 'step':
            return
        if start is not None:
            self._times_ns = np.concatenate([[start.time_ns], self._times_ns])
            self._values = np.concatenate([start.values[None], self._values])
        if interpolation == 'cubic' and len(self._values) > 1:
            seconds = np.diff(self._times_ns) / 1e9
            velocities = None if start is None else start.velocities
            self._tangents = monotone_tangents(seconds, self._values, velocities)

    def at(self, now_ns: int) -> Vector:
        """Return the values (A,) at a time; outside of the path those of its nearer end."""
        after = int(np.searchsorted(self._times_ns, now_ns))  # the first that is due at or after
        if after == len(self._times_ns):
            return np.array(self._values[-1])
        if after == 0 or self._interpolation == 'step':
            return np.array(self._values[after])
        before_ns, after_ns = (int(time) for time in self._times_ns[after - 1 : after + 1])
        weight = (now_ns - before_ns) / (after_ns - before_ns)
        first, last = self._values[after - 1], self._values[after]
        value = first + weight * (last - first)
        if self._tangents is not None:
            seconds = (after_ns - before_ns) / 1e9
            left, right = self._tangents[after - 1 : after + 1] * seconds
            square = weight * weight
            cube = square * weight
            value = (
                first
                + (3 * square - 2 * cube) * (last - first)
                + (cube - 2 * square + weight) * left
                + (cube - square) * right
            )
        # Rounding alone leads out of the range of the two.
        return np.asarray(np.clip(value, np.minimum(first, last), np.maximum(first, last)))


def monotone_tangents(seconds: Vector, values: Vector, first: Vector | None = None) -> Vector:
    """Return velocities with which cubic pieces stay between their values.

    Args:
        seconds: (N - 1,) times between the values, more than 0; N at least 2.
        values: (N, A).
        first: (A,) velocity at the first value; it is taken as far as no piece overshoots. None
            for that of the first piece.

    Returns:
        (N, A) velocities per second; the last is that of the last piece.
    """
    slopes = np.diff(values, axis=0) / seconds[:, None]  # (N - 1, A)
    before, after = slopes[:-1], slopes[1:]
    weight_before = (seconds[:-1] + 2 * seconds[1:])[:, None]
    weight_after = (2 * seconds[:-1] + seconds[1:])[:, None]
    turns = before * after <= 0
    with np.errstate(divide='ignore', invalid='ignore'):
        mean = (weight_before + weight_after) / (weight_before / before + weight_after / after)
    inner = np.where(turns, 0.0, mean)
    begin = slopes[0] if first is None else first
    # Up to 3 times the slope, and not against it, a cubic piece stays monotone.
    begin = np.where(begin * slopes[0] <= 0, 0.0, begin)
    begin = np.sign(begin) * np.minimum(np.abs(begin), 3 * np.abs(slopes[0]))
    return np.concatenate([begin[None], inner, slopes[-1:]])
