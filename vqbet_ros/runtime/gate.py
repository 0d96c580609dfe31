"""Reasons why the robot must not move, and the check of a stream's age.

Everything that stops commands is a Reason, so that the operator always reads why.
"""

from dataclasses import dataclass
from enum import Enum


class ReasonKind(Enum):
    """What kind of thing stops the commands; the value is what the operator reads."""

    MISSING = 'no data'
    STALE = 'data is too old'
    FUTURE = 'stamp lies in the future'
    GAP = 'no data at the time of the observation'
    BAD_MESSAGE = 'message cannot be used'
    SKEW = 'data lags behind that of another stream'
    FROZEN = 'the picture does not change'
    OUT_OF_RANGE = 'measured outside its range'
    DISARMED = 'not enabled'
    NO_PLAN = 'no plan yet'
    PLAN_ENDED = 'plan has ended'
    OLD_CHUNK = 'chunk is outdated'
    BAD_CHUNK = 'chunk cannot be used'
    FAULT = 'fault'
    DISARMING = 'stopping, then disarmed'
    NO_START = 'where the robot is, is not known'
    START_TOO_FAR = 'the plan begins too far from the robot'
    ESTOP = 'emergency stop is pressed'
    DEADMAN = 'deadman switch is released'
    TRACKING = 'the robot does not follow its commands'
    INFERENCE_LATE = 'inference takes too long'
    INFERENCE_DEAD = 'inference has ended'
    REFUSED = 'command is grossly wrong'
    FOREIGN_PUBLISHER = 'somebody else sends commands too'
    CONTROLLER = 'controller does not take commands'
    HELD = 'held for too long'
    CLOCK_JUMP = 'the clock jumped'
    CLOCK_STANDS = 'simulated time stands still'
    REVERSALS = 'commands tremble'
    JERK = 'commands jerk'
    CONFIDENCE = 'the policy is not sure'


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        kind: For programs.
        detail: What was got and what is expected, with units.
        stream: The stream that it is about, if it is about one.
    """

    kind: ReasonKind
    detail: str = ''
    stream: str | None = None

    def __str__(self) -> str:
        where = f'{self.stream}: ' if self.stream else ''
        return f'{where}{self.kind.value}' + (f' ({self.detail})' if self.detail else '')


def age_ns(now_ns: int, stamp_ns: int) -> int:
    """Return the age of a sample in ns; 0 for a stamp slightly ahead of this clock."""
    return max(0, now_ns - stamp_ns)


def check_age(stream: str, stamp_ns: int | None, now_ns: int, max_age_ns: int) -> Reason | None:
    """Say why a stream cannot be trusted now, or None if it can.

    Args:
        stream: Name, for the reason.
        stamp_ns: Time of the newest sample; None if there is none.
        now_ns: Now, on the clock that the stamps are of.
        max_age_ns: Limit of the age. A stamp as far in the future is refused too: it means that
            the two clocks differ, so that no age of this stream can be believed.
    """
    if stamp_ns is None:
        return Reason(ReasonKind.MISSING, 'no message since the start or the last reset', stream)
    if now_ns - stamp_ns > max_age_ns:
        detail = f'newest is {in_ms(now_ns - stamp_ns)} old, limit {in_ms(max_age_ns)}'
        return Reason(ReasonKind.STALE, detail, stream)
    if stamp_ns - now_ns > max_age_ns:
        detail = (
            f'newest is {in_ms(stamp_ns - now_ns)} ahead, limit {in_ms(max_age_ns)}: '
            'synchronise the clocks, or give all nodes the same use_sim_time'
        )
        return Reason(ReasonKind.FUTURE, detail, stream)
    return None


def in_ms(duration_ns: int) -> str:
    """Write a time in ms."""
    return f'{duration_ns / 1e6:.0f} ms'
