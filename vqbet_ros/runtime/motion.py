"""One commanded number: its next value, within all limits and so that a stop stays possible.

A command's velocity is its difference from the command before, divided by the time between them;
acceleration and jerk are the same differences of velocity and acceleration. With h the tick:

    a' = a + j h      v' = v + a' h      x' = x + v' h

The *stop* of (x, v, a) is the fastest motion to rest in continuous time: jerk -J, no further than
acceleration -A, then jerk +J until speed and acceleration are both zero (signs turned around
where it starts backwards). A step is taken only if the stop that begins after it stays in the
range. Then there is always a next step, however long its tick: the step that brakes, after which
the stop reaches no further than before it (`brake`; test_motion.py tries this in every kind of
state). Since x', v' and a' grow with a', and the reach of the stop with all three, the steps that
are allowed form an interval around the braking one: the step towards the target is taken, or the
one of that interval that is nearest to it.

All of this is exact for the commands, whatever the robot does between two of them.
"""

from math import copysign, inf, sqrt

_ACCURACY = 1e-6
_ROUNDING = 4e-16
_ROOT_STEPS = 40
_BISECTIONS = 30


def reach(room: float, limit: float, tick_s: float) -> float:
    """Return the largest y >= 0 with y h + y^2 / (2 limit) <= room.

    With velocities for y: the speed from which one stops within `room` at an acceleration `limit`
    after a tick h at that speed. With accelerations: the same one derivative up.
    """
    return 2.0 * room / (tick_s + sqrt(tick_s * tick_s + 2.0 * room / limit))


def stop(
    velocity: float, acceleration: float, max_acceleration: float, max_jerk: float
) -> tuple[float, float, float]:
    """Return how far the fastest stop goes, in continuous time and with limited jerk.

    Returns:
        Where it ends, the furthest up (0 or more) and the furthest down (0 or less), each relative
        to where it begins.
    """
    v, a = velocity, acceleration
    turned = v + a * abs(a) / (2.0 * max_jerk) < 0.0
    if turned:
        v, a = -v, -a
    # Down to -peak with jerk -J, there for a while if peak is the limit, and back to zero.
    peak = sqrt(max(0.0, max_jerk * v + a * a / 2.0))
    held_s = 0.0
    if peak > max_acceleration:
        held_s = max(0.0, (v + a * a / (2.0 * max_jerk)) / max_acceleration)
        held_s = max(0.0, held_s - max_acceleration / max_jerk)
        peak = max_acceleration
    down_s = max(0.0, (a + peak) / max_jerk)
    v_down = v + down_s * (a - max_jerk * down_s / 2.0)
    end = (
        down_s * (v + down_s * (a / 2.0 - max_jerk * down_s / 6.0))
        + held_s * (v_down - peak * held_s / 2.0)
        + peak * peak * peak / (6.0 * max_jerk * max_jerk)
    )
    low = 0.0
    if v < 0.0:  # it goes backwards until its acceleration has turned it around
        turn_s = -2.0 * v / (a + sqrt(max(0.0, a * a + 2.0 * max_jerk * v)))
        low = min(0.0, turn_s * (v + turn_s * (a / 2.0 - max_jerk * turn_s / 6.0)))
    high = max(0.0, end)
    return (-end, -low, -high) if turned else (end, high, low)


def scaled(velocity: float, scale: float) -> float:
    """Return a share, 0 to 1, of a largest velocity; of one without limit, all or nothing."""
    return velocity * min(scale, 1.0) if scale > 0.0 else 0.0


class Motion:
    """The motion of one commanded number; at rest when it begins.

    Args:
        position: Where it begins. Outside of the range, it may stay or go inward only.
        low: Lowest position.
        high: Highest position.
        velocity: Largest speed per second; inf where it is not limited, as for the next two.
        acceleration: Largest acceleration per second^2.
        jerk: Largest jerk per second^3.

    Attributes:
        position: The last command.
        velocity: Its velocity.
        acceleration: Its acceleration.
    """

    def __init__(
        self,
        position: float,
        low: float,
        high: float,
        velocity: float = inf,
        acceleration: float = inf,
        jerk: float = inf,
    ) -> None:
        self.position, self.velocity, self.acceleration = position, 0.0, 0.0
        self._range = low, high
        self._low, self._high = min(low, position), max(high, position)
        self._max_velocity, self._max_acceleration, self._max_jerk = velocity, acceleration, jerk
        # Nothing moves faster within the range.
        size = high - low
        self._jump_velocity = min(velocity, sqrt(acceleration * size), (jerk * size**2) ** (1 / 3))
        self._jump_acceleration = min(acceleration, (jerk**2 * size) ** (1 / 3))
        self._target, self._target_movement = position, (0.0, 0.0)  # of the last step

    def brake(self, tick_s: float) -> float:
        """Move on for one tick, stopping as fast as the limits allow; return the command."""
        if self._max_jerk == inf:
            change = self._max_acceleration * tick_s
            self._move(min(max(0.0, self.velocity - change), self.velocity + change), tick_s)
        else:
            self._accelerate(self._brake(tick_s), tick_s)
        self._target, self._target_movement = self.position, (self.velocity, self.acceleration)
        return self.position

    def follow(self, target: float, tick_s: float, scale: float = 1.0) -> float:
        """Move on for one tick towards a target; return the command.

        A target that keeps the limits is followed with its velocity and acceleration: exactly,
        once it is reached. One that jumps is approached so that it can be stopped at.

        Args:
            target: Where to go; outside the range, its nearest end is.
            tick_s: Time since the last command, more than 0.
            scale: 0 to 1 of the largest velocity; what is faster is braked down to it.
        """
        target = min(max(target, self._range[0]), self._range[1])
        velocity, acceleration = self._movement_of(target, tick_s)
        max_velocity = scaled(self._max_velocity, scale)
        if self._max_jerk == inf:
            self._move(self._next_velocity(target, velocity, max_velocity, tick_s), tick_s)
            return self._snap(target)
        low, high = self._accelerations(tick_s, max_velocity)
        brake = min(max(self._brake(tick_s), low), high)
        wish = self._towards((target, velocity, acceleration), low, brake, high, tick_s)
        if not self._stops_in_range(wish, tick_s):
            good, bad = brake, wish
            for _ in range(_BISECTIONS):
                wish = (good + bad) / 2.0
                good, bad = (wish, bad) if self._stops_in_range(wish, tick_s) else (good, wish)
            wish = good
        self._accelerate(wish, tick_s)
        return self._snap(target)

    def _snap(self, target: float) -> float:
        """Be exactly at the target where only rounding is between."""
        if abs(self.position - target) <= _ROUNDING * (abs(target) + abs(self.position)):
            self.position = target
        return self.position

    def _movement_of(self, target: float, tick_s: float) -> tuple[float, float]:
        """Estimate velocity and acceleration of the target, exactly while it keeps the limits."""
        v_before, a_before = self._target_movement
        change = self._jump_acceleration * tick_s
        v = (target - self._target) / tick_s
        v = min(max(v, v_before - change), v_before + change)
        v = min(max(v, -self._jump_velocity), self._jump_velocity)
        a = (v - v_before) / tick_s
        smooth = abs(a - a_before) <= self._max_jerk * tick_s * (1.0 + _ACCURACY)
        self._target, self._target_movement = target, (v, a)
        return v, a if smooth else 0.0

    def _next_velocity(
        self, target: float, target_velocity: float, max_velocity: float, tick_s: float
    ) -> float:
        """Return the next velocity where jerk is not limited; everything has a closed form."""
        limit, change = self._max_acceleration, self._max_acceleration * tick_s
        v = self.velocity
        low, high = v - change, v + change
        # Where the largest velocity has been lowered, it is braked down to.
        low = max(low, min(-max_velocity, high), -reach(self.position - self._low, limit, tick_s))
        high = min(
            high, max(max_velocity, v - change), reach(self._high - self.position, limit, tick_s)
        )
        room = target - self.position - target_velocity * tick_s
        wish = target_velocity + copysign(reach(abs(room), limit, tick_s), room)
        return min(max(wish, low), high)

    def _accelerations(self, tick_s: float, max_velocity: float) -> tuple[float, float]:
        """Return the range of accelerations that keep acceleration, jerk and velocity."""
        change = self._max_jerk * tick_s
        low = max(-self._max_acceleration, self.acceleration - change)
        high = min(self._max_acceleration, self.acceleration + change)
        if max_velocity == inf:
            return low, high
        # Accelerations that can just be brought to zero when the largest velocity is reached.
        slowest = self._levelling(self.velocity + max_velocity, tick_s)
        fastest = self._levelling(self.velocity - max_velocity, tick_s)
        return min(max(slowest, low), high), max(min(fastest, high), low)

    def _levelling(self, velocity: float, tick_s: float) -> float:
        """Return the next acceleration after which both reach zero together."""
        return -copysign(reach(abs(velocity), self._max_jerk, tick_s), velocity)

    def _brake(self, tick_s: float) -> float:
        change = self._max_jerk * tick_s
        low = max(-self._max_acceleration, self.acceleration - change)
        high = min(self._max_acceleration, self.acceleration + change)
        return min(max(self._levelling(self.velocity, tick_s), low), high)

    def _towards(
        self,
        target: tuple[float, float, float],
        low: float,
        brake: float,
        high: float,
        tick_s: float,
    ) -> float:
        """Return the acceleration from which one would come to rest at the (moving) target.

        Where that lies in between, the side of the braking step is taken.
        """
        goal, v_goal, a_goal = target
        v, jerk = self.velocity, self._max_jerk
        # What is left to reach the target with, while it accelerates itself.
        left = max(self._max_acceleration - abs(a_goal), self._max_acceleration / 4.0)
        at = self.position - goal

        def beyond(a: float) -> float:
            velocity = v + a * tick_s
            end, _, _ = stop(velocity - v_goal, a - a_goal, left, jerk)
            return at + velocity * tick_s + end

        wish = ((goal - self.position) / tick_s - v) / tick_s
        exact = min(max(wish, low), high)
        if abs(exact - wish) <= _ACCURACY * jerk * tick_s and (
            abs(beyond(exact)) <= _ACCURACY * jerk * tick_s**3
        ):
            return exact
        value = beyond(brake)
        if value == 0.0:
            return brake
        end = low if value > 0.0 else high
        value_end = beyond(end)
        if value * value_end > 0.0:
            return end
        # Regula falsi (Illinois): `near` stays on the brake's side.
        near, far, accuracy = brake, end, _ACCURACY**2 * jerk * tick_s
        moved = 0
        for _ in range(_ROOT_STEPS):
            if abs(far - near) <= accuracy:
                break
            middle = near + (far - near) * value / (value - value_end)
            at_middle = beyond(middle)
            if at_middle == 0.0:
                return middle
            if at_middle * value > 0.0:
                near, value = middle, at_middle
                value_end = value_end / 2.0 if moved > 0 else value_end
                moved = 1
            else:
                far, value_end = middle, at_middle
                value = value / 2.0 if moved < 0 else value
                moved = -1
        return near

    def _stops_in_range(self, acceleration: float, tick_s: float) -> bool:
        velocity = self.velocity + acceleration * tick_s
        position = self.position + velocity * tick_s
        _, up, down = stop(velocity, acceleration, self._max_acceleration, self._max_jerk)
        return position + up <= self._high and position + down >= self._low

    def _accelerate(self, acceleration: float, tick_s: float) -> None:
        self.acceleration = acceleration
        self.velocity += acceleration * tick_s
        self._arrive(tick_s)

    def _move(self, velocity: float, tick_s: float) -> None:
        self.acceleration = (velocity - self.velocity) / tick_s
        self.velocity = velocity
        self._arrive(tick_s)

    def _arrive(self, tick_s: float) -> None:
        position = self.position + self.velocity * tick_s
        # Rounding alone can lead outside.
        self.position = min(max(position, self._low), self._high)
        # What began outside of the range never goes further out again.
        self._low = min(self._range[0], max(self._low, self.position))
        self._high = max(self._range[1], min(self._high, self.position))
