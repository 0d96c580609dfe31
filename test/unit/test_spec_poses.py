"""Poses, twists, joysticks, grippers in specs; and that no field's change goes unnoticed."""

import dataclasses
from dataclasses import replace

import pytest
from vqbet_ros.errors import ConfigError
from vqbet_ros.message_types import JOY, POSE_STAMPED
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec

TEXT = """
robot: arm
rate_hz: 10.0
cameras:
  - {name: wrist, topic: /wrist, type: sensor_msgs/msg/Image, height: 48, width: 64,
     rate_hz: 30.0, max_age_s: 0.25, crop: {top: 0, left: 0, height: 96, width: 128}}
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [elbow, claw], unit: rad,
     rate_hz: 100.0, max_age_s: 0.1, fields: [position, velocity], hold: [claw]}
  - {topic: /current_pose, type: geometry_msgs/msg/PoseStamped, names: [tool0], unit: m,
     rate_hz: 100.0, max_age_s: 0.1, frame_id: base}
  - {topic: /current_twist, type: geometry_msgs/msg/TwistStamped, names: [tool0], unit: m/s,
     rate_hz: 100.0, max_age_s: 0.1, frame_id: base}
  - {topic: /joy, type: sensor_msgs/msg/Joy, names: [axes/0, buttons/2], unit: '1',
     rate_hz: 20.0, max_age_s: 0.3, hold: [buttons/2]}
action:
  kind: pose
  names: [tool0]
  unit: m
  frame_id: base
  record_topic: /target_pose
  record_type: geometry_msgs/msg/PoseStamped
  command_topic: /target_pose
  limits: {tool0/x: {position: [0, 1]}, tool0/y: {position: [0, 1]}, tool0/z: {position: [0, 1]}}
  gripper: {name: claw, unit: m, limits: {position: [0, 0.1]}, topic: /claw,
            type: std_msgs/msg/Float64MultiArray}
"""


def spec_of(text=TEXT):
    return RobotSpec.from_text(text, 'arm.yaml')


def test_channels_of_every_type():
    spec = spec_of()
    rotation = ('r11', 'r21', 'r31', 'r12', 'r22', 'r32')
    assert spec.state_names == (
        'elbow/position',
        'claw/position',
        'elbow/velocity',
        'claw/velocity',
        *(f'tool0/{part}' for part in ('x', 'y', 'z', *rotation)),
        *(f'tool0/{part}' for part in ('vx', 'vy', 'vz', 'wx', 'wy', 'wz')),
        'axes/0',
        'buttons/2',
    )
    assert spec.state[0].held == (False, True, False, True)
    assert spec.state[1].held == (False,) * 9
    assert spec.state[3].held == (False, True)
    assert spec.action_names == (*spec.state[1].channels, 'claw')
    assert spec.action_dim == 10
    assert [spec.measured(name) for name in ('tool0/x', 'claw', 'axes/0')] == [4, 1, 19]
    assert spec.measured('nothing') is None
    assert [source.topic for source in spec.action.sources] == ['/target_pose', '/claw']
    assert set(spec.recorded_topics) >= {'/wrist', '/joy', '/target_pose', '/claw'}
    assert RobotSpec.from_text(spec.to_yaml(), 'its own text') == spec


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('names: [tool0], unit: m,', 'names: [a, b], unit: m,', 'names: got 2, but a geometry'),
        ('[axes/0, buttons/2]', '[stick, buttons/2]', 'got stick, but a Joy has axes/0'),
        ('hold: [claw]', 'hold: [jaw]', 'hold: jaw is no name of the stream'),
        ('hold: [claw]', 'frame_id: base', "frame_id: got 'base', but a sensor_msgs"),
        ('  frame_id: base\n', '', 'expected the frame that the pose is in'),
        ('tool0/z: {', 'tool0/r11: {', 'limits: missing for tool0/z'),
        ('  record_topic: /target_pose', '  record_topic: null', 'record_topic is null: expect'),
        ('geometry_msgs/msg/PoseStamped\n', 'sensor_msgs/msg/JointState\n', 'expected one of geo'),
        ('  names: [tool0]\n', '  names: [tool0, tool1]\n', 'expected one: what has the pose'),
        ('name: claw,', 'name: tool0/x,', 'names and gripper: tool0/x appears more than once'),
        ('topic: /claw,', 'topic: claw,', "topic: got 'claw', expected an absolute topic"),
        (', topic: /claw,\n', ',\n', 'but topic is null: expected null'),
    ],
)
def test_what_contradicts_itself_is_refused(old, new, message):
    assert old in TEXT
    with pytest.raises(ConfigError) as error:
        spec_of(TEXT.replace(old, new))
    assert message in str(error.value)


@pytest.mark.parametrize('how', ['measured', 'delta'])
def test_what_the_action_is_measured_by_must_be_in_the_state(how):
    spec = spec_of()
    change = (
        {'record_topic': None, 'record_type': None}
        if how == 'measured'
        else {'reference': 'delta'}
    )
    assert replace(spec, action=replace(spec.action, **change)).action_dim == 10
    limits = {f'flange/{axis}': spec.action.limits[f'tool0/{axis}'] for axis in 'xyz'}
    elsewhere = replace(spec.action, names=('flange',), limits=limits)
    replace(spec, action=elsewhere)
    with pytest.raises(ValueError, match=r'flange/x.*flange/r32 must be in the state'):
        replace(spec, action=replace(elsewhere, **change))


def test_a_raw_camera_may_come_compressed():
    camera = spec_of().cameras[0]
    assert camera.compressed.topic == '/wrist/compressed'
    assert camera.compressed.type == 'sensor_msgs/msg/CompressedImage'
    assert camera.compressed.compressed == camera.compressed
    assert spec_of().differences(replace(spec_of(), cameras=(camera.compressed,))) == []


# What belongs to the robot at hand: how data come and go, what is safe.
AT_HAND = {
    'cameras': {'topic', 'type', 'rate_hz', 'max_age_s', 'latency_s'},
    'state': {'topic', 'type', 'rate_hz', 'max_age_s', 'latency_s', 'fields'},
    'action': {
        'command_topic',
        'command_interface',
        'command_options',
        'record_topic',
        'record_type',
        'record_latency_s',
        'record_max_age_s',
        'limits',
    },
    'gripper': {'topic', 'type', 'latency_s', 'max_age_s', 'limits', 'command'},
}
CHANGES = {
    'name': 'other',
    'height': 96,
    'width': 128,
    'crop': None,
    'unit': 'km',
    'names': ('other',),
    'hold': (),
    'frame_id': 'other',
    'reference': 'delta',
    'kind': 'twist',
    'gripper': None,
    'robot': 'other',
    'rate_hz': 20.0,
}


def changed(part, name):
    """Change one field past all checks: only the comparison is of interest here."""
    other = dataclasses.replace(part)
    object.__setattr__(other, name, CHANGES[name])
    return other


def test_no_change_of_meaning_goes_unnoticed():
    spec = spec_of()
    parts = {
        'cameras': spec.cameras[0],
        'state': spec.state[0],
        'action': spec.action,
        'gripper': spec.action.gripper,
    }
    for where, part in parts.items():
        assert part is not None
        for field in dataclasses.fields(part):
            if field.name in AT_HAND[where]:
                continue
            if where == 'state' and field.name == 'frame_id':
                part = spec.state[1]
            other = changed(part, field.name)
            if where == 'gripper':
                action = dataclasses.replace(spec.action)
                object.__setattr__(action, 'gripper', other)
                whole = {'action': action}
            elif where == 'action':
                whole = {'action': other}
            else:
                kept = tuple(other if p is part else p for p in getattr(spec, where))
                whole = {where: kept}
            different = dataclasses.replace(spec)
            for name, value in whole.items():
                object.__setattr__(different, name, value)
            assert spec.differences(different), f'{where}.{field.name}'
    for name in ('robot', 'rate_hz'):
        assert spec.differences(changed(spec, name))


@pytest.mark.parametrize('name', ['pusht_state', 'pusht_image'])
def test_shipped_checkpoints_keep_their_specs(name):
    spec = RobotSpec.from_yaml(resource(f'models/{name}/spec.yaml'))
    robot = 'pusht_keypoints' if name == 'pusht_state' else 'pusht'
    assert spec == RobotSpec.from_yaml(resource(f'config/robots/{robot}.yaml'))
    assert spec.action_names == ('x', 'y')
    assert spec.action.sources[0].max_age_ns is None
    assert JOY not in spec.recorded_topics.values()
    assert POSE_STAMPED not in spec.recorded_topics.values()
