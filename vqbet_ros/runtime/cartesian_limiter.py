"""The last stage before a robot that takes poses: speed, acceleration and a workspace.

Position and rotation each move like a point: its velocity v changes by at most A h in a tick h and
is at most V long, A and V being lengths of vectors. A step of the position is taken only if the
stop after it, straight on with deceleration A, stays in the box; the step that brakes straight on
always does (the algebra of one number, times the share of v that points along an axis).

A pose is 9 numbers: position, then the first two columns of the rotation (see `rotation`).
"""

from collections import Counter
from math import inf, pi

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import ConfigError, listed
from vqbet_ros.message_types import POSITION
from vqbet_ros.runtime.axis import Axis, counted_s, EXACT, longest_stop_s, not_numbers, Refused
from vqbet_ros.runtime.motion import Motion, scaled
from vqbet_ros.runtime.point import Point, rotation_matrix, rotation_vector
from vqbet_ros.runtime.rotation import from_matrix, matrix
from vqbet_ros.runtime_spec import CartesianSettings, LimiterSettings
from vqbet_ros.spec import ActionSpec

Vector = NDArray[np.float64]
_BISECTIONS = 20


class CartesianLimiter:
    """Limits a pose, and the gripper beside it.

    Args:
        action: Absolute poses; its limits per axis are the workspace.
        settings: Margins.
        period_s: Nominal time between commands; see Limiter.
        cartesian: Speeds, accelerations and the lowest height.

    Attributes:
        clips: See Limiter; what is counted is 'position' of an axis, or 'velocity', 'acceleration'
            and 'braking' of the pose's 'position' and 'rotation'.

    Raises:
        ConfigError: The spec asks for something that is not kept here.
    """

    def __init__(
        self,
        action: ActionSpec,
        settings: LimiterSettings,
        period_s: float,
        cartesian: CartesianSettings,
    ) -> None:
        axes = [action.limits[name] for name in action.arm_channels[: len(POSITION)]]
        problems = [
            f'action.limits.{name}.jerk: got {limits.jerk}, expected null for a pose'
            for name, limits in action.limits.items()
            if limits.jerk is not None
        ]
        if action.kind != 'pose' or action.reference != 'absolute':
            problems.append(f"action: got {action.reference} '{action.kind}', expected poses")
        low, high = np.array([limits.position for limits in axes]).T
        margin = settings.soft_margin * (high - low)
        self._hard, self._low, self._high = (low, high), low + margin, high - margin
        if cartesian.min_height is not None:  # 0.0 is a height
            self._low[2] = max(self._low[2], cartesian.min_height)
        if self._low[2] >= self._high[2]:
            problems.append(f'cartesian.min_height: {cartesian.min_height} is above the workspace')
        if problems:
            raise ConfigError(listed('these poses cannot be limited', problems))
        self._linear = (
            min(cartesian.linear_velocity or inf, *(one.velocity or inf for one in axes)),
            min(cartesian.linear_acceleration or inf, *(one.acceleration or inf for one in axes)),
        )
        self._angular = (
            cartesian.angular_velocity or inf,
            cartesian.angular_acceleration or inf,
        )
        self._names = action.channels
        self._settings, self._period_s = settings, period_s
        self._gripper = None if action.gripper is None else Axis(action.gripper.limits, settings)
        self.clips: Counter[tuple[str, str]] = Counter()
        self._pose: tuple[Vector, Vector] | None = None  # position (3,), rotation (3, 3)
        self._target: tuple[Vector, Vector] | None = None
        self._motion: Motion | None = None  # of the gripper
        self.forget()

    @property
    def needs_seed(self) -> bool:
        """Always: also without limits, the first pose has to be near."""
        return True

    @property
    def seeded(self) -> bool:
        """Whether it is known from where the next command goes on."""
        return self._pose is not None

    @property
    def unscaled(self) -> tuple[str, ...]:
        """What has no limit of velocity: a speed scale has no effect on it."""
        parts = (('position', self._linear[0]), ('rotation', self._angular[0]))
        return tuple(name for name, velocity in parts if velocity == inf)

    @property
    def longest_stops_s(self) -> dict[str, float]:
        """For each part, the longest time that it may take to stop within its limits."""
        size = float(np.linalg.norm(self._high - self._low))
        stops_s = {
            'position': longest_stop_s(size, *self._linear, inf),
            'rotation': longest_stop_s(2.0 * pi, *self._angular, inf),
        }
        if self._gripper is not None:
            stops_s[self._names[-1]] = self._gripper.longest_stop_s()
        return stops_s

    @property
    def sent(self) -> Vector | None:
        """The last command (A,) since `seed` or `forget`, if there was one."""
        return self.position if self._has_sent else None

    @property
    def position(self) -> Vector | None:
        """From where the next command goes on (A,): the last one, or the seed."""
        if self._pose is None:
            return None
        place, rotation = self._pose
        gripper = () if self._motion is None else (self._motion.position,)
        return np.concatenate([place, from_matrix(rotation), gripper])

    @property
    def velocities(self) -> Vector:
        """Velocities (A,) of the last command; zeros before the first."""
        if self._pose is None:
            return np.zeros(len(self._names))
        columns = self._pose[1][:, :2].T  # (2, 3)
        turning = np.cross(self._rotation.velocity, columns).ravel()
        gripper = () if self._motion is None else (self._motion.velocity,)
        return np.concatenate([self._place.velocity, turning, gripper])

    @property
    def at_rest(self) -> bool:
        """Whether the last command moved nothing by more than a billionth."""
        return bool((np.abs(self.velocities) * self._period_s <= 1e-9).all())

    def seed(self, positions: Vector) -> None:
        """Begin anew at rest at a pose (A,); nothing counts as sent.

        Raises:
            ValueError: It is not finite, or has no rotation.
        """
        if positions.shape != (len(self._names),) or not np.isfinite(positions).all():
            raise ValueError(f'seed: got {positions}, expected {len(self._names)} finite numbers')
        rotation = matrix(positions[3:9])
        self.forget()
        self._pose = self._target = positions[:3].copy(), rotation
        self._box = np.minimum(self._low, positions[:3]), np.maximum(self._high, positions[:3])
        if self._gripper is not None:
            self._motion = self._gripper.begin(float(positions[9]))

    def forget(self) -> None:
        """Forget where the commands were; `seed` is next."""
        self._pose = self._target = self._motion = None
        self._has_sent = False
        self._place, self._rotation = Point(*self._linear), Point(*self._angular)

    def refusal(self, values: Vector, elapsed_s: float) -> str | None:
        """Say why a target is refused, or None; `limit` raises it."""
        wrong = not_numbers(values, len(self._names))
        if wrong is not None:
            return wrong
        problems = []
        low, high = self._hard
        excess = np.maximum(low - values[:3], values[:3] - high)
        for i in np.flatnonzero(excess > self._settings.gross_position * (high - low)):
            problems.append(f'{self._names[i]}: {values[i]:g} is outside [{low[i]}, {high[i]}]')
        try:
            matrix(values[3:9])
        except ValueError as error:
            problems.append(str(error))
        if self._pose is not None and self._target is not None:
            seconds = max(self._tick(elapsed_s), self._settings.seam_s)
            farthest = self._settings.gross_velocity * self._linear[0] * seconds
            jump = min(
                float(np.linalg.norm(values[:3] - p)) for p, _ in (self._pose, self._target)
            )
            if jump > farthest:
                problems.append(f'position: jumps by {jump:.3g}, limit {farthest:.3g}')
        return '; '.join(problems) or None

    def limit(self, values: Vector, elapsed_s: float | None = None, scale: float = 1.0) -> Vector:
        """Return the nearest allowed command; see Limiter.limit.

        Raises:
            Refused: A target is grossly wrong or not finite, and nothing has changed; or what
                came out is not finite, and `seed` is next.
            ValueError: It is not known from where to go on (`seed`).
        """
        elapsed_s = self._period_s if elapsed_s is None else elapsed_s
        refusal = self.refusal(values, elapsed_s)
        if refusal is not None:
            raise Refused(f'command: {refusal}')
        if self._pose is None or self._target is None:
            raise ValueError('it is not known where the robot is: call seed first')
        tick_s = self._tick(elapsed_s)
        place, rotation = self._pose
        wanted = np.clip(values[:3], self._low, self._high)
        for i in np.flatnonzero(wanted != values[:3]):
            self.clips[self._names[i], 'position'] += 1
        moved = wanted - self._target[0]
        self._move(self._place.towards(wanted - place, moved, tick_s, scale), tick_s)
        turned = matrix(values[3:9])
        turn = rotation_vector(turned @ rotation.T)
        way = rotation_vector(turned @ self._target[1].T)
        self._turn(self._rotation.towards(turn, way, tick_s, scale), tick_s)
        self._target = wanted, turned
        self._count(tick_s, scale, wanted - place, turn)
        if self._motion is not None:
            self._motion.follow(float(values[9]), tick_s, scale)
        return self._send()

    def hold(self, elapsed_s: float | None = None) -> Vector | None:
        """Return the command that stops, and then the one that stays; None before the first."""
        if self._pose is None or not self._has_sent:
            return None
        tick_s = self._tick(self._period_s if elapsed_s is None else elapsed_s)
        self._move(self._place.brake(tick_s), tick_s)
        self._turn(self._rotation.brake(tick_s), tick_s)
        self._place.stands()
        self._rotation.stands()
        if self._motion is not None:
            self._motion.brake(tick_s)
        self._target = self._pose
        return self._send()

    def _move(self, velocity: Vector, tick_s: float) -> None:
        assert self._pose is not None  # noqa: S101 - its callers have looked
        place, rotation = self._pose
        low, high = self._box
        good = self._place.brake(tick_s)
        if self._stops_in_box(velocity, tick_s):
            good = velocity
        else:
            bad = velocity
            for _ in range(_BISECTIONS):
                middle = (good + bad) / 2.0
                if self._stops_in_box(middle, tick_s):
                    good = middle
                else:
                    bad = middle
        self._place.velocity = good
        place = np.clip(place + good * tick_s, low, high)  # rounding alone leads outside
        # What began outside of the box never goes further out again.
        self._box = (
            np.minimum(self._low, np.maximum(low, place)),
            np.maximum(self._high, np.minimum(high, place)),
        )
        self._pose = place, rotation

    def _stops_in_box(self, velocity: Vector, tick_s: float) -> bool:
        assert self._pose is not None  # noqa: S101 - its callers have looked
        place, (low, high) = self._pose[0] + velocity * tick_s, self._box
        end = place + velocity * (float(np.linalg.norm(velocity)) / (2.0 * self._linear[1]))
        both = np.stack([place, end])
        return bool((both >= low).all() and (both <= high).all())

    def _turn(self, velocity: Vector, tick_s: float) -> None:
        assert self._pose is not None  # noqa: S101 - its callers have looked
        self._rotation.velocity = velocity
        place, rotation = self._pose
        turned = rotation_matrix(velocity * tick_s) @ rotation
        self._pose = place, matrix(from_matrix(turned))  # orthonormal, whatever was rounded

    def _count(self, tick_s: float, scale: float, way: Vector, turn: Vector) -> None:
        for name, needed, point, (velocity, _) in (
            ('position', way / tick_s, self._place, self._linear),
            ('rotation', turn / tick_s, self._rotation, self._angular),
        ):
            missing = float(np.linalg.norm(needed - point.velocity)) * tick_s
            if missing > EXACT:
                fast = float(np.linalg.norm(needed)) > scaled(velocity, scale) * (1 + EXACT)
                self.clips[name, 'velocity' if fast else 'acceleration'] += 1

    def _send(self) -> Vector:
        position = self.position
        assert position is not None  # noqa: S101 - its callers have looked
        if not np.isfinite(position).all():
            self.forget()
            raise Refused(f'the limiter came to {position}, expected finite numbers')
        self._has_sent = True
        return position

    def _tick(self, elapsed_s: float) -> float:
        return counted_s(elapsed_s, self._period_s)
