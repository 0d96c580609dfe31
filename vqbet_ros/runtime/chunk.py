"""What the policy decides: a chunk of actions, each due at its time.

Action i drives the robot in the interval (t_obs + i period, t_obs + (i + 1) period] and is due at
its end.
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
        codes: (G,) the codes that the actions were decoded from, the primary one first; None
            where they are not known.
    """

    t_obs_ns: int
    actions: NDArray[np.floating]
    period_ns: int
    confidence: float
    epoch: int
    codes: tuple[int, ...] | None = None

    @property
    def end_ns(self) -> int:
        """When the last action is due."""
        return self.t_obs_ns + len(self.actions) * self.period_ns

    @property
    def times_ns(self) -> list[int]:
        """When each action is due."""
        return [self.t_obs_ns + (i + 1) * self.period_ns for i in range(len(self.actions))]

    @property
    def primary(self) -> int | None:
        """The primary code, if it is known."""
        return None if not self.codes else self.codes[0]
