"""How cautious the runtime is: settings that belong to neither the robot nor the policy."""

from dataclasses import dataclass
import math
from typing import Literal

from vqbet_ros.checks import positive, require


@dataclass(frozen=True)
class LimiterSettings:
    """Of the limiters.

    Attributes:
        soft_margin: Share of every range that is kept free at both of its ends, 0 to less than
            0.5.
        gross_position: A target that lies outside its range by more than this share of the range
            is refused instead of clamped.
        gross_velocity: A target that jumps faster than this many times the largest velocity is
            refused instead of clamped.
        seam: A chunk whose first action is further from the last command than this share of the
            range is refused.
        seam_s: The first action may be as far away as `gross_velocity` leads in this time, even
            if it is due earlier.
    """

    soft_margin: float = 0.0
    gross_position: float = 0.25
    gross_velocity: float = 10.0
    seam: float = 1.5
    seam_s: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            (
                0 <= self.soft_margin < 0.5,
                f'soft_margin: got {self.soft_margin}, expected 0 to 0.5',
            ),
            (
                self.gross_position >= 0,
                f'gross_position: got {self.gross_position}, expected 0 or more',
            ),
            (
                positive(self.gross_velocity) and self.gross_velocity >= 1,
                f'gross_velocity: got {self.gross_velocity}, expected 1 or more',
            ),
            (self.seam > 0, f'seam: got {self.seam}, expected more than 0'),
            (positive(self.seam_s), f'seam_s: got {self.seam_s}, expected more than 0'),
        )


@dataclass(frozen=True)
class BlendSettings:
    """How a new chunk goes on from those before it; see vqbet_ros.runtime.blending.

    Attributes:
        kind: What is done at the seam.
        steps: Steps over which 'cross_fade' goes from the old plan to the new one.
        decay: m of the weights exp(-m i) of 'ensemble' and 'mode', i = 0 for the oldest chunk: the
            smaller, the faster new chunks count.
        hysteresis: With 'mode', how much more probable another primary code has to be before the
            policy leaves the one that is being executed, 0 to 1.
    """

    kind: Literal['replace', 'cross_fade', 'ensemble', 'mode'] = 'replace'
    steps: int = 3
    decay: float = 0.01
    hysteresis: float = 0.2

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            (self.steps >= 1, f'steps: got {self.steps}, expected 1 or more'),
            (math.isfinite(self.decay), f'decay: got {self.decay}, expected a finite number'),
            (
                0 <= self.hysteresis <= 1,
                f'hysteresis: got {self.hysteresis}, expected 0 to 1',
            ),
        )
