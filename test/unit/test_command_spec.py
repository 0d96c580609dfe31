"""The part of a spec that says how commands reach the robot."""

from dataclasses import replace
from pathlib import Path

import pytest
from vqbet_ros.command_spec import INTERFACE_KINDS
from vqbet_ros.errors import ConfigError
from vqbet_ros.spec import CommandOptions, GripperCommand, RobotSpec
from vqbet_ros.structured import from_mapping, to_mapping

ROOT = Path(__file__).parents[2]
ROBOTS = ROOT / 'config' / 'robots'
ARMS = ('aloha_vx300s', 'fr3', 'so101', 'ur5e_forward_position', 'ur5e_scaled_joint_trajectory')


def load(name):
    return RobotSpec.from_yaml(ROBOTS / f'{name}.yaml')


def changed(name, **action):
    """A spec file's mapping with another action, read again."""
    mapping = to_mapping(load(name))
    mapping['action'].update(action)
    return from_mapping(RobotSpec, mapping, 'changed.yaml')


POSE = {
    'kind': 'pose',
    'names': ['tool0'],
    'unit': 'm',
    'frame_id': 'base',
    'record_topic': '/target_pose',
    'record_type': 'geometry_msgs/msg/PoseStamped',
    'limits': {f'tool0/{axis}': {'position': [-0.5, 0.5]} for axis in 'xyz'},
}
VELOCITY = {
    'unit': 'rad/s',
    'record_topic': '/velocities',
    'record_type': 'std_msgs/msg/Float64MultiArray',
}


@pytest.mark.parametrize('path', sorted((ROOT / 'models').glob('*/spec.yaml')), ids=str)
def test_specs_of_shipped_checkpoints_load_as_before(path):
    spec = RobotSpec.from_yaml(path)
    assert 'command_options' not in path.read_text('utf-8')
    assert spec.action.command_interface == 'forward_position'
    assert spec.action.command_options == CommandOptions()
    assert not spec.action.is_velocity


def test_how_commands_are_sent_is_no_difference_between_specs():
    forward, trajectory = load('ur5e_forward_position'), load('ur5e_scaled_joint_trajectory')
    assert forward.action.command_interface != trajectory.action.command_interface
    assert forward.differences(trajectory) == []
    fr3 = load('fr3')
    assert fr3.action.gripper is not None
    assert fr3.action.gripper.command is not None
    gripper = replace(fr3.action.gripper, command=GripperCommand('float64', '/elsewhere'))
    other = replace(fr3, action=replace(fr3.action, gripper=gripper))
    assert fr3.differences(other) == []
    other = replace(fr3, action=replace(fr3.action, gripper=replace(gripper, unit='rad')))
    assert fr3.differences(other) == ['gripper unit: m, rad']


def test_velocities_differ_from_positions():
    positions = load('ur5e_forward_position')
    velocities = changed('ur5e_forward_position', command_interface='forward_velocity', **VELOCITY)
    assert velocities.action.is_velocity
    assert positions.differences(velocities) == ['action unit: rad, rad/s']


@pytest.mark.parametrize('interface', ['servo_pose', 'cartesian_pose'])
def test_poses(interface):
    spec = changed('ur5e_forward_position', command_interface=interface, **POSE)
    assert spec.action_dim == 9
    assert not spec.action.is_velocity


def test_a_twist_is_a_velocity_whatever_takes_it():
    limits = {
        f'tool0/{part}': {'position': [-0.1, 0.1]} for part in ('vx', 'vy', 'vz', 'wx', 'wy', 'wz')
    }
    record = {'record_topic': '/twist', 'record_type': 'geometry_msgs/msg/TwistStamped'}
    twist = {**POSE, **record, 'kind': 'twist', 'limits': limits}
    assert changed('ur5e_forward_position', **twist).action.is_velocity
    sent = changed('ur5e_forward_position', **twist, command_interface='servo_twist')
    assert sent.action.is_velocity


def test_a_spec_without_an_interface_of_its_own_may_be_of_any_kind():
    assert changed('ur5e_forward_position', **POSE).action.command_interface == 'forward_position'


@pytest.mark.parametrize('interface', sorted(set(INTERFACE_KINDS) - {'forward_position'}))
def test_an_interface_takes_one_kind(interface):
    other = {'command_interface': interface}
    if INTERFACE_KINDS[interface] == 'joints':
        other |= POSE
    with pytest.raises(ConfigError, match=f"got '{interface}', which takes kind"):
        changed('ur5e_forward_position', **other)


@pytest.mark.parametrize(
    ('action', 'message'),
    [
        ({'command_interface': 'forward_speed'}, "did you mean 'forward_velocity'"),
        ({'command_interface': 'forward_velocity'}, "unit: got 'rad', but 'forward_velocity'"),
        ({'command_interface': 'servo_joint', 'unit': 'rad/s'}, 'record_type: got None'),
        ({'command_interface': 'joint_trajectory', 'unit': 'rad/s'}, 'expected no /s'),
        (
            {**VELOCITY, 'command_interface': 'forward_velocity', 'reference': 'delta'},
            'but the commands are velocities',
        ),
        ({'command_options': {'trajectory': 'points'}}, "did you mean 'point'"),
        ({'command_options': {'reach_s': 0.0}}, 'reach_s: got 0.0, expected more than 0'),
        ({'command_options': {'stop_s': -1.0, 'group': ''}}, "group: got ''"),
    ],
)
def test_a_wrong_interface_says_what_is_wrong(action, message):
    with pytest.raises(ConfigError) as error:
        changed('ur5e_forward_position', **action)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        ({'interface': 'float32'}, "did you mean 'float64'"),
        ({'topic': 'gripper'}, 'expected an absolute topic'),
        ({'min_change': -1.0}, 'min_change: got -1.0'),
        ({'max_rate_hz': 0.0}, 'max_rate_hz: got 0.0'),
        ({'switch': [0.6, 0.4]}, 'switch: got (0.6, 0.4)'),
        ({'max_effort': 0.0}, 'max_effort: got 0.0'),
        ({'interface': 'float64', 'max_effort': 1.0}, "but 'float64' has none"),
    ],
)
def test_a_wrong_gripper_command_says_what_is_wrong(command, message):
    mapping = to_mapping(load('fr3'))
    mapping['action']['gripper']['command'].update(command)
    with pytest.raises(ConfigError) as error:
        from_mapping(RobotSpec, mapping, 'changed.yaml')
    assert message in str(error.value)


@pytest.mark.parametrize('name', ARMS)
def test_arms_have_limits_and_sources(name):
    spec, text = load(name), (ROBOTS / f'{name}.yaml').read_text('utf-8')
    assert 'Sources' in text
    for limits in spec.action.limits.values():
        assert limits.velocity is not None
        low, high = limits.position
        assert -2 * 3.1416 < low < high < 2 * 3.1416
