from math import inf, sqrt

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.runtime.axis import longest_stop_s
from vqbet_ros.runtime.motion import Motion, reach, stop

positive = st.floats(1e-2, 1e2)
share = st.floats(-1.0, 1.0)
maybe = st.one_of(st.just(inf), positive)


@st.composite
def limits(draw):
    """Position, velocity, acceleration and jerk, each of the last three perhaps not limited."""
    low, size = draw(st.floats(-10, 10)), draw(st.floats(0.1, 10))
    velocity, acceleration, jerk = draw(maybe), draw(maybe), draw(maybe)
    return low, low + size, velocity, acceleration, jerk


def rates_of(start, commands, ticks_s):
    """Return velocities, accelerations and jerks of commands that begin at rest."""
    velocities = np.diff(commands, prepend=start) / ticks_s
    accelerations = np.diff(velocities, prepend=0.0) / ticks_s
    return velocities, accelerations, np.diff(accelerations, prepend=0.0) / ticks_s


def assert_within(limits, start, commands, ticks_s):
    """Look at the commands alone; what float64 rounds off is allowed."""
    low, high, *rates = limits
    commands, ticks_s = np.array(commands), np.array(ticks_s)
    assert (commands >= min(low, start)).all()
    assert (commands <= max(high, start)).all()
    rounding = 1e-15 * (max(abs(low), abs(high), abs(start)) + high - low)
    found = rates_of(start, commands, ticks_s)
    for order, (rate, limit) in enumerate(zip(found, rates, strict=True), start=1):
        allowed = limit * (1 + 1e-9) + 2**order * rounding / ticks_s.min() ** order
        assert (np.abs(rate) <= allowed).all(), (order, np.abs(rate).max(), limit)


def test_reach_solves_its_equation():
    for room, limit, tick_s in ((1.0, 2.0, 0.1), (1e-12, 5.0, 0.01), (3.0, inf, 0.5)):
        y = reach(room, limit, tick_s)
        assert y * tick_s + y * y / (2 * limit) == pytest.approx(room, rel=1e-12)


def test_the_stop_is_what_simulating_it_gives():
    rng = np.random.default_rng(0)
    v, limit = rng.normal(0, 3, 300), rng.uniform(0.3, 5, 300)
    a = rng.uniform(-1, 1, 300) * limit
    expected = np.array([stop(*state, 1.0) for state in zip(v, a, limit, strict=True)]).T
    # Bang-bang towards v + a |a| / 2 = 0 and along it, in small steps.
    h = 2e-3
    x = np.zeros(300)
    high, low = x.copy(), x.copy()
    for _ in range(30_000):
        jerk = -np.sign(v + a * np.abs(a) / 2)
        x, v = x + v * h, v + a * h
        a = np.clip(a + jerk * h, -limit, limit)
        high, low = np.maximum(high, x), np.minimum(low, x)
    assert np.abs(v).max() < 0.01
    for found, wanted in zip((x, high, low), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0.01, atol=0.05)


@settings(derandomize=True, max_examples=1000, deadline=None)
@given(
    v=st.one_of(st.floats(-100, 100), st.floats(-1, 1), st.floats(-0.01, 0.01)),
    a=share,
    near=st.one_of(st.none(), st.floats(0.5, 1.5)),
    limit=st.one_of(st.just(inf), st.floats(0.01, 100)),
)
def test_the_stop_after_a_braking_step_reaches_no_further(v, a, near, limit):
    """In units of tick and jerk this is every state that there is, whatever the tick."""
    acceleration = a * min(limit, 100.0)
    if near is not None:  # at the edge between stops that begin upward and downward
        v = -near * acceleration * abs(acceleration) / 2
    motion = Motion(0.0, -1e9, 1e9, inf, limit, 1.0)
    motion.velocity, motion.acceleration = v, acceleration
    _, up, down = stop(v, acceleration, limit, 1.0)
    position = motion.brake(1.0)
    assert abs(motion.acceleration) <= limit
    assert abs(motion.acceleration - acceleration) <= 1.0 + 1e-12 * abs(acceleration)
    _, up_after, down_after = stop(motion.velocity, motion.acceleration, limit, 1.0)
    rounding = 1e-12 * (up - down)
    assert position + up_after <= up + rounding
    assert position + down_after >= down - rounding
    # And its velocity peaks no higher.
    peak = abs(v + acceleration * abs(acceleration) / 2) if v * acceleration >= 0 else abs(v)
    after = motion.velocity + motion.acceleration * abs(motion.acceleration) / 2
    turning = v * acceleration < 0
    if not turning:
        assert max(abs(after), abs(motion.velocity)) <= peak * (1 + 1e-12)


target = st.one_of(st.floats(-30, 30), st.floats(-1e6, 1e6))
step = st.tuples(st.sampled_from(['go'] * 9 + ['brake']), target, st.floats(0.5, 2.0))


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    limits=limits(),
    start=st.floats(0, 1),
    tick_s=st.floats(1e-3, 0.2),
    story=st.lists(step, max_size=40),
    repeat=st.integers(1, 4),
)
def test_whatever_is_asked_for_every_limit_is_kept(limits, start, tick_s, story, repeat):
    low, high, *_ = limits
    start = low + start * (high - low)
    motion = Motion(start, *limits)
    commands, ticks_s = [], []
    for kind, goal, factor in story * repeat:
        ticks_s.append(tick_s * factor)
        brakes = kind == 'brake'
        commands.append(motion.brake(ticks_s[-1]) if brakes else motion.follow(goal, ticks_s[-1]))
        assert commands[-1] == motion.position
    if commands:
        assert_within(limits, start, commands, ticks_s)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    limits=limits(),
    start=st.floats(0, 1),
    end=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])),
    before=st.lists(target, max_size=20),
    factors=st.lists(st.floats(0.5, 2.0), min_size=7, max_size=7),
)
def test_a_target_is_reached_and_stayed_at(limits, start, end, before, factors):
    low, high, velocity, acceleration, jerk = limits
    size = high - low
    # Time to get there from anywhere, at speeds that the range allows; a tick is a part of it.
    seconds = size / velocity
    seconds += 4 * sqrt(size / acceleration) + 8 * (size / jerk) ** (1 / 3)
    seconds += 4 * (acceleration / jerk if acceleration < inf else 0.0)
    tick_s = max(seconds / 200, 1e-3)
    motion = Motion(low + start * size, *limits)
    for goal in before:
        motion.follow(goal, tick_s)
    goal = low + end * size
    commands, ticks_s = [motion.position], [tick_s]
    for k in range(700):
        ticks_s.append(tick_s * factors[k % 7])
        commands.append(motion.follow(goal, ticks_s[-1]))
    np.testing.assert_allclose(commands[-20:], goal, rtol=0, atol=1e-7 * size)
    distances = np.array(commands) - goal
    # Once at rest-like distance it never leaves again.
    first = int(np.argmax(np.abs(distances) < 1e-7 * size))
    assert np.abs(distances[first:]).max() <= 2e-7 * size


def test_from_rest_the_target_is_never_passed():
    for jerk in (inf, 300.0, 20.0):
        motion = Motion(0.0, -2.0, 2.0, 1.5, 6.0, jerk)
        commands = [motion.follow(1.0, 0.01) for _ in range(300)]
        assert (np.diff(commands) >= -1e-12).all()
        assert max(commands) <= 1.0 + 1e-12
        assert commands[-1] == pytest.approx(1.0, abs=1e-9)


def test_it_takes_hardly_longer_than_the_best_there_is():
    distance, velocity, acceleration, jerk = 3.0, 1.5, 6.0, 50.0
    best_s = distance / velocity + velocity / acceleration + acceleration / jerk
    motion, ticks = Motion(0.0, 0.0, distance, velocity, acceleration, jerk), 0
    while abs(motion.position - distance) > 1e-6:
        motion.follow(distance, 0.01)
        ticks += 1
    assert ticks * 0.01 <= best_s + 0.05


@pytest.mark.parametrize('jerk', [inf, 200.0])
def test_a_target_that_keeps_the_limits_is_followed_exactly(jerk):
    time_s = np.arange(1, 2000) * 0.01
    targets = (1 - np.exp(-(time_s**2))) * np.sin(0.9 * time_s)  # begins at rest
    motion = Motion(0.0, -2.0, 2.0, 1.5, 6.0, jerk)
    followed = np.array([motion.follow(target, 0.01) for target in targets])
    np.testing.assert_allclose(followed, targets, rtol=0, atol=1e-9)


def test_without_rates_every_target_in_range_is_reached_at_once():
    motion = Motion(0.1, -1.0, 1.0)
    for goal in (0.3, -0.7, 1.0 / 3.0, 5.0, -1e300):
        assert motion.follow(goal, 0.07) == min(max(goal, -1.0), 1.0)


@pytest.mark.parametrize('jerk', [inf, 30.0])
def test_what_begins_outside_the_range_comes_in_and_never_goes_further_out(jerk):
    motion = Motion(2.5, 0.0, 1.0, 1.0, 5.0, jerk)
    commands = [motion.follow(3.0, 0.01) for _ in range(400)]
    assert (np.diff([2.5, *commands]) <= 1e-12).all()
    assert commands[-1] == pytest.approx(1.0, abs=1e-7)
    commands = [motion.follow(2.0, 0.01) for _ in range(50)]
    assert max(commands) <= 1.0 + 1e-7


@pytest.mark.parametrize('jerk', [inf, 30.0])
def test_a_lower_speed_is_braked_down_to_within_the_limits(jerk):
    limits = -10.0, 10.0, 2.0, 4.0, jerk
    motion = Motion(0.0, *limits)
    commands = [motion.follow(9.0, 0.01, 1.0) for _ in range(150)]
    commands += [motion.follow(9.0, 0.01, 0.25) for _ in range(150)]
    slow = commands[-50:]
    commands += [motion.follow(9.0, 0.01, 0.0) for _ in range(100)]
    assert_within(limits, 0.0, commands, [0.01] * len(commands))
    assert np.diff(slow) == pytest.approx(0.005, rel=1e-6)
    assert commands[-1] == pytest.approx(commands[-2], abs=1e-9)


def test_braking_stops_and_stays():
    motion = Motion(0.0, -2.0, 2.0, 1.5, 6.0, 100.0)
    commands = [motion.follow(2.0, 0.01) for _ in range(60)]
    velocity = motion.velocity
    stopped = [motion.brake(0.01) for _ in range(80)]
    assert_within((-2.0, 2.0, 1.5, 6.0, 100.0), 0.0, commands + stopped, [0.01] * 140)
    assert stopped[-1] == pytest.approx(stopped[-10], abs=1e-12)
    furthest = stop(velocity, 6.0, 6.0, 100.0)[1]
    assert 0 < stopped[-1] - commands[-1] <= furthest


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    speed=st.floats(0.1, 1.0),
    acceleration=st.one_of(st.just(inf), st.floats(1.0, 20.0)),
    jerk=st.one_of(st.just(inf), st.floats(10.0, 1000.0)),
    end=st.sampled_from([1.0, 5.0]),
)
def test_a_target_that_runs_into_the_end_of_the_range_is_not_followed_to_it(
    speed, acceleration, jerk, end
):
    """Its velocity is followed exactly, until a stop has to begin."""
    limits = -1.0, 1.0, 1.0, acceleration, jerk
    motion = Motion(-1.0, *limits)
    targets = np.minimum(-1.0 + speed * 0.01 * np.arange(1, round(220 / speed) + 200), end)
    commands = [motion.follow(target, 0.01) for target in targets]
    assert_within(limits, -1.0, commands, [0.01] * len(commands))
    assert commands[-1] == pytest.approx(1.0, abs=1e-6)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    velocity=st.floats(-1, 1),
    acceleration=st.floats(-1, 1),
    jerk=st.floats(1.0, 1e4),
    place=st.floats(0, 1),
    tick_s=st.floats(1e-3, 0.1),
    story=st.lists(st.tuples(target, st.floats(0.5, 2.0)), min_size=1, max_size=30),
)
def test_every_state_that_can_be_stopped_is_a_good_beginning(
    velocity, acceleration, jerk, place, tick_s, story
):
    """In a range that holds the stop hardly, or not so hardly."""
    limits = 2.0, 8.0, jerk
    a = acceleration * min(limits[1], sqrt(4 * limits[0] * jerk))
    # As fast as it may be while the acceleration goes to zero.
    gained = a * abs(a) / (2 * jerk)
    v = min(velocity * limits[0], limits[0] - max(0.0, gained))
    v = max(v, -limits[0] - min(0.0, gained))
    _, up, down = stop(v, a, limits[1], jerk)
    low, high = down - place * 1e-3, up + (1 - place) + 1e-9
    motion = Motion(0.0, low, high, *limits)
    motion.velocity, motion.acceleration = v, a
    position = 0.0
    for goal, factor in story:
        h = tick_s * factor
        command = motion.follow(goal, h)
        rounding = 1e-13 / np.array([h, h**2, h**3])
        new_v = (command - position) / h
        new_a = (new_v - v) / h
        new_j = (new_a - a) / h
        assert low <= command <= high
        allowed = np.array(limits) * (1 + 1e-6) + rounding
        assert (np.abs([new_v, new_a, new_j]) <= allowed).all()
        position, v, a = command, motion.velocity, motion.acceleration


@settings(derandomize=True, max_examples=150, deadline=None)
@given(limits=limits(), tick_s=st.floats(1e-3, 0.2), story=st.lists(target, max_size=20))
def test_no_stop_takes_longer_than_the_longest(limits, tick_s, story):
    low, high, *rates = limits
    motion = Motion((low + high) / 2, *limits)
    for goal in story:
        for _ in range(5):
            motion.follow(goal, tick_s)
    ticks = 0
    while max(abs(motion.velocity), abs(motion.acceleration) * tick_s) > 1e-9 * (high - low):
        motion.brake(tick_s)
        ticks += 1
        # Each of the three phases of a stop ends with a tick, and so does what came before them.
        assert (ticks - 4) * tick_s <= longest_stop_s(high - low, *rates) * (1 + 1e-9)


def test_the_longest_stop_is_hardly_longer_than_stops_are():
    assert longest_stop_s(1.0, 0.5, inf, inf) == 0.0
    assert longest_stop_s(100.0, 1.0, 2.0, inf) == 0.5
    # Still speeding up at 2 per s^2 when it is told to stop.
    motion, ticks = Motion(0.0, -100.0, 100.0, 3.0, 2.0, 10.0), 0
    while motion.velocity < 2.8 - 1e-9:
        motion.follow(100.0, 1e-3)
    while motion.velocity > 1e-9:
        motion.brake(1e-3)
        ticks += 1
    assert 0.9 * longest_stop_s(200.0, 3.0, 2.0, 10.0) < ticks * 1e-3
