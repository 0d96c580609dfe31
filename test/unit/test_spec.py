import dataclasses
from pathlib import Path

import pytest
from vqbet_ros.errors import ConfigError, SpecMismatch
from vqbet_ros.spec import Crop, JointLimits, RobotSpec

ROBOTS = Path(__file__).parents[2] / 'config' / 'robots'
PUSHT = (ROBOTS / 'pusht.yaml').read_text()


@pytest.fixture
def pusht():
    return RobotSpec.from_yaml(ROBOTS / 'pusht.yaml')


@pytest.mark.parametrize('path', sorted(ROBOTS.glob('*.yaml')), ids=lambda path: path.stem)
def test_every_shipped_spec_survives_the_round_trip(path):
    spec = RobotSpec.from_yaml(path)
    again = RobotSpec.from_text(spec.to_yaml(), 'round trip')
    assert again == spec
    assert spec.differences(again) == []


def test_pusht(pusht):
    assert pusht.state_names == ('x/position', 'y/position')
    assert pusht.action_names == ('x', 'y')
    assert (pusht.state_dim, pusht.action_dim, pusht.period_ns) == (2, 2, 100_000_000)
    assert [stream.stream for stream in pusht.streams] == ['top', '/joint_states']
    assert pusht.camera('top').max_age_ns == 250_000_000
    with pytest.raises(ConfigError, match=r"no camera 'wrist'; its cameras: top"):
        pusht.camera('wrist')


def test_pusht_keypoints_differs_from_pusht_in_its_senses_only(pusht):
    keypoints = RobotSpec.from_yaml(ROBOTS / 'pusht_keypoints.yaml')
    assert keypoints.action == pusht.action
    assert keypoints.cameras == ()
    assert keypoints.state_dim == 2 + 16
    assert keypoints.state_names[2:4] == ('kp0_x', 'kp0_y')
    assert keypoints.state_names[-1] == 'kp7_y'


def test_channels_go_field_by_field(pusht):
    part = dataclasses.replace(pusht.state[0], fields=('position', 'velocity'))
    assert part.channels == ('x/position', 'y/position', 'x/velocity', 'y/velocity')


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('rate_hz: 10.0  # gym', 'rate_hz: -1.0  # gym', 'rate_hz: got -1.0'),
        ('rate_hz: 50.0', 'rate: 50.0', "unknown key 'state[0].rate' (did you mean 'rate_hz'?)"),
        ('unit: px\n    rate', 'rate', "missing key 'state[0].unit'"),
        ('topic: /joint_states', 'topic: joint states', 'expected an absolute topic'),
        ('topic: /joint_states', 'topic: /camera/image_raw', 'topics: /camera/image_raw appears'),
        ("[x, 'y']  # quoted", '[x, x]  # quoted', 'names: x appears more than once'),
        ("[x, 'y']  # quoted", '[]  # quoted', 'names: got an empty list'),
        ('[position]', '[torque]', "got 'torque', expected one of"),
        ('max_age_s: 0.1 ', 'max_age_s: 0.01 ', 'a sample is up to 0.02 s old'),
        ('latency_s: 0.0  # the', 'latency_s: -0.1  # the', 'latency_s: got -0.1'),
        ('height: 96', 'height: 0', 'height: got 0, expected 1 or more px'),
        ('crop: null', 'crop: {top: -1, left: 0, height: 0, width: 9}', 'top: got -1'),
        ('x: {position: [0.0, 512.0]', 'x: {position: [512.0, 0.0]', 'expected [lower, higher]'),
        ('x: {position: [0.0, 512.0]', 'x: {position: [-.inf, .inf]', 'position: got [-inf, inf]'),
        ('x: {position: [0.0, 512.0]', 'x: {position: [0.0, .nan]', 'position: got [0.0, nan]'),
        ('0.0, 512.0], velocity: null', '0.0, 512.0], velocity: .inf', 'velocity: got inf'),
        ("    'y': {position", "    'z': {position", 'missing for y'),
        ("    'y': {position", "    'z': {position", 'z is no name of the action'),
        ('acceleration: null', 'acceleration: 0.0', 'acceleration: got 0.0'),
        ('name: top', 'name: top view', "name: got 'top view', expected letters"),
        ('robot: pusht', "robot: ''", "robot: got ''"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(old, new, message):
    assert old in PUSHT
    with pytest.raises(ConfigError) as error:
        RobotSpec.from_text(PUSHT.replace(old, new), 'robot.yaml')
    assert message in str(error.value)
    assert 'robot.yaml' in str(error.value)


def test_all_problems_of_one_part_are_reported_together():
    text = PUSHT.replace('height: 96', 'height: -2').replace('width: 96', 'width: -3')
    with pytest.raises(ConfigError, match=r'height: got -2.*width: got -3'):
        RobotSpec.from_text(text, 'robot.yaml')


def test_a_spec_without_any_stream_is_refused(pusht):
    with pytest.raises(ValueError, match='would see nothing'):
        dataclasses.replace(pusht, cameras=(), state=())


def test_fields_of_an_array_are_refused(pusht):
    with pytest.raises(ValueError, match='leave fields out'):
        dataclasses.replace(
            pusht.state[0], type='std_msgs/msg/Float64MultiArray', fields=('velocity',)
        )


@pytest.mark.parametrize('text', ['- a\n- b', '', 'a: [1', 'just words'])
def test_text_that_is_no_spec(text):
    with pytest.raises(ConfigError, match=r'somewhere'):
        RobotSpec.from_text(text, 'somewhere')


def test_require_equal_lists_every_difference(pusht):
    camera = dataclasses.replace(pusht.cameras[0], height=48, crop=Crop(0, 0, 90, 90))
    state = dataclasses.replace(pusht.state[0], unit='m', names=('y', 'x'))
    action = dataclasses.replace(pusht.action, names=('y', 'x'), reference='delta')
    other = dataclasses.replace(
        pusht, rate_hz=20.0, cameras=(camera,), state=(state,), action=action
    )
    with pytest.raises(SpecMismatch) as error:
        pusht.require_equal(other)
    message = str(error.value)
    for line in (
        'rate_hz: 10, 20',
        'camera top, height x width: 96 x 96, 48 x 96',
        'camera top, crop (top, left, height, width): None, (0, 0, 90, 90)',
        "state order: ['x/position', 'y/position'], ['y/position', 'x/position']",
        'state x/position, unit: px, m',
        "action order: ['x', 'y'], ['y', 'x']",
        'action reference: absolute, delta',
    ):
        assert f'  - {line}\n' in f'{message}\n'
    assert 'checkpoint' in message
    assert 'robot' in message


def test_what_belongs_to_the_robot_at_hand_may_differ(pusht):
    camera = dataclasses.replace(pusht.cameras[0], topic='/cam', latency_s=0.02, max_age_s=0.5)
    limits = {**pusht.action.limits, 'x': JointLimits((10.0, 500.0))}
    action = dataclasses.replace(pusht.action, limits=limits, command_topic='/elsewhere')
    other = dataclasses.replace(pusht, cameras=(camera,), action=action)
    pusht.require_equal(other)
