"""What keeps an episode from beginning: each reason alone, all at once, and none."""

from dataclasses import replace

import pytest
from vqbet_ros.recording.readiness import problems, Situation
from vqbet_ros.resources import resource
from vqbet_ros.spec import COMPRESSED_IMAGE, FLOAT64_MULTI_ARRAY, IMAGE, JOINT_STATE, RobotSpec

S = 1_000_000_000
NOW = 1_700_000_000 * S
CAMERA = Situation(
    '/camera/image_raw', 1, (IMAGE,), '', NOW - S // 20, NOW - S // 10, rate_hz=10.0
)
JOINTS = Situation(
    '/joint_states', 1, (JOINT_STATE,), '', NOW - S // 50, NOW - S // 40, 50.0, ('y', 'other', 'x')
)
ACTION = Situation(
    '/forward_position_controller/commands', 1, (FLOAT64_MULTI_ARRAY,), '', NOW - 60 * S
)
READY = {'camera': CAMERA, 'joints': JOINTS, 'action': ACTION}


@pytest.fixture(scope='module')
def spec():
    return RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))


def found(spec, extra_topics=(), **changes):
    situations = {**READY, **changes}.values()
    return problems(spec, [s for s in situations if s is not None], NOW, extra_topics)


def test_a_robot_in_order_is_ready(spec):
    assert found(spec) == []


REASONS = {
    'absent': ({'camera': None}, 'top (/camera/image_raw): nobody publishes'),
    'without a publisher': ({'camera': replace(CAMERA, publishers=0)}, 'nobody publishes'),
    'another type': (
        {'joints': replace(JOINTS, types=(FLOAT64_MULTI_ARRAY,))},
        f'published as {FLOAT64_MULTI_ARRAY}, expected {JOINT_STATE}',
    ),
    'two types': (
        {'joints': replace(JOINTS, types=(JOINT_STATE, FLOAT64_MULTI_ARRAY))},
        f'published as {JOINT_STATE}, {FLOAT64_MULTI_ARRAY}, expected {JOINT_STATE}',
    ),
    'incompatible': (
        {'camera': replace(CAMERA, incompatible='best effort is offered')},
        'best effort is offered',
    ),
    'never a message': (
        {'action': replace(ACTION, newest_receive_ns=None)},
        'action (/forward_position_controller/commands): silent',
    ),
    'silent since': (
        {'camera': replace(CAMERA, newest_receive_ns=NOW - 3 * S, rate_hz=None)},
        'silent for 3.0 s',
    ),
    'too slow': ({'camera': replace(CAMERA, rate_hz=7.9)}, 'too slow, 7.9 Hz, expected 10 Hz'),
    'one message only': ({'camera': replace(CAMERA, rate_hz=None)}, 'too few messages'),
    'too old': (
        {'camera': replace(CAMERA, newest_stamp_ns=NOW - S)},
        'data is too old, newest is 1000 ms old, limit 250 ms',
    ),
    'from the future': (
        {'camera': replace(CAMERA, newest_stamp_ns=NOW + S)},
        'stamp lies in the future, newest is 1000 ms ahead',
    ),
    'joint missing': (
        {'joints': replace(JOINTS, joint_names=('x', 'elbow'))},
        "joint(s) missing: 'y'; it names x, elbow",
    ),
    'no joints': ({'joints': replace(JOINTS, joint_names=None)}, "'x', 'y'; it names none"),
}


@pytest.mark.parametrize(('changes', 'text'), REASONS.values(), ids=REASONS)
def test_each_reason_to_refuse_is_told_alone(spec, changes, text):
    lines = found(spec, **changes)
    assert len(lines) == 1, lines
    assert text in lines[0]


def test_all_reasons_are_told_at_once(spec):
    lines = found(
        spec,
        camera=replace(CAMERA, rate_hz=2.0, newest_stamp_ns=NOW - S),
        joints=replace(JOINTS, rate_hz=10.0, joint_names=('X', 'y')),
        action=None,
    )
    assert [line.split(':')[0] for line in lines] == [
        'top (/camera/image_raw)',
        'top (/camera/image_raw)',
        '/joint_states',
        '/joint_states',
        'action (/forward_position_controller/commands)',
    ]


def test_a_misspelt_joint_and_a_topic_of_another_name_are_suggested(spec):
    (line,) = found(
        replace(spec, state=(replace(spec.state[0], names=('shoulder', 'y')),)),
        joints=replace(JOINTS, joint_names=('shoulder_', 'y')),
    )
    assert "'shoulder' (did you mean 'shoulder_'?)" in line
    (line,) = found(spec, camera=replace(CAMERA, topic='/cam/image_raw'))
    assert "did you mean '/cam/image_raw'?" in line


def test_a_camera_may_come_compressed_and_then_that_is_judged(spec):
    compressed = replace(CAMERA, topic='/camera/image_raw/compressed', types=(COMPRESSED_IMAGE,))
    assert found(spec, camera=compressed) == []
    (line,) = found(spec, camera=replace(compressed, rate_hz=1.0))
    assert line.startswith('top (/camera/image_raw/compressed): too slow')
    (line,) = found(spec, camera=replace(compressed, publishers=0))
    assert 'nobody publishes /camera/image_raw nor /camera/image_raw/compressed' in line


def test_a_topic_besides_may_be_absent_or_silent_but_not_of_two_types(spec):
    extra = Situation('/tf', 2, ('tf2_msgs/msg/TFMessage',))
    assert found(spec, ['/tf', '/tf_static'], extra=extra) == []
    (line,) = found(spec, ['/tf'], extra=replace(extra, types=(*extra.types, IMAGE)))
    assert 'expected one type only' in line
    (line,) = found(spec, ['/tf'], extra=replace(extra, incompatible='not installed here'))
    assert line == '/tf: not installed here'


def test_a_rate_just_above_what_the_audit_calls_bad_is_enough(spec):
    assert found(spec, camera=replace(CAMERA, rate_hz=8.1)) == []
