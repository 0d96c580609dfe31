"""The last stage before the robot: keeps each command within the spec's limits.

The rates of a command are its differences from the commands before it, not from what is measured:
a robot that lags behind does not slow its commands down. Commands begin at rest where the robot
was measured (`seed`), and stop as fast as the limits allow (`hold`). What is a little too much is
clamped and counted; what is grossly too much, or no number, is refused.
"""

from collections import Counter
from math import inf

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import ConfigError, listed
from vqbet_ros.runtime.axis import Axis, counted_s, EXACT, not_numbers, Refused
from vqbet_ros.runtime.motion import Motion
from vqbet_ros.runtime_spec import LimiterSettings
from vqbet_ros.spec import ActionSpec


class Limiter:
    """Limits numbers one by one: joints, a twist's velocities, a gripper.

    Args:
        action: Absolute targets with limits for each number.
        settings: Margins.
        period_s: Nominal time between commands; what is measured counts as half to twice of it,
            so that no step grows large after a pause.

    Attributes:
        clips: For joint and limit, how many commands were changed because of it. 'braking' is
            braking in time, before the end of the range or before the target.

    Raises:
        ConfigError: The spec asks for something that is not kept here.
    """

    def __init__(
        self,
        action: ActionSpec,
        settings: LimiterSettings | None = None,
        period_s: float = 0.1,
    ) -> None:
        problems = []
        if action.reference != 'absolute':
            problems.append(
                f"action.reference: got '{action.reference}', expected 'absolute': differences "
                'serve for recording and training only; for a policy that runs, train on '
                'absolute targets with model.relative_actions=true'
            )
        if action.kind == 'pose':
            problems.append("action.kind: got 'pose', expected 'joints' or 'twist'")
        if problems:
            raise ConfigError(listed('these commands cannot be limited', problems))
        limits = dict(action.limits)
        if action.gripper is not None:
            limits[action.gripper.name] = action.gripper.limits
        self._settings = settings or LimiterSettings()
        self._names = action.channels
        self._axes = [Axis(limits[name], self._settings) for name in self._names]
        # What is given per second is a velocity; the gripper's is a position all the same.
        is_velocity = action.kind == 'twist' or action.unit.endswith('/s')
        self._rests_at_zero = [is_velocity and n in action.arm_channels for n in self._names]
        self._period_s = period_s
        self._motions: list[Motion] | None = None
        self._targets: list[float] = []
        self._sent: NDArray[np.float64] | None = None
        self.clips: Counter[tuple[str, str]] = Counter()

    @property
    def needs_seed(self) -> bool:
        """Whether a rate is limited, so that the first command depends on where the robot is."""
        return any(axis.has_rates for axis in self._axes)

    @property
    def seeded(self) -> bool:
        """Whether it is known from where the next command goes on."""
        return self._motions is not None

    @property
    def unscaled(self) -> tuple[str, ...]:
        """What has no limit of velocity: a speed scale has no effect on it."""
        return tuple(
            n for n, axis in zip(self._names, self._axes, strict=True) if axis.velocity == inf
        )

    @property
    def longest_stops_s(self) -> dict[str, float]:
        """For each number, the longest time that it may take to stop within its limits."""
        return {
            name: axis.longest_stop_s(at_zero)
            for name, axis, at_zero in zip(
                self._names, self._axes, self._rests_at_zero, strict=True
            )
        }

    @property
    def sent(self) -> NDArray[np.float64] | None:
        """The last command (A,) since `seed` or `forget`, if there was one."""
        return None if self._sent is None else self._sent.copy()

    @property
    def position(self) -> NDArray[np.float64] | None:
        """From where the next command goes on (A,): the last one, or the seed."""
        if self._motions is None:
            return None
        return np.array([motion.position for motion in self._motions])

    @property
    def at_rest(self) -> bool:
        """Whether the last command moved nothing by more than a billionth of its range.

        A velocity that does not change moves the robot all the same: it has to be zero.
        """
        return all(
            abs(motion.velocity) * self._period_s <= 1e-9 * axis.size
            and (not at_zero or abs(motion.position) <= 1e-9 * axis.size)
            for motion, axis, at_zero in zip(
                self._motions or (), self._axes, self._rests_at_zero, strict=False
            )
        )

    @property
    def velocities(self) -> NDArray[np.float64]:
        """Velocities (A,) of the last command; zeros before the first."""
        if self._motions is None:
            return np.zeros(len(self._names))
        return np.array([motion.velocity for motion in self._motions])

    def seed(self, positions: NDArray[np.float64]) -> None:
        """Begin anew at rest; nothing counts as sent.

        Args:
            positions: (A,) finite; where the robot is, for velocities zeros. Outside of the range,
                commands may stay there or go inward.

        Raises:
            ValueError: A position is not finite.
        """
        if positions.shape != (len(self._names),) or not np.isfinite(positions).all():
            raise ValueError(f'seed: got {positions}, expected {len(self._names)} finite numbers')
        self._begin([float(position) for position in positions])

    def forget(self) -> None:
        """Forget where the commands were; `seed` is next."""
        self._motions, self._sent = None, None

    def refusal(self, values: NDArray[np.float64], elapsed_s: float) -> str | None:
        """Say why a target is refused, or None; `limit` raises it."""
        wrong = not_numbers(values, len(self._names))
        if wrong is not None:
            return wrong
        # Steps of a chunk may come whole in one tick.
        seconds = max(self._tick(elapsed_s), self._settings.seam_s)
        problems = []
        for i, (name, axis, value) in enumerate(
            zip(self._names, self._axes, values.tolist(), strict=True)
        ):
            excess = max(axis.limits.position[0] - value, value - axis.limits.position[1])
            if excess > self._settings.gross_position * axis.size:
                problems.append(f'{name}: {value:g} is outside {list(axis.limits.position)}')
            if self._motions is not None:
                # A new plan may begin at the last command although the last target was further.
                jump = min(abs(value - self._targets[i]), abs(value - self._motions[i].position))
                farthest = self._settings.gross_velocity * axis.velocity * seconds
                if jump > farthest:
                    problems.append(f'{name}: jumps by {jump:.3g}, limit {farthest:.3g}')
        return '; '.join(problems) or None

    def limit(
        self, values: NDArray[np.float64], elapsed_s: float | None = None, scale: float = 1.0
    ) -> NDArray[np.float64]:
        """Return the nearest allowed command.

        Args:
            values: (A,) targets in the action's unit.
            elapsed_s: Time since the last command; None for the nominal period.
            scale: 0 to 1 of the largest velocities.

        Returns:
            A new (A,) array.

        Raises:
            Refused: A target is grossly wrong or not finite, and nothing has changed; or what
                came out is not finite, and `seed` is next.
            ValueError: It is not known from where to go on (`seed`).
        """
        elapsed_s = self._period_s if elapsed_s is None else elapsed_s
        refusal = self.refusal(values, elapsed_s)
        if refusal is not None:
            raise Refused(f'command: {refusal}')
        targets, tick_s = values.tolist(), self._tick(elapsed_s)
        if self._motions is None:
            if self.needs_seed:
                raise ValueError(
                    'limits of rates need to know where the robot is: call seed first'
                )
            self._begin(
                [axis.nearest(target) for axis, target in zip(self._axes, targets, strict=True)]
            )
        assert self._motions is not None  # noqa: S101 - _begin has made them
        for name, axis, motion, target in zip(
            self._names, self._axes, self._motions, targets, strict=True
        ):
            cause = axis.excess(motion, target, tick_s, scale)
            reached = motion.follow(target, tick_s, scale)
            if cause is None and abs(reached - target) > EXACT * axis.size:
                cause = 'braking'
            if cause is not None:
                self.clips[name, cause] += 1
        self._targets = targets
        return self._send()

    def hold(self, elapsed_s: float | None = None) -> NDArray[np.float64] | None:
        """Return the command that stops, and then the one that stays; zeros for velocities.

        Returns:
            A new (A,) array; None where nothing was ever sent that would have to be stopped.
        """
        tick_s = self._tick(self._period_s if elapsed_s is None else elapsed_s)
        if self._motions is None or self._sent is None:
            return np.zeros(len(self._names)) if all(self._rests_at_zero) else None
        for motion, at_zero in zip(self._motions, self._rests_at_zero, strict=True):
            if at_zero:
                motion.follow(0.0, tick_s)
            else:
                motion.brake(tick_s)
        self._targets = [motion.position for motion in self._motions]
        return self._send()

    def _begin(self, positions: list[float]) -> None:
        self._motions = [
            axis.begin(position) for axis, position in zip(self._axes, positions, strict=True)
        ]
        self._targets, self._sent = positions, None

    def _send(self) -> NDArray[np.float64]:
        assert self._motions is not None  # noqa: S101 - its callers have looked
        sent = np.array([motion.position for motion in self._motions])
        if not np.isfinite(sent).all():
            self.forget()
            raise Refused(f'the limiter came to {sent}, expected finite numbers')
        self._sent = sent
        return sent.copy()

    def _tick(self, elapsed_s: float) -> float:
        return counted_s(elapsed_s, self._period_s)
