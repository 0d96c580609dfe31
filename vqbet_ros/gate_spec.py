"""The part of the spec that says which observations are not trusted, though fresh and whole."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import math
from typing import Protocol

from vqbet_ros.checks import Check, positive, require


class Timed(Protocol):
    """When a stream's messages come."""

    @property
    def stream(self) -> str:
        """Its name."""

    @property
    def rate_hz(self) -> float:
        """How often."""

    @property
    def latency_s(self) -> float:
        """How late."""


@dataclass(frozen=True)
class GateSettings:
    """What stops the robot; null where nothing is looked at.

    Attributes:
        max_skew_s: Largest difference between the newest stamps of two streams.
        frozen_after: A camera whose newest so many pictures are the same, byte by byte, is frozen;
            2 or more. The noise of real cameras makes every picture another one, but the pictures
            of a simulator are the same while nothing moves.
        range_margin: A measured number further outside its `limits.position` than this share of
            the range is not believed. Looked at are absolute positions in the limit's unit and
            frame.
    """

    max_skew_s: float | None = None
    frozen_after: int | None = None
    range_margin: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        skew, after, margin = self.max_skew_s, self.frozen_after, self.range_margin
        require(
            (
                skew is None or positive(skew),
                f'max_skew_s: got {skew}, expected more than 0, or null',
            ),
            (
                after is None or after >= 2,
                f'frozen_after: got {after}, expected 2 or more, or null',
            ),
            (
                margin is None or (math.isfinite(margin) and margin >= 0),
                f'range_margin: got {margin}, expected 0 or more, or null',
            ),
        )

    def checks(self, streams: Sequence[Timed]) -> Iterable[Check]:
        """Check that a robot on which all is well passes the gate."""
        for one in streams:
            others = [other.latency_s for other in streams if other is not one]
            if self.max_skew_s is None or not others or not positive(one.rate_hz):
                continue
            behind_s = one.latency_s + 1 / one.rate_hz - min(others)
            at = f'at {one.rate_hz:g} Hz with a latency of {one.latency_s:g} s'
            yield (
                self.max_skew_s >= behind_s,
                f'max_skew_s: got {self.max_skew_s}, but {at} the newest of {one.stream} is up to '
                f'{behind_s:g} s behind that of another stream',
            )
