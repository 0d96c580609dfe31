"""The demonstrator's commands, and which of them belongs to which frame.

The action of the frame at time t drives the robot from t to t + period, and is due at the end:
when the policy runs, action i of a chunk is due at t_obs + (i + 1) period (`runtime/plan.py`), and
row r of a dataset is action 0 of the observation in row r (`data/windows.py`). So the action of
frame t is the command that is valid at t + period: the newest one stamped no later than that. A
command that answers to the frame comes a moment after t, and is the one; the target of a leader
arm is where it is at t + period. Without commands, the action is what is measured at t + period,
that is, in the next frame.

Of a JointTrajectory the command is the first point that is due at t + period or later, else the
last one: where the trajectory is heading at that time.

n: channels of one source.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.action_spec import CommandSource
from vqbet_ros.data.cdr import deserialize
from vqbet_ros.data.messages import (
    by_name,
    read_float64_array,
    read_joy,
    read_pose,
    read_twist,
    repeated,
)
from vqbet_ros.errors import BadMessage, listed
from vqbet_ros.message_types import (
    FLOAT64_MULTI_ARRAY,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    JOY,
    POSE_STAMPED,
    TWIST_STAMPED,
)
from vqbet_ros.runtime.rotation import from_matrix, matrix

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Command:
    """What one message commands.

    Attributes:
        values: (K, n) targets; NaN for joints that the message does not name.
        offsets_ns: (K,) when each is due, after the message's stamp; 0 where it is valid at once.
    """

    values: Float64
    offsets_ns: NDArray[np.int64]

    def at(self, elapsed_ns: int) -> Float64:
        """Return the (n,) target that is valid so long after the stamp."""
        index = int(np.searchsorted(self.offsets_ns, elapsed_ns))
        target: Float64 = self.values[min(index, len(self.values) - 1)]
        return target


def decode_command(cdr: bytes, source: CommandSource) -> Command:
    """Decode a recorded command.

    Raises:
        BadMessage: The message is broken, or is not what the spec says.
    """
    return _DECODERS[source.type](cdr, source)


def delta(target: Float64, measured: Float64, *, pose: bool) -> Float64:
    """Return a target relative to what is measured; the spec's 'delta'.

    Args:
        target: (n,), of a pose (9,).
        measured: The same channels.
        pose: Whether these are a position and a 6-D rotation: R_target R_measured^T.
    """
    if not pose:
        return target - measured
    turned = matrix(target[3:]) @ matrix(measured[3:]).T
    return np.concatenate([target[:3] - measured[:3], from_matrix(turned)])


def _joint_state(cdr: bytes, source: CommandSource) -> Command:
    message = deserialize(cdr, JOINT_STATE)
    _require_named(message.name, message.position.size, source)
    _require_finite(message.name, message.position, source)
    return _single(by_name(message.name, message.position, source.names))


def _trajectory(cdr: bytes, source: CommandSource) -> Command:
    message = deserialize(cdr, JOINT_TRAJECTORY)
    if not message.points:
        raise BadMessage(f'{source.topic}: a trajectory without points (it stops the robot)')
    rows, offsets_ns = [], []
    for point in message.points:
        _require_named(message.joint_names, point.positions.size, source)
        _require_finite(message.joint_names, point.positions, source)
        rows.append(by_name(message.joint_names, point.positions, source.names))
        offsets_ns.append(point.time_from_start.sec * 10**9 + point.time_from_start.nanosec)
    if offsets_ns != sorted(offsets_ns):
        raise BadMessage(f'{source.topic}: the points of the trajectory are not in order of time')
    return Command(np.stack(rows), np.array(offsets_ns, dtype=np.int64))


def _single(values: Float64) -> Command:
    return Command(values[None], np.zeros(1, dtype=np.int64))  # (1, n)


def _require_named(names: Sequence[str], size: int, source: CommandSource) -> None:
    problems = repeated(names, source.names)
    if size != len(names):
        problems.append(f'{size} positions for {len(names)} joints')
    if problems:
        raise BadMessage(listed(f'{source.topic}: bad command', problems))


def _require_finite(names: Sequence[str], values: Float64, source: CommandSource) -> None:
    bad = [
        name
        for name, value in zip(names, values.tolist(), strict=True)
        if name in source.names and not np.isfinite(value)
    ]
    if bad:
        raise BadMessage(f'{source.topic}: not a finite number: {", ".join(bad)}')


_DECODERS: dict[str, Callable[[bytes, CommandSource], Command]] = {
    JOINT_STATE: _joint_state,
    JOINT_TRAJECTORY: _trajectory,
    FLOAT64_MULTI_ARRAY: lambda cdr, s: _single(read_float64_array(cdr, s.topic, s.names)),
    JOY: lambda cdr, s: _single(read_joy(cdr, s.topic, s.names)),
    POSE_STAMPED: lambda cdr, s: _single(read_pose(cdr, s.topic, s.frame_id)),
    TWIST_STAMPED: lambda cdr, s: _single(read_twist(cdr, s.topic, s.frame_id)),
}
