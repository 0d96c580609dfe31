"""The levels of the disk."""

from hypothesis import given
from hypothesis import strategies as st
import pytest
from vqbet_ros.recording.disk import DiskGuard, free_bytes

ORDER = ['stop', 'warn', 'ok']


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 300), st.integers(0, 300))
def test_less_space_never_sounds_better(stop, more, free, other):
    guard = DiskGuard(warn_bytes=stop + more, stop_bytes=stop)
    low, high = sorted((free, other))
    assert ORDER.index(guard.level(low)) <= ORDER.index(guard.level(high))
    assert (guard.level(free) == 'stop') == (free < stop)
    assert (guard.level(free) == 'ok') == (free >= stop + more)


def test_the_time_left_ends_where_the_guard_stops():
    guard = DiskGuard(warn_bytes=200, stop_bytes=100)
    assert guard.seconds_left(1100, 50.0) == 20.0
    assert guard.seconds_left(50, 50.0) == 0.0
    assert guard.seconds_left(1100, 0.0) is None


def test_a_warning_that_comes_too_late_is_refused():
    with pytest.raises(ValueError, match=r'warn_bytes: got 5, expected at least stop_bytes \(6\)'):
        DiskGuard(warn_bytes=5, stop_bytes=6)


def test_the_disk_of_a_folder_that_is_not_made_yet_is_asked(tmp_path):
    assert free_bytes(tmp_path / 'not' / 'there') == pytest.approx(free_bytes(tmp_path), rel=0.1)
