import dataclasses

import numpy as np
import pytest
from vqbet_ros.resources import resource
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime.chunk_check import ChunkCheck
from vqbet_ros.runtime.interpolation import Start
from vqbet_ros.runtime_spec import LimiterSettings
from vqbet_ros.spec import GripperSpec, JointLimits, RobotSpec

MS = 1_000_000
ACTION = dataclasses.replace(
    RobotSpec.from_yaml(resource('config/robots/pusht.yaml')).action,
    names=('a', 'b'),
    limits={'a': JointLimits((-1.0, 1.0), velocity=2.0), 'b': JointLimits((0.0, 10.0))},
)
CHECK = ChunkCheck(ACTION, LimiterSettings(gross_velocity=3.0, seam=0.5))


def chunk(actions, period_ns=100 * MS):
    return Chunk(0, np.asarray(actions), period_ns, 1.0, 0)


def problems(actions, start=None, check=CHECK):
    one = chunk(actions)
    own = check.actions(one)
    assert not isinstance(own, str), own
    return check.problems(one, own, start)


def start(time_ms, *values):
    return Start(time_ms * MS, np.array(values, dtype=float), np.zeros(len(values)))


@pytest.mark.parametrize(
    ('actions', 'message'),
    [
        ([[1.0, np.nan]], '1 of 2 numbers are not finite'),
        ([[np.inf, -np.inf], [0, 0]], '2 of 4 numbers are not finite'),
        ([[1.0, 2.0, 3.0]], 'shape (1, 3), expected (W, 2)'),
        ([1.0, 2.0], 'shape (2,)'),
        (np.zeros((0, 2)), 'shape (0, 2)'),
        ([['a', 'b']], 'no numbers'),
    ],
)
def test_what_is_no_chunk(actions, message):
    assert message in CHECK.actions(chunk(actions))
    assert 'period_ns is 0' in CHECK.actions(chunk([[0.0, 0.0]], period_ns=0))


def test_the_actions_are_a_copy_that_nobody_writes_to():
    given = np.zeros((2, 2), dtype=np.float32)
    own = CHECK.actions(chunk(given))
    given[:] = 1
    assert isinstance(own, np.ndarray)
    assert own.dtype == np.float64
    assert not own.any()
    with pytest.raises(ValueError, match='read-only'):
        own[0] = 1


def test_a_little_too_much_is_the_limiters_business():
    assert problems([[1.2, 10.5], [1.0, 11.0], [0.6, 0.0]], start(0, 0.9, 10.0)) == []


def test_each_gross_excess_is_told_with_its_step():
    assert problems([[0.0, 5.0], [0.0, 20.0], [0.0, 5.0]]) == [
        'b: 20 in step 1 is outside [0, 10]'
    ]
    assert problems([[0.0, 5.0], [0.7, 5.0]]) == ['a: 7 per s, limit 2 between steps 0 and 1']
    assert problems([[-3.0, 40.0]]) == [
        'a: -3 in step 0 is outside [-1, 1]',
        'b: 40 in step 0 is outside [0, 10]',
    ]


def test_the_distance_to_the_last_command():
    far = problems([[0.9, 9.0]], start(0, 0.1, 3.0))
    assert far == [
        'a: begins 0.8 from the last command, limit 0.6',
        'b: begins 6 from the last command, limit 5',
    ]
    assert problems([[0.6, 6.0]], start(0, 0.1, 3.0)) == []
    assert problems([[0.6, 6.0]], start(99, 0.1, 3.0)) == []  # a step ahead, although due soon


def test_only_what_is_still_to_come_counts():
    late = [[90.0, 5.0], [0.0, 5.0]]
    assert problems(late)
    assert problems(late, start(100, 0.0, 5.0)) == []
    assert problems(late, start(500, 0.0, 5.0)) == []


def test_grippers_and_poses():
    gripper = GripperSpec('finger', 'm', JointLimits((0.0, 0.1)))
    pose = dataclasses.replace(
        ACTION,
        kind='pose',
        names=('tool',),
        record_topic=None,
        record_type=None,
        frame_id='base',
        limits={f'tool/{axis}': JointLimits((-1.0, 1.0)) for axis in 'xyz'},
        gripper=gripper,
    )
    check = ChunkCheck(pose, LimiterSettings())
    good = [0.1, 0.2, 0.3, 1, 0, 0, 0, 1, 0, 0.05]
    assert problems([good], check=check) == []
    for place, value, text in (
        (0, 5.0, 'tool/x: 5'),
        (9, 1.0, 'finger: 1'),
        (3, 0.0, 'no rotation'),
        (7, 0.0, 'no rotation'),
    ):
        bad = list(good)
        bad[place] = value
        [problem] = problems([good, bad], check=check)
        assert text in problem
