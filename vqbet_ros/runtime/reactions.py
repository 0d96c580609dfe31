"""What each reason does to the robot: one table, for the program and for the documents."""

from enum import IntEnum
from types import MappingProxyType

from vqbet_ros.runtime.gate import ReasonKind


class Reaction(IntEnum):
    """What follows from a reason, the gentler ones first."""

    WARN = 0
    """The robot goes on; the reason is shown."""
    HOLD = 1
    """It stops within its limits and stays; it goes on with the first plan made afterwards."""
    DISARM = 2
    """It stops within its limits; then somebody has to enable it again."""
    FAULT = 3
    """It stops within its limits; then somebody has to reset it, once the cause is gone."""


REACTIONS = MappingProxyType(
    {
        # The observation
        ReasonKind.MISSING: Reaction.HOLD,
        ReasonKind.STALE: Reaction.HOLD,
        ReasonKind.FUTURE: Reaction.HOLD,
        ReasonKind.GAP: Reaction.HOLD,
        ReasonKind.BAD_MESSAGE: Reaction.HOLD,
        ReasonKind.SKEW: Reaction.HOLD,
        ReasonKind.FROZEN: Reaction.HOLD,
        ReasonKind.OUT_OF_RANGE: Reaction.HOLD,
        ReasonKind.NO_START: Reaction.HOLD,
        # The plan
        ReasonKind.NO_PLAN: Reaction.HOLD,
        ReasonKind.PLAN_ENDED: Reaction.HOLD,
        ReasonKind.OLD_CHUNK: Reaction.WARN,
        ReasonKind.BAD_CHUNK: Reaction.FAULT,  # settings.bad_chunk can make it a HOLD
        ReasonKind.REFUSED: Reaction.FAULT,
        ReasonKind.START_TOO_FAR: Reaction.DISARM,
        ReasonKind.INFERENCE_LATE: Reaction.HOLD,
        ReasonKind.INFERENCE_DEAD: Reaction.FAULT,
        # The operator
        ReasonKind.DISARMED: Reaction.DISARM,
        ReasonKind.DISARMING: Reaction.DISARM,
        ReasonKind.DEADMAN: Reaction.DISARM,
        ReasonKind.ESTOP: Reaction.FAULT,
        # The robot and what is around it
        ReasonKind.TRACKING: Reaction.FAULT,
        ReasonKind.FOREIGN_PUBLISHER: Reaction.FAULT,
        ReasonKind.CONTROLLER: Reaction.HOLD,
        ReasonKind.HELD: Reaction.DISARM,
        ReasonKind.CLOCK_JUMP: Reaction.HOLD,
        ReasonKind.CLOCK_STANDS: Reaction.WARN,  # the simulated robot stands still as well
        ReasonKind.FAULT: Reaction.FAULT,
        # Monitors; their settings can make them a HOLD
        ReasonKind.REVERSALS: Reaction.WARN,
        ReasonKind.JERK: Reaction.WARN,
        ReasonKind.CONFIDENCE: Reaction.WARN,
    }
)
