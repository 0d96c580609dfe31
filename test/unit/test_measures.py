"""Running measurements, against numpy on all values."""

from itertools import pairwise
import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.recording.measures import Histogram, RateMeter, Spread

MS = 1_000_000


@given(st.lists(st.integers(0, 10**12), min_size=1), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_quantiles_are_right_to_a_sixteenth(values, share):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    assert histogram.quantile(share) == pytest.approx(exact, rel=1 / 16, abs=0.5)


def test_without_values_there_is_no_quantile_and_no_deviation():
    assert math.isnan(Histogram().quantile(0.5))
    assert math.isnan(Spread().deviation)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2))
def test_the_deviation_is_numpys(values):
    spread = Spread()
    for value in values:
        spread.add(value)
    assert spread.deviation == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ('rate_hz', 'expected_hz'),
    [(0.2, 0.2), (1.0, None), (30.0, 30.0), (30.0, None), (500.0, 30.0), (5000.0, None)],
)
def test_a_steady_rate_is_seen(rate_hz, expected_hz):
    meter = RateMeter(expected_hz)
    times = [round(i * 1e9 / rate_hz) for i in range(round(10 * rate_hz) + 20)]
    for time_ns in times:
        meter.add(time_ns)
    assert meter.rate_hz(times[-1]) == pytest.approx(rate_hz, rel=1e-3)


def test_a_rate_falls_when_the_messages_stop_and_is_unknown_in_the_end():
    meter = RateMeter(30.0)
    assert meter.rate_hz(0) is None
    meter.add(0)
    assert meter.rate_hz(1) is None
    for i in range(1, 60):
        meter.add(i * 33 * MS)
    end = 59 * 33 * MS
    rates = [meter.rate_hz(end + wait * MS) or 0.0 for wait in (0, 60, 500, 1000, 1900)]
    assert rates[0] == rates[1] == pytest.approx(30.3, abs=0.1)
    assert all(later < earlier for earlier, later in pairwise(rates[1:]))
    assert meter.rate_hz(end + 2500 * MS) is None


def test_a_clock_that_was_set_back_begins_anew():
    meter = RateMeter(100.0)
    for time_ns in (10_000 * MS, 10_010 * MS, 100 * MS, 110 * MS, 120 * MS):
        meter.add(time_ns)
    assert meter.rate_hz(120 * MS) == pytest.approx(100)
