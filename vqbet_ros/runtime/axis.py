"""What limits one number, and what both limiters have in common."""

from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.motion import Motion, scaled
from vqbet_ros.runtime_spec import LimiterSettings
from vqbet_ros.spec import JointLimits

EXACT = 1e-6
"""Share of a limit, or of a range, that is no excess but rounding."""

LEAST_TICK = 0.5
"""Share of the nominal period that counts as the time since the last command, at least."""


class Refused(ValueError):
    """A target is so wrong that no command is made of it."""


def not_numbers(values: NDArray[np.float64], count: int) -> str | None:
    """Say what makes a target no (count,) finite numbers, or None."""
    if values.shape != (count,):
        return f'got shape {values.shape}, expected ({count},)'
    return None if np.isfinite(values).all() else f'got {values}, expected finite numbers'


def counted_s(elapsed_s: float, period_s: float) -> float:
    """Return what counts as the time since the last command: half to twice the nominal one."""
    return min(max(elapsed_s, LEAST_TICK * period_s), 2.0 * period_s)


def longest_stop_s(size: float, velocity: float, acceleration: float, jerk: float) -> float:
    """Bound the time in which any motion in a range comes to rest, in continuous time.

    Args:
        size: Of the range.
        velocity: Largest speed; inf where it is not limited, as for the next two.
        acceleration: Largest acceleration.
        jerk: Largest jerk.
    """
    if acceleration == inf and jerk == inf:
        return 0.0
    # Nothing moves faster that has to stop in the range.
    v = min(velocity, sqrt(acceleration * size), float((jerk * size**2) ** (1 / 3)))
    down = min(acceleration, sqrt(v * jerk))  # deceleration that the stop comes to
    up = min(acceleration, sqrt(2.0 * v * jerk))  # acceleration that is still to be taken away
    return v / down + (down + up) / jerk


class Axis:
    """The limits of one number."""

    def __init__(self, limits: JointLimits, settings: LimiterSettings) -> None:
        low, high = limits.position
        margin = settings.soft_margin * (high - low)
        self.limits, self.size = limits, high - low
        self.low, self.high = low + margin, high - margin
        rates = (limits.velocity, limits.acceleration, limits.jerk)
        self.velocity, self.acceleration, self.jerk = (
            inf if rate is None else rate for rate in rates
        )
        self.has_rates = any(rate is not None for rate in rates)

    def begin(self, position: float) -> Motion:
        """Return a motion that begins at rest."""
        return Motion(position, self.low, self.high, self.velocity, self.acceleration, self.jerk)

    def longest_stop_s(self, at_zero: bool = False) -> float:
        """Return the longest time until it rests; `at_zero` for what has to come to zero too."""
        rates = self.velocity, self.acceleration, self.jerk
        stop_s = longest_stop_s(self.size, *rates)
        if not at_zero:
            return stop_s
        # Perhaps it goes the other way, then all the way to zero at its fastest, and rests there.
        fastest = min(self.velocity, sqrt(self.acceleration * self.size))
        return 2.0 * stop_s + max(abs(self.low), abs(self.high)) / fastest

    def nearest(self, target: float) -> float:
        """Return the place in the range that is nearest to a target."""
        return min(max(target, self.low), self.high)

    def excess(self, motion: Motion, target: float, tick_s: float, scale: float) -> str | None:
        """Return the first limit that the step to the target would break, if any."""
        if target != self.nearest(target):
            return 'position'
        more = 1.0 + EXACT
        velocity = (target - motion.position) / tick_s
        if abs(velocity) > scaled(self.velocity, scale) * more:
            return 'velocity'
        acceleration = (velocity - motion.velocity) / tick_s
        if abs(acceleration) > self.acceleration * more:
            return 'acceleration'
        jerk = (acceleration - motion.acceleration) / tick_s
        return 'jerk' if abs(jerk) > self.jerk * more else None
