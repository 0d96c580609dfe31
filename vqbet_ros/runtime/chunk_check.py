"""The check of a whole chunk before it is taken: nothing of a wrong one is ever executed.

What is a little beyond a limit is taken: the limiter clamps it, command by command.
"""

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.message_types import POSITION
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime.interpolation import Start
from vqbet_ros.runtime_spec import LimiterSettings
from vqbet_ros.spec import ActionSpec, JointLimits

Vector = NDArray[np.float64]
_SHORTEST_COLUMN = 0.1  # of a rotation's two columns; 1 for a perfect one


class ChunkCheck:
    """Knows what a chunk of one robot must look like.

    Args:
        action: The robot's commands.
        settings: What is more than a little.
    """

    def __init__(self, action: ActionSpec, settings: LimiterSettings) -> None:
        self._names, self._settings = action.channels, settings
        limits: list[JointLimits | None] = [action.limits.get(name) for name in self._names]
        if action.gripper is not None:
            limits[-1] = action.gripper.limits
        ranges = [(-np.inf, np.inf) if one is None else one.position for one in limits]
        self._low, self._high = np.array(ranges, dtype=np.float64).T  # (A,) each
        speeds = [
            np.inf if one is None or one.velocity is None else one.velocity for one in limits
        ]
        self._speed = np.array(speeds)
        self._is_pose = action.kind == 'pose'

    def actions(self, chunk: Chunk) -> Vector | str:
        """Return the chunk's actions as an own (W, A) array, or what makes them no actions."""
        width = len(self._names)
        try:
            actions = np.array(chunk.actions, dtype=np.float64)
        except (TypeError, ValueError) as error:
            return f'actions are no numbers: {error}'
        if actions.ndim != 2 or len(actions) == 0 or actions.shape[1] != width:
            return f'actions have shape {actions.shape}, expected (W, {width})'
        if not np.isfinite(actions).all():
            count = int((~np.isfinite(actions)).sum())
            return f'{count} of {actions.size} numbers are not finite'
        if chunk.period_ns <= 0:
            return f'period_ns is {chunk.period_ns}, expected more than 0'
        actions.setflags(write=False)
        return actions

    def problems(self, chunk: Chunk, actions: Vector, start: Start | None = None) -> list[str]:
        """List what is grossly wrong with a chunk, as text for the operator.

        Args:
            chunk: Its times.
            actions: (W, A) as `actions` returns them.
            start: The last command; None before the first. Only actions that are due after it are
                looked at.
        """
        times_ns = np.array(chunk.times_ns)
        if start is not None:
            future = times_ns > start.time_ns
            actions, times_ns = actions[future], times_ns[future]
        if not len(actions):
            return []
        return [
            *self._outside(actions),
            *self._jumps(actions, chunk.period_ns / 1e9),
            *(() if start is None else self._distance(actions[0], int(times_ns[0]), start)),
            *(self._rotations(actions) if self._is_pose else ()),
        ]

    def _outside(self, actions: Vector) -> list[str]:
        size = self._high - self._low
        with np.errstate(invalid='ignore'):
            margin = np.where(np.isinf(size), np.inf, self._settings.gross_position * size)
        problems = []
        for i, name in enumerate(self._names):
            values = actions[:, i]
            wrong = (values < self._low[i] - margin[i]) | (values > self._high[i] + margin[i])
            if wrong.any():
                step = int(wrong.argmax())
                bounds = f'[{self._low[i]:g}, {self._high[i]:g}]'
                problems.append(f'{name}: {values[step]:g} in step {step} is outside {bounds}')
        return problems

    def _jumps(self, actions: Vector, period_s: float) -> list[str]:
        if len(actions) < 2:
            return []
        with np.errstate(over='ignore'):  # infinitely fast is too fast
            speeds = np.abs(np.diff(actions, axis=0)) / period_s  # (W - 1, A)
        problems = []
        for i, name in enumerate(self._names):
            fastest = int(speeds[:, i].argmax())
            if speeds[fastest, i] > self._settings.gross_velocity * self._speed[i]:
                speed = f'{speeds[fastest, i]:.3g} per s, limit {self._speed[i]:g}'
                problems.append(f'{name}: {speed} between steps {fastest} and {fastest + 1}')
        return problems

    def _distance(self, first: Vector, due_ns: int, start: Start) -> list[str]:
        # Near its time an action may be a whole step ahead of the last command.
        seconds = max((due_ns - start.time_ns) / 1e9, self._settings.seam_s)
        size = self._high - self._low
        farthest = np.minimum(
            self._settings.gross_velocity * self._speed * seconds, self._settings.seam * size
        )
        distance = np.abs(first - start.values)
        return [
            f'{name}: begins {distance[i]:.3g} from the last command, limit {farthest[i]:.3g}'
            for i, name in enumerate(self._names)
            if distance[i] > farthest[i]
        ]

    def _rotations(self, actions: Vector) -> list[str]:
        columns = actions[:, len(POSITION) : len(POSITION) + 6].reshape(-1, 2, 3)
        first, second = columns[:, 0], columns[:, 1]
        length = np.linalg.norm(first, axis=1)
        height = np.linalg.norm(np.cross(first, second), axis=1) / np.maximum(length, 1e-12)
        wrong = (length < _SHORTEST_COLUMN) | (height < _SHORTEST_COLUMN)
        if not wrong.any():
            return []
        return [f'step {int(wrong.argmax())} has no rotation: {columns[wrong.argmax()].tolist()}']
