"""Which observations are planned of, and which ones the policy sees between two plans."""

import pytest
from vqbet_ros.resources import resource
from vqbet_ros.runtime.pacing import Pacing
from vqbet_ros.spec import RobotSpec

SPEC = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
KEYPOINTS = RobotSpec.from_yaml(resource('config/robots/pusht_keypoints.yaml'))
CHUNK = 8
BEGIN_NS = 1_700_000_000_000_000_000


def events(spec, history, plan_every, share=1.0, count=24, epochs=()):
    """Return what is done with each of some observations, a share of a step apart."""
    pacing, epoch, done = Pacing(spec, CHUNK, history, plan_every), 0, ''
    for number in range(count):
        epoch += number in epochs
        stamp_ns = BEGIN_NS + round(number * share * spec.period_ns)
        now_ns = stamp_ns + 3_000_000
        ages_ns = {part.stream: now_ns - stamp_ns for part in spec.streams}
        if pacing.is_due(now_ns, ages_ns, epoch, planned=True):
            pacing.note(epoch, stamp_ns)
            done += 'P'
        elif pacing.is_ahead(now_ns, ages_ns):
            pacing.note_look(stamp_ns)
            done += 'l'
        else:
            done += '.'
    return done


@pytest.mark.parametrize(
    ('history', 'plan_every', 'expected'),
    [
        (5, 4, 'PlllPlllPlllPlllPlllPlll'),  # each frame is history of the next plan
        (3, 6, 'P...llP...llP...llP...ll'),
        (2, 6, 'P....lP....lP....lP....l'),
        (1, 4, 'P...P...P...P...P...P...'),  # nothing but the newest frame is seen
        (5, 1, 'PPPPPPPPPPPPPPPPPPPPPPPP'),
    ],
)
def test_steps_of_the_next_history_are_looked_at(history, plan_every, expected):
    assert events(SPEC, history, plan_every) == expected


def test_a_camera_that_is_faster_is_looked_at_once_a_step():
    assert events(SPEC, 3, 4, share=1 / 3) == 'P.....l..l..' * 2


def test_a_robot_without_cameras_has_nothing_to_be_looked_at():
    assert events(KEYPOINTS, 5, 4) == 'P...' * 6


def test_whoever_enables_anew_is_answered_at_once():
    assert events(SPEC, 3, 6, epochs=(4,)) == 'P...P...llP...llP...llP.'


def test_nothing_is_done_while_a_stream_is_missing():
    pacing = Pacing(SPEC, CHUNK, 3, 4)
    ages_ns: dict[str, int | None] = dict.fromkeys((part.stream for part in SPEC.streams), 0)
    ages_ns[SPEC.cameras[0].name] = None
    assert not pacing.is_due(BEGIN_NS, ages_ns, 0, planned=False)
    assert not pacing.is_ahead(BEGIN_NS, ages_ns)
