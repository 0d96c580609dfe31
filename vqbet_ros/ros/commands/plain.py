"""What commands contain, as plain numbers: the files beside this one put it into messages."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.runtime.rotation import quaternion
from vqbet_ros.spec import GripperCommand

Float64 = NDArray[np.float64]
_GRID_NS = 1_000_000  # of the times at which joints come to rest
_LONGEST_GAP = 3  # periods between two commands of one motion


@dataclass(frozen=True, eq=False)
class Points:
    """The points of a trajectory; K of them for n joints.

    Attributes:
        times_ns: (K,) after the start, the first more than 0, strictly rising.
        positions: (K, n).
        velocities: (K, n) per second, the last ones zero: controllers refuse others at the end.
    """

    times_ns: NDArray[np.int64]
    positions: Float64
    velocities: Float64

    def at(self, elapsed_ns: int) -> tuple[Float64, Float64]:
        """Return position and velocity (n,) so long after the start, straight between points."""
        joints = range(self.positions.shape[1])
        return (
            np.array([np.interp(elapsed_ns, self.times_ns, self.positions[:, j]) for j in joints]),
            np.array(
                [np.interp(elapsed_ns, self.times_ns, self.velocities[:, j]) for j in joints]
            ),
        )


def single_point(target: Float64, reach_ns: int) -> Points:
    """Return the one point that is reached, and rested at, after `reach_ns`."""
    times_ns = np.array([reach_ns], dtype=np.int64)
    return Points(times_ns, target[None], np.zeros((1, len(target))))  # (1, n)


def remaining_points(chunk: Chunk, size: int, now_ns: int) -> Points | None:
    """Return what is left of a chunk, from now on.

    The first point is at least half a step away: one that is almost due would ask for a jump.

    Args:
        chunk: Action i is due at `t_obs_ns + (i + 1) period_ns`.
        size: How many numbers of an action, from the first on, are positions of joints.
        now_ns: The start of the trajectory.

    Returns:
        None where nothing is left.
    """
    positions = np.asarray(chunk.actions, dtype=np.float64)[:, :size]  # (W, n)
    due_ns = chunk.t_obs_ns + np.arange(1, len(positions) + 1) * chunk.period_ns
    first = int(np.searchsorted(due_ns, now_ns + chunk.period_ns // 2))
    if first == len(positions):
        return None
    if len(positions) > 1:
        velocities = np.gradient(positions, chunk.period_ns / 1e9, axis=0)[first:]
    else:
        velocities = np.zeros_like(positions)
    velocities[-1] = 0.0
    return Points(due_ns[first:] - now_ns, positions[first:], velocities)


def stopping_points(
    position: Float64, velocity: Float64, stop_ns: int, low: Float64, high: Float64
) -> Points:
    """Return where even decelerations come to rest.

    A joint that would leave its range comes to rest at the end of it, sooner than the others. The
    cubic that a controller lays through such points is the deceleration itself.

    Args:
        position: (n,) now.
        velocity: (n,) now, per second.
        stop_ns: How long it takes.
        low: (n,) lowest allowed positions.
        high: (n,) highest allowed positions.
    """
    room = np.clip(np.where(velocity > 0, high - position, position - low), 0.0, None)
    moving = np.abs(velocity) > 1e-9
    longest_ns = np.full(len(position), float(stop_ns))
    np.divide(2e9 * room, np.abs(velocity), out=longest_ns, where=moving)
    ends_ns = np.minimum(longest_ns, stop_ns).astype(np.int64)  # (n,)
    ends_ns = np.maximum(ends_ns - ends_ns % _GRID_NS, min(_GRID_NS, stop_ns))
    times_ns = np.unique(ends_ns)  # (K,)
    left = np.clip(1 - times_ns[:, None] / ends_ns, 0.0, 1.0)  # (K, n), of the velocity
    way = velocity * ends_ns / 2e9 * (1 - left**2)
    return Points(times_ns, np.clip(position + way, low, high), velocity * left)


def moving_points(
    target: Float64, velocity: Float64, reach_ns: int, stop_ns: int, low: Float64, high: Float64
) -> Points:
    """Return a point that is passed after `reach_ns`, and where the joints rest if none follows.

    Points of rest alone would have a controller stop at each of them, with accelerations of up to
    6 times the velocity over the time between two of them.

    Args:
        target: (n,) where to be after `reach_ns`.
        velocity: (n,) there, per second.
        reach_ns: How long it takes.
        stop_ns: How long it takes to come to rest if nothing follows.
        low: (n,) lowest allowed positions.
        high: (n,) highest allowed positions.
    """
    if not velocity.any():
        return single_point(target, reach_ns)
    rest = stopping_points(target, velocity, stop_ns, low, high)
    return Points(
        np.concatenate([[reach_ns], reach_ns + rest.times_ns]),
        np.concatenate([target[None], rest.positions]),
        np.concatenate([velocity[None], rest.velocities]),
    )


class Velocity:
    """Tells at which velocity the newest of some commands is passed.

    Args:
        period_ns: Time between two commands.
        largest: (n,) per second; infinite where there is no limit.
    """

    def __init__(self, period_ns: int, largest: Float64) -> None:
        self._period_ns, self._largest = period_ns, largest
        self._last: tuple[int, Float64, Float64] | None = None  # time, position, mean velocity

    def start(self, position: Float64, velocity: Float64, now_ns: int) -> None:
        """Begin with a motion that is under way."""
        self._last = now_ns - self._period_ns, position, velocity

    def forget(self) -> None:
        """Begin from rest."""
        self._last = None

    def at(self, position: Float64, now_ns: int) -> Float64:
        """Return the velocity (n,) at a command, zero at the first one.

        Between two commands the mean velocity is known; at the end of them, half of its last
        change is added. Where that would turn a joint round, it comes to rest.
        """
        last, mean = self._last, np.zeros_like(position)
        since_ns = 0 if last is None else now_ns - last[0]
        if last is None or not 0 < since_ns <= _LONGEST_GAP * self._period_ns:
            self._last = now_ns, position, mean
            return mean
        mean = (position - last[1]) * (1e9 / since_ns)
        self._last = now_ns, position, mean
        velocity = 1.5 * mean - 0.5 * last[2]
        velocity[velocity * mean <= 0] = 0.0
        return np.clip(velocity, -self._largest, self._largest)


class ContinuousQuaternion:
    """Turns 6-D rotations into unit quaternions (x, y, z, w) whose sign never flips.

    q and -q are one rotation, but a controller that blends numbers would swing from one to the
    other.
    """

    def __init__(self) -> None:
        self._last: Float64 | None = None

    def next(self, rotation: Float64) -> Float64:
        """Return the quaternion (4,) of 6 numbers that is nearer to the one before.

        Raises:
            ValueError: The 6 numbers are no rotation.
        """
        found = quaternion(rotation)
        if self._last is not None and float(self._last @ found) < 0:
            found = -found
        self._last = found
        return found


class GripperGate:
    """Decides when a gripper is told something: on change, with hysteresis, not too often.

    Args:
        command: How the gripper is commanded.
        limits: Its lowest and highest target.
    """

    def __init__(self, command: GripperCommand, limits: tuple[float, float]) -> None:
        self._command = command
        self._low, self._high = limits
        self._period_ns = round(1e9 / command.max_rate_hz)
        self._value: float | None = None  # what was sent and not forgotten
        self._at_ns: int | None = None  # when something was sent

    def due(self, target: float, now_ns: int) -> float | None:
        """Return what to send now, or None; `sent` says that it was."""
        wanted = min(max(target, self._low), self._high)
        if self._command.switch is not None:
            close_below, open_above = self._command.switch
            if close_below <= target <= open_above:
                return None
            wanted = self._low if target < close_below else self._high
        # A clock that went back is no reason to be silent.
        if self._at_ns is not None and 0 <= now_ns - self._at_ns < self._period_ns:
            return None
        value = self._value
        if value is None:
            return wanted
        if wanted == value or abs(wanted - value) < self._command.min_change:
            return None
        return wanted

    def sent(self, value: float, now_ns: int) -> None:
        """Note what was sent."""
        self._value, self._at_ns = value, now_ns

    def forget(self) -> None:
        """Send the next target in any case, but no sooner: others may have moved the gripper."""
        self._value = None


def joints_problem(
    controller: str, theirs: Sequence[str], ours: Sequence[str], *, ordered: bool, partial: bool
) -> str | None:
    """Say why a controller would misread commands, or None.

    Args:
        controller: Its name.
        theirs: Its joints.
        ours: The spec's.
        ordered: Whether its messages carry no names, so that order and number must agree.
        partial: Whether it takes commands for some of its joints.
    """
    shown = f'{controller} commands {list(theirs)}, the spec {list(ours)}'
    if ordered:
        if list(theirs) == list(ours):
            return None
        return f'{shown}: its messages carry no names, so names and order must be the same'
    unknown = [name for name in ours if name not in theirs]
    if unknown:
        return f'{shown}: it does not know {", ".join(unknown)}'
    absent = [name for name in theirs if name not in ours]
    if absent and not partial:
        return (
            f'{shown}: it wants {", ".join(absent)} too (its allow_partial_joints_goal is false)'
        )
    return None
