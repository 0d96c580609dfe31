"""The chunk of actions that is being executed, by time.

Action i of a chunk drives the robot in the interval (t_obs + i period, t_obs + (i + 1) period]
and is due at its end. What is due in the past is dropped, never played late.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Chunk:
    """What the policy answered to one observation.

    Attributes:
        t_obs_ns: Time of the observation.
        actions: (W, A) in the action's unit.
        period_ns: Distance of two actions.
        confidence: 0 to 1.
        epoch: The supervisor's epoch when the observation was taken.
    """

    t_obs_ns: int
    actions: NDArray[np.floating]
    period_ns: int
    confidence: float
    epoch: int

    @property
    def end_ns(self) -> int:
        """When the last action is due."""
        return self.t_obs_ns + len(self.actions) * self.period_ns


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
    """At most one chunk; a newer one replaces it at once.

    Attributes:
        dropped: Actions that were in the past before they were ever asked for.
    """

    def __init__(self) -> None:
        self.chunk: Chunk | None = None
        self.dropped = 0
        self._fresh = 0  # the first index of the chunk that was neither played nor dropped

    def replace(self, chunk: Chunk) -> bool:
        """Take a chunk over; False if it answers to no newer observation than the present one."""
        if self.chunk is not None and chunk.t_obs_ns <= self.chunk.t_obs_ns:
            return False
        self.chunk = chunk
        self._fresh = 0
        return True

    def clear(self) -> None:
        """Forget the chunk."""
        self.chunk = None
        self._fresh = 0

    def command(self, now_ns: int) -> Step | None:
        """Return the action that drives the robot now.

        Returns:
            The action whose interval holds `now_ns`; action 0 also up to one period before its
            interval (a stamp a little ahead of this clock); None outside all intervals.
        """
        chunk = self.chunk
        if chunk is None:
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
        return Step(chunk.actions[index], index, due_ns, chunk.t_obs_ns)
