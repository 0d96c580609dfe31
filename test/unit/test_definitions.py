"""Message definitions: what is installed, what others compute, packages that nobody knows."""

import pytest
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from vqbet_ros.errors import UnknownType
from vqbet_ros.recording.definitions import definition_of

LINE = 80 * '='
# ROS 2's common types that nest, repeat or bound their fields.
TYPES = [
    'std_msgs/msg/String',
    'sensor_msgs/msg/Image',
    'sensor_msgs/msg/JointState',
    'sensor_msgs/msg/PointCloud2',
    'diagnostic_msgs/msg/DiagnosticArray',
    'nav_msgs/msg/Odometry',
    'tf2_msgs/msg/TFMessage',
    'trajectory_msgs/msg/JointTrajectory',
    'visualization_msgs/msg/MarkerArray',
]


@pytest.fixture
def prefix(tmp_path, monkeypatch):
    """Return a prefix that is searched first, without what is installed."""
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    monkeypatch.setattr('sys.prefix', str(tmp_path / 'elsewhere'))

    def install(package, **files):
        folder = tmp_path / 'share' / package / 'msg'
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name.replace('__', '.')).write_text(text, encoding='utf-8')

    return install


def fields(text, type_name):
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(text, type_name))
    return {
        name: [(field, str(kind)) for field, kind in kinds]
        for name, (_, kinds) in (store.fielddefs.items())
    }


@pytest.mark.parametrize('type_name', TYPES)
def test_definitions_say_what_the_typestore_says(type_name):
    text = get_typestore(Stores.LATEST).generate_msgdef(type_name, ros_version=2)[0]
    definition = definition_of(type_name)
    assert definition.encoding == 'ros2msg'
    assert fields(definition.text, type_name) == fields(text, type_name)


def test_the_text_is_laid_out_as_rosbag2_does(prefix):
    # The expected text of rosbag2's own test of this.
    prefix(
        'rosbag2_test_msgdefs',
        BasicMsg__msg='float32 c\n',
        ComplexMsg__msg='rosbag2_test_msgdefs/BasicMsg b\n',
    )
    definition = definition_of('rosbag2_test_msgdefs/msg/ComplexMsg')
    assert definition.text == (
        'rosbag2_test_msgdefs/BasicMsg b\n'
        f'\n{LINE}\n'
        'MSG: rosbag2_test_msgdefs/BasicMsg\n'
        'float32 c\n'
    )


def test_types_that_come_as_idl_alone(prefix):
    root = '#include "idl_msgs/msg/Part.idl"\n\nmodule idl_msgs {};\n'
    part = 'module idl_msgs { module msg {}; };\n'
    prefix('idl_msgs', Whole__idl=root, Part__idl=part)
    definition = definition_of('idl_msgs/msg/Whole')
    assert definition.encoding == 'ros2idl'
    assert definition.text == (
        f'{LINE}\nIDL: idl_msgs/msg/Whole\n{root}\n{LINE}\nIDL: idl_msgs/msg/Part\n{part}'
    )


def test_every_way_to_name_a_type_is_followed_once(prefix):
    prefix(
        'deep',
        Whole__msg='# deep/Comment c\n'
        'int32 LIMIT=3  # deep/Constant\n'
        'string<=10 label "a/b"\n'
        'Part[] parts\n'
        'deep/Part[2] pair\n'
        'deep/msg/Other[<=4] others\n'
        'wstring[] names\n'
        'byte[<=3] raw\n',
        Part__msg='Other other\nfloat64 x 1.5\n',
        Other__msg='uint8[] data\n',
    )
    text = definition_of('deep/msg/Whole').text
    assert text.count(LINE) == text.count('MSG: ') == 2
    assert text.index('MSG: deep/Part') < text.index('MSG: deep/Other')


def test_the_first_prefix_wins_and_later_ones_help(prefix, tmp_path, monkeypatch):
    prefix('overlaid', Type__msg='int32 first\n')
    below = tmp_path / 'below/share/overlaid/msg'
    below.mkdir(parents=True)
    (below / 'Type.msg').write_text('int32 second\n')
    (below / 'Only.msg').write_text('Type t\n')
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{tmp_path}:{tmp_path / "below"}:')
    assert 'int32 first' in definition_of('overlaid/msg/Only').text


def test_common_types_need_no_installation(prefix, monkeypatch):
    text = definition_of('sensor_msgs/msg/JointState').text
    assert 'MSG: std_msgs/Header' in text
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    assert definition_of('sensor_msgs/msg/JointState').text == text


@pytest.mark.parametrize('type_name', ['Image', 'sensor_msgs/Image', '../msg/Image', 'a/msg/b c'])
def test_what_is_not_a_type(type_name):
    with pytest.raises(UnknownType, match='expected package/msg/Type'):
        definition_of(type_name)


def test_unknown_types_say_what_to_install(prefix):
    prefix('arm_msgs', Command__msg='gripper_msgs/Width width\n')
    with pytest.raises(UnknownType, match=r'ros-.*-arm-msgs.*source the workspace') as info:
        definition_of('arm_msgs/msg/Command')
    assert 'of what it uses: gripper_msgs/msg/Width' in str(info.value)
