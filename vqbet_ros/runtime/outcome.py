"""What the supervisor decides at a tick."""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.gate import Reason


class State(Enum):
    """What the supervisor is doing."""

    DISARMED = 'disarmed'
    WAITING = 'waiting'
    RAMP_IN = 'ramp in'
    RUNNING = 'running'
    HOLD = 'hold'
    FAULT = 'fault'


@dataclass(frozen=True)
class Command:
    """Publish this.

    Attributes:
        values: (A,) positions in the action's unit, finite and within the spec's limits.
        index: Place of the action in its chunk.
        due_ns: When the action is due, not before now.
        t_obs_ns: Time of the observation that it answers to.
        dropped: How many actions so far were in the past before they could be commanded.
        reasons: Warnings, if there are any.
    """

    values: NDArray[np.float64]
    index: int
    due_ns: int
    t_obs_ns: int
    dropped: int
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class Hold:
    """The policy commands nothing.

    Attributes:
        state: Every state but RUNNING and RAMP_IN.
        reasons: At least one.
        values: (A,) what keeps the robot where it is, or stops it within its limits; None where
            nothing may be published.
    """

    state: State
    reasons: tuple[Reason, ...]
    values: NDArray[np.float64] | None = None

    def __eq__(self, other: object) -> bool:
        """Compare what can be read; arrays have no truth value."""
        if not isinstance(other, Hold):
            return NotImplemented
        return (self.state, self.reasons) == (other.state, other.reasons)

    def __hash__(self) -> int:
        return hash((self.state, self.reasons))
