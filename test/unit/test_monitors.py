from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.runtime.gate import ReasonKind
from vqbet_ros.runtime.monitors import Monitors
from vqbet_ros.runtime_spec import MonitorSettings

MS = 1_000_000
T = 10**15


def run(values, step_ms=10, **options):
    """Return monitors that were given commands of one number, and the time of the last."""
    monitors = Monitors(('x',), MonitorSettings(**options))
    now = T
    for value in values:
        now += step_ms * MS
        monitors.command(now, np.array([float(value)]))
    return monitors, now


@pytest.mark.parametrize('rate_hz', [1, 3, 5])
def test_a_wave_turns_back_twice_a_period(rate_hz):
    seconds = np.arange(0, 4, 0.01)
    monitors, now = run(np.sin(2 * np.pi * rate_hz * seconds), window_s=2.0, reversal_size=0.01)
    assert monitors.figures(now).reversals_hz[0] == pytest.approx(2 * rate_hz, abs=0.51)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(values=st.lists(st.integers(-20, 20), min_size=2, max_size=40), size=st.integers(0, 5))
def test_reversals_are_those_of_a_plain_zigzag(values, size):
    """Against the rule as one would tell it: a turn counts once it is larger than the size."""
    monitors, now = run(values, window_s=10.0, reversal_size=float(size))
    turns, direction, extreme = 0, 0, values[0]
    for value in values[1:]:
        if direction == 0:
            if abs(value - extreme) > size:
                direction, extreme = (1 if value > extreme else -1), value
            elif direction * (value - extreme) > 0:
                extreme = value
        elif (value - extreme) * direction > 0:
            extreme = value
        elif abs(value - extreme) > size:
            turns, direction, extreme = turns + 1, -direction, value
    assert monitors.figures(now).reversals_hz[0] == pytest.approx(turns / 10.0)


def test_the_jerk_of_a_cubic_is_its_third_derivative():
    rng = np.random.default_rng(0)
    monitors, now = Monitors(('x', 'y'), MonitorSettings()), T
    for _ in range(80):
        now += int(rng.uniform(5, 20)) * MS  # whatever the ticks are
        s = (now - T) / 1e9
        monitors.command(now, np.array([2.0 * s**3 - s, 5.0 * s**2]))
    np.testing.assert_allclose(monitors.figures(now).jerk, [12.0, 0.0], atol=1e-6)


def test_the_window_forgets():
    shaking = [0, 1] * 50
    monitors, now = run(shaking)
    assert monitors.figures(now).reversals_hz[0] > 50
    assert monitors.figures(now).jerk[0] > 0
    later = monitors.figures(now + 1001 * MS)
    assert later.reversals_hz[0] == later.jerk[0] == 0.0
    monitors.command(now + 5000 * MS, np.array([7.0]))  # a pause is no movement
    monitors.command(now + 5010 * MS, np.array([7.0]))
    assert monitors.figures(now + 5010 * MS).reversals_hz[0] == 0.0
    monitors.command(now, np.array([0.0]))  # the clock went back
    assert monitors.figures(now).jerk[0] == 0.0


def test_nothing_is_said_of_what_is_not_asked_for_or_fine():
    monitors, now = run([0, 1] * 20)
    monitors.plan(now, 0.01)
    assert monitors.findings(now) == ()
    monitors, now = run(np.linspace(0, 1, 100), reversals_hz=1.0, jerk=1.0, confidence=0.5)
    assert monitors.findings(now) == ()  # no plan at all is not a plan without confidence
    monitors.plan(now, 0.9)
    assert monitors.findings(now) == ()


def test_each_finding_says_what_and_whether_to_hold():
    monitors, now = run([0, 1] * 20, reversals_hz=2.0, jerk=10.0, confidence=0.5, on_jerk='hold')
    for confidence in (0.2, 0.4):
        monitors.plan(now, confidence)
    found = monitors.findings(now)
    assert [(reason.kind, holds) for reason, holds in found] == [
        (ReasonKind.REVERSALS, False),
        (ReasonKind.JERK, True),
        (ReasonKind.CONFIDENCE, False),
    ]
    assert 'x turned back 38.0 times a second in 1 s, limit 2' in str(found[0][0])
    assert '0.30 in 1 s, limit 0.5' in str(found[2][0])
    assert len(monitors.findings(now + 1001 * MS)) == 0


@pytest.mark.parametrize(
    ('name', 'value'),
    [('window_s', 0.0), ('reversals_hz', 0.0), ('reversal_size', -1.0), ('confidence', 2.0)],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f'{name}: got'):
        MonitorSettings(**{name: value})
