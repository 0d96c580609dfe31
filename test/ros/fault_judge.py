"""The judge of what a robot was commanded: nothing may break its limits, whatever happened.

Every tick of the control thread is noted with the time that the limiter counted for it, so that
limits are held to the last digit however busy the machine is; and every command that arrived over
DDS has to be one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.supervisor import Command
from vqbet_ros.spec import RobotSpec

Vector = NDArray[np.float64]
EXACT = 1.0 + 1e-6  # rounding


@dataclass(frozen=True)
class Tick:
    """One tick of the control thread.

    Attributes:
        at_s: Monotonic time.
        step_s: What the limiter counts as the time since the tick before.
        measured: (A,) where the robot is.
        outcome: What was decided.
        late: Whether it made up for others, which an arm that follows a course needs.
    """

    at_s: float
    step_s: float
    measured: Vector
    outcome: Any
    late: bool = False

    @property
    def values(self) -> Vector | None:
        """What is commanded (A,), by the policy or to stop."""
        return self.outcome.values  # type: ignore[no-any-return]

    @property
    def is_policy(self) -> bool:
        """Whether the policy is followed."""
        return isinstance(self.outcome, Command)


@dataclass(frozen=True)
class Row:
    """What became of the robot after a fault: one row of the table.

    Attributes:
        worst_step: Largest step between two commands, as a share of velocity limit times time.
        standstill_s: From the fault to the last command that differs from the one before it.
        ticks: Since the fault.
    """

    worst_step: float
    standstill_s: float
    ticks: list[Tick]


def same(one: Vector | None, other: Vector | None) -> bool:
    """Tell whether two commands are the same, or both are none."""
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def seconds(ticks: Sequence[Tick]) -> float:
    """Return the limiter's time that ticks took."""
    return sum(tick.step_s for tick in ticks)


class Judge:
    """Knows the limits of a robot.

    Args:
        spec: The robot.

    Attributes:
        period_s: Nominal time between two commands.
        low: (A,) lowest command.
        high: (A,) highest command.
        velocity: (A,) largest change of a command per second; of a velocity, the acceleration.
        acceleration: (A,) largest change of that per second.
        stop_s: Longest time to rest: acceleration to zero, then all the way down, and rounded up.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self._from_zero = spec.action.is_velocity
        self.period_s = 1 / (spec.runtime.control_rate_hz or spec.rate_hz)
        limits = [spec.action.limits[name] for name in spec.action_names]
        self.low, self.high = np.array([one.position for one in limits]).T  # (A,) each
        rates = [(one.velocity, one.acceleration, one.jerk) for one in limits]
        known = [[np.inf if rate is None else rate for rate in three] for three in rates]
        self.velocity, self.acceleration, self._jerk = np.array(known).T  # (A,) each
        v, a, j = self.velocity[0], self.acceleration[0], self._jerk[0]
        if self._from_zero:
            v, a, j = self.high[0], v, a
        rounding_s = 3 * 2 * self.period_s  # each of the three phases of a stop ends with a tick
        self.stop_s = float(v / a + 2 * a / j + rounding_s)

    def check(self, ticks: Sequence[Tick]) -> None:
        """Check range, velocity, acceleration and jerk of every tick since the first."""
        zeros = np.zeros(len(self.low))
        position: Vector | None = None
        velocity = acceleration = zeros
        single = 2  # ticks in a row that were one step each: only of those rates can be told
        for i, tick in enumerate(ticks):
            single = 0 if tick.late else single + 1
            if tick.values is None:
                position = None
                continue
            if position is None:  # it begins at rest where it is measured
                position = zeros if self._from_zero else tick.measured
                velocity = acceleration = zeros
                single = 3
            new_velocity = (tick.values - position) / tick.step_s
            new_acceleration = (new_velocity - velocity) / tick.step_s
            jerk = (new_acceleration - acceleration) / tick.step_s
            text = f'tick {i}: {tick}'
            assert (tick.values >= self.low - 1e-9).all(), text
            assert (tick.values <= self.high + 1e-9).all(), text
            assert (np.abs(new_velocity) <= self.velocity * EXACT + 1e-9).all(), text
            if single >= 2:
                assert (np.abs(new_acceleration) <= self.acceleration * EXACT + 1e-9).all(), text
            if single >= 3:
                assert (np.abs(jerk) <= self._jerk * EXACT + 1e-6).all(), text
            assert self._from_zero or tick.values.any(), f'zeros are no command: {text}'
            position, velocity, acceleration = tick.values, new_velocity, new_acceleration

    def worst_step(self, ticks: Sequence[Tick], commands: Sequence[Vector], first: int) -> float:
        """Return the largest step between two commands, as a share of what the limit allows.

        Args:
            ticks: All since the first.
            commands: All that came over DDS; each has to be found among the ticks, in order.
            first: The tick from which on steps count.
        """
        worst, index, elapsed_s = 0.0, 0, 0.0
        before: Vector | None = None
        for values in commands:
            if self._from_zero and not values.any():
                continue  # the end of every stop, also when no tick comes any more
            while index < len(ticks) and not same(ticks[index].values, values):
                if ticks[index].values is None:
                    before = None
                elapsed_s += ticks[index].step_s
                index += 1
            assert index < len(ticks), f'{values}: no tick has commanded that'
            elapsed_s += ticks[index].step_s
            if before is not None and index >= first:
                share = np.abs(values - before) / self.velocity / elapsed_s
                worst = max(worst, float(share.max()))
            before, elapsed_s, index = values, 0.0, index + 1
        assert worst <= EXACT
        return worst

    def check_stop(self, ticks: Sequence[Tick]) -> None:
        """Check how long it takes from the first command that stops to rest."""
        stopping = [tick for tick in ticks if not tick.is_policy and tick.values is not None]
        pairs = itertools.pairwise(stopping)
        moving = [now for before, now in pairs if not same(before.values, now.values)]
        assert seconds(moving) <= self.stop_s
