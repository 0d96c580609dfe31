from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from vqbet_ros.runtime.deadlines import Deadlines


def test_a_late_tick_does_not_push_the_next_one():
    deadlines = Deadlines(1000, 100)
    assert deadlines.next_ns == 1000
    assert deadlines.tick(1000) == 0
    assert deadlines.next_ns == 1100
    assert deadlines.tick(1170) == 70
    assert deadlines.next_ns == 1200
    assert deadlines.wait_ns(1180) == 20
    assert deadlines.wait_ns(1250) == 0
    assert (deadlines.ticks, deadlines.missed) == (2, 0)


@pytest.mark.parametrize(
    ('woke', 'missed', 'following'),
    [(1099, 0, 1100), (1100, 1, 1200), (1150, 1, 1200), (1199, 1, 1200), (1350, 3, 1400)],
)
def test_a_whole_period_late_skips_instead_of_bunching(woke, missed, following):
    deadlines = Deadlines(1000, 100)
    deadlines.tick(woke)
    assert deadlines.missed == missed
    assert deadlines.next_ns == following


def test_the_period_is_recorded():
    deadlines = Deadlines(0, 10_000_000)
    for now_ns in (0, 11_000_000, 20_000_000):
        deadlines.tick(now_ns)
    assert deadlines.period_ms.summary()['max'] == 11.0
    assert deadlines.period_ms.count == 2


def test_a_tick_before_its_deadline_is_not_late():
    deadlines = Deadlines(1000, 100)
    assert deadlines.tick(990) == 0
    assert deadlines.next_ns == 1100


@pytest.mark.parametrize('period_ns', [0, -1])
def test_a_period_must_be_positive(period_ns):
    with pytest.raises(ValueError, match='period_ns'):
        Deadlines(0, period_ns)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    start=st.integers(0, 2**61),
    period=st.integers(1, 10**9),
    delays=st.lists(st.integers(0, 5 * 10**9), max_size=20),
)
def test_deadlines_stay_on_the_grid_and_ahead(start, period, delays):
    deadlines = Deadlines(start, period)
    now = start
    for delay in delays:
        now = max(now, deadlines.next_ns) + delay
        deadlines.tick(now)
        assert deadlines.next_ns > now
        assert deadlines.next_ns - now <= period
        assert deadlines.next_ns == start + (deadlines.ticks + deadlines.missed) * period
