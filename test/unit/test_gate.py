from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from vqbet_ros.runtime.gate import age_ns, check_age, Reason, ReasonKind

MS = 1_000_000


def test_missing():
    reason = check_age('top', None, 0, 100 * MS)
    assert reason is not None
    assert reason.kind is ReasonKind.MISSING
    assert str(reason).startswith('top: no data')


@pytest.mark.parametrize('age_ms', [-100, -1, 0, 1, 100])
def test_fresh(age_ms):
    assert check_age('top', 1000 * MS, (1000 + age_ms) * MS, 100 * MS) is None


def test_stale_names_stream_age_and_limit():
    reason = check_age('/joint_states', 0, 350 * MS, 100 * MS)
    assert reason is not None
    assert reason.kind is ReasonKind.STALE
    assert reason.stream == '/joint_states'
    assert str(reason) == '/joint_states: data is too old (newest is 350 ms old, limit 100 ms)'


def test_a_stamp_far_ahead_says_that_the_clocks_differ():
    reason = check_age('top', 10_000 * MS, 0, 250 * MS)
    assert reason is not None
    assert reason.kind is ReasonKind.FUTURE
    assert '10000 ms ahead' in reason.detail
    assert 'use_sim_time' in reason.detail


def test_a_reason_without_stream_reads_well():
    assert str(Reason(ReasonKind.DISARMED)) == 'not enabled'


@settings(derandomize=True, max_examples=50, deadline=None)
@given(now=st.integers(-(2**62), 2**62), stamp=st.integers(-(2**62), 2**62))
def test_ages_are_never_negative(now, stamp):
    assert age_ns(now, stamp) >= 0
