from concurrent.futures import ThreadPoolExecutor
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.runtime.statistics import Samples


def test_summary_of_nothing():
    summary = Samples().summary()
    assert list(summary) == ['p50', 'p99', 'max']
    assert all(math.isnan(value) for value in summary.values())


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50))
def test_summary_is_numpys(values):
    samples = Samples()
    for value in values:
        samples.add(value)
    p50, p99 = np.percentile(values, [50, 99])
    assert samples.summary() == {'p50': p50, 'p99': p99, 'max': max(values)}
    assert samples.count == len(values)


def test_memory_is_bounded_but_count_and_max_are_of_all():
    samples = Samples(capacity=10)
    samples.add(1000.0)
    for _ in range(100):
        samples.add(1.0)
    assert samples.summary() == {'p50': 1.0, 'p99': 1.0, 'max': 1000.0}
    assert samples.count == 101


def test_threads_lose_nothing():
    samples = Samples(capacity=100)

    def work(_):
        for value in range(500):
            samples.add(value)
            if value % 50 == 0:
                samples.summary()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert samples.count == 2000
    assert samples.summary()['max'] == pytest.approx(499)
