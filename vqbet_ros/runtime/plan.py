"""The chunk of actions that is being executed, by time.

What is due in the past is dropped, never played late.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.blending import blend, seam
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime.interpolation import Interpolation, Path, Start
from vqbet_ros.runtime_spec import BlendSettings

__all__ = ['Chunk', 'Plan', 'Step']

_KEPT_CHUNKS = 64  # more than that never cover one time


@dataclass(frozen=True)
class Step:
    """One action of a chunk, with where it comes from.

    Attributes:
        values: (A,) in the action's unit.
        index: i, its place in the chunk.
        due_ns: When it is due.
        t_obs_ns: Time of the observation that it answers to.
    """

    values: NDArray[np.floating]
    index: int
    due_ns: int
    t_obs_ns: int


class Plan:
    """The chunk that is executed; a newer one replaces it at once, or is blended into it.

    Args:
        interpolation: What is commanded between two actions; see Path.
        blending: How a newer chunk goes on from those before it.

    Attributes:
        chunk: What is executed: the newest chunk, with the actions that blending made of it.
        dropped: Actions that were in the past before they were ever asked for.
        seam: After the last `replace`, the largest change (A,) of what was planned for the time of
            its first action that is not late; None where nothing was planned.
    """

    def __init__(
        self, interpolation: Interpolation = 'step', blending: BlendSettings | None = None
    ) -> None:
        self.chunk: Chunk | None = None
        self.dropped = 0
        self.seam: NDArray[np.float64] | None = None
        self._interpolation: Interpolation = interpolation
        self._blending = blending or BlendSettings()
        self._decided: list[Chunk] = []  # as the policy gave them, oldest first
        self._path: Path | None = None
        self._fresh = 0  # the first index of the chunk that was neither played nor dropped

    def replace(self, chunk: Chunk, start: Start | None = None) -> bool:
        """Take a chunk over; False if it answers to no newer observation than the present one.

        Args:
            chunk: The chunk.
            start: The last command, from which the path goes on; None before the first.
        """
        if self.chunk is not None and chunk.t_obs_ns <= self.chunk.t_obs_ns:
            return False
        now_ns = chunk.t_obs_ns if start is None else start.time_ns
        running = None if self.chunk is None or self.chunk.end_ns <= now_ns else self.chunk
        actions = blend(self._blending, chunk, self._decided, running, now_ns)
        self.seam = None if running is None else seam(actions, chunk, running, now_ns)
        self._decided = [earlier for earlier in self._decided if earlier.end_ns > now_ns][
            -_KEPT_CHUNKS:
        ]
        self._decided.append(chunk)
        self.chunk = dataclasses.replace(chunk, actions=actions)
        self._path = Path(chunk.times_ns, actions, self._interpolation, start)
        self._fresh = 0
        return True

    def clear(self) -> None:
        """Forget all chunks."""
        self.chunk = self._path = self.seam = None
        self._decided = []
        self._fresh = 0

    def command(self, now_ns: int) -> Step | None:
        """Return the action that drives the robot now.

        Returns:
            The action whose interval holds `now_ns`; action 0 also up to one period before its
            interval (a stamp a little ahead of this clock); None outside all intervals.
        """
        chunk, path = self.chunk, self._path
        if chunk is None or path is None:
            return None
        # The interval is open at its start: ceil(elapsed / period) - 1, in exact integers.
        index = -((chunk.t_obs_ns - now_ns) // chunk.period_ns) - 1
        if index == -1:
            index = 0
        if index < 0:
            return None
        size = len(chunk.actions)
        self.dropped += max(0, min(index, size) - self._fresh)
        self._fresh = max(self._fresh, min(index + 1, size))
        if index >= size:
            return None
        due_ns = chunk.t_obs_ns + (index + 1) * chunk.period_ns
        return Step(path.at(now_ns), index, due_ns, chunk.t_obs_ns)
