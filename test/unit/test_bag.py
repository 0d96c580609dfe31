"""Bags of every kind: both storages, compressed, split, old metadata; and those that are none."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from vqbet_ros.data.bag import Bag, SPEC_KEY
from vqbet_ros.data.prepare import expected_steps
from vqbet_ros.errors import BadBag
from vqbet_ros.recording.bag import update_custom_data
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec
import yaml

STORE = get_typestore(Stores.ROS2_HUMBLE)
SPEC = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
START_NS = 1_700_000_000_000_000_000
ARRAY = 'std_msgs/msg/Float64MultiArray'
COMMANDS = '/forward_position_controller/commands'
PLUGINS = [StoragePlugin.MCAP, StoragePlugin.SQLITE3]


def array(*values):
    layout = STORE.types['std_msgs/msg/MultiArrayLayout'](dim=[], data_offset=0)
    message = STORE.types[ARRAY](layout=layout, data=np.array(values, np.float64))
    return bytes(STORE.serialize_cdr(message, ARRAY))


def write(
    path,
    *,
    plugin=StoragePlugin.MCAP,
    mode=None,
    version=9,
    count=50,
    topics=('/a', '/b'),
    data=(),
    size=0,
):
    """Write a bag of arrays; return what is in it."""
    writer = Writer(path, version=version, storage_plugin=plugin)
    if mode is not None:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    expected: list[tuple[str, str, int, bytes]] = []
    with writer:
        for key, value in data:
            writer.set_custom_data(key, value)
        connections = [writer.add_connection(t, ARRAY, typestore=STORE) for t in topics]
        for i in range(count):
            for connection in connections:
                payload = array(i, len(expected), *[0.0] * size)
                writer.write(connection, START_NS + i * 10**7, payload)
                expected.append((connection.topic, ARRAY, START_NS + i * 10**7, payload))
    return expected


def read(path, topics=None):
    return [(m.topic, m.type, m.log_ns, m.payload) for m in Bag.open(path).messages(topics)]


@pytest.mark.parametrize('plugin', PLUGINS, ids=str)
@pytest.mark.parametrize('mode', [None, CompressionMode.FILE, CompressionMode.MESSAGE], ids=str)
def test_what_was_written_is_read(tmp_path, plugin, mode):
    expected = write(tmp_path / 'bag', plugin=plugin, mode=mode)
    bag = Bag.open(tmp_path / 'bag')
    assert {name: (t.type, t.count) for name, t in bag.topics.items()} == {
        '/a': (ARRAY, 50),
        '/b': (ARRAY, 50),
    }
    assert (bag.start_ns, bag.end_ns) == (START_NS, START_NS + 49 * 10**7)
    assert sorted(read(tmp_path / 'bag')) == sorted(expected)
    assert [m.log_ns for m in bag.messages()] == [row[2] for row in expected]
    assert read(tmp_path / 'bag', {'/b'}) == [row for row in expected if row[0] == '/b']
    assert read(tmp_path / 'bag', {'/c'}) == []


def test_chunks_compressed_inside_the_file_are_read(tmp_path):
    expected = write(tmp_path / 'bag', mode=CompressionMode.STORAGE, count=5000)
    assert read(tmp_path / 'bag') == expected


@pytest.mark.parametrize('version', [8, 9])
@pytest.mark.parametrize('plugin', PLUGINS, ids=str)
def test_what_the_recorder_noted_is_there(tmp_path, plugin, version):
    data = [(SPEC_KEY, SPEC.to_yaml()), ('vqbet.task', 'push')]
    write(tmp_path / 'bag', plugin=plugin, version=version, data=data)
    bag = Bag.open(tmp_path / 'bag')
    assert bag.spec == SPEC
    assert bag.custom_data['vqbet.task'] == 'push'


def as_humble_writes(path):
    """Take out of metadata.yaml what came after version 5."""
    file = path / 'metadata.yaml'
    root = yaml.safe_load(file.read_text())
    information = root['rosbag2_bagfile_information']
    information['version'] = 5
    for key in ('custom_data', 'ros_distro'):
        information.pop(key)
    for topic in information['topics_with_message_count']:
        topic['topic_metadata'].pop('type_description_hash')
        topic['topic_metadata']['offered_qos_profiles'] = ''
    file.write_text(yaml.safe_dump(root))


@pytest.mark.parametrize('plugin', PLUGINS, ids=str)
def test_a_bag_of_humble_that_was_recorded_elsewhere(tmp_path, plugin):
    expected = write(tmp_path / 'bag', plugin=plugin)
    as_humble_writes(tmp_path / 'bag')
    bag = Bag.open(tmp_path / 'bag')
    assert bag.custom_data == {}
    assert bag.spec is None
    assert sorted(read(tmp_path / 'bag')) == sorted(expected)


def split(path, counts):
    """Write a bag of several files, as a recorder does that begins a new one by size."""
    parts = []
    expected: list[tuple[str, str, int, bytes]] = []
    for i, count in enumerate(counts):
        part = path.parent / f'part_{i}'
        writer = Writer(part, version=9, storage_plugin=StoragePlugin.MCAP)
        with writer:
            connection = writer.add_connection('/a', ARRAY, typestore=STORE)
            for _ in range(count):
                row = ('/a', ARRAY, START_NS + len(expected) * 10**7, array(len(expected)))
                writer.write(connection, row[2], row[3])
                expected.append(row)
        parts.append(part)
    path.mkdir()
    root = yaml.safe_load((parts[0] / 'metadata.yaml').read_text())
    information = root['rosbag2_bagfile_information']
    information['relative_file_paths'] = []
    for i, part in enumerate(parts):
        name = f'{path.name}_{i}.mcap'
        (part / f'{part.name}.mcap').rename(path / name)
        information['relative_file_paths'].append(name)
    information['message_count'] = len(expected)
    information['duration']['nanoseconds'] = (len(expected) - 1) * 10**7
    information['topics_with_message_count'][0]['message_count'] = len(expected)
    (path / 'metadata.yaml').write_text(yaml.safe_dump(root))
    return expected


def test_a_bag_of_several_files_is_read_whole(tmp_path):
    expected = split(tmp_path / 'bag', [20, 1, 30])
    assert read(tmp_path / 'bag') == expected
    bag = Bag.open(tmp_path / 'bag')
    assert (bag.start_ns, bag.end_ns) == (expected[0][2], expected[-1][2])
    assert [file.name for file in bag.files()] == ['bag_0.mcap', 'bag_1.mcap', 'bag_2.mcap']


@pytest.mark.parametrize('plugin', PLUGINS, ids=str)
def test_a_bare_file_is_a_bag(tmp_path, plugin):
    expected = write(tmp_path / 'bag', plugin=plugin)
    (file,) = Bag.open(tmp_path / 'bag').files()
    assert sorted(read(file)) == sorted(expected)


def test_a_bare_file_of_the_recorder_has_its_spec_inside(tmp_path, write_bag, bag_spec):
    bag = write_bag(tmp_path / 'twig', 1.0, outcome='success')
    (file,) = Bag.open(bag).files()
    bare = Bag.open(file.rename(tmp_path / 'bare.mcap'))
    assert bare.spec == bag_spec
    assert bare.custom_data['vqbet.outcome'] == 'success'


def test_the_hash_is_of_the_messages_not_of_the_notes(tmp_path):
    write(tmp_path / 'one', topics=('/a',))
    write(tmp_path / 'other', topics=('/b',))
    one = Bag.open(tmp_path / 'one')
    before = one.sha256()
    assert len(before) == 64
    update_custom_data(tmp_path / 'one', {'vqbet.outcome': 'success'})
    assert Bag.open(tmp_path / 'one').custom_data == {'vqbet.outcome': 'success'}
    assert one.sha256() == before
    assert Bag.open(tmp_path / 'other').sha256() != before


def test_memory_does_not_grow_with_the_bag(tmp_path):
    peaks = []
    for count in (200, 600):  # of 16 kB: several chunks of 1 MB
        write(tmp_path / f'bag_{count}', count=count, size=2000)
        bag = Bag.open(tmp_path / f'bag_{count}')
        tracemalloc.start()
        assert sum(1 for _ in bag.messages()) == 2 * count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


@pytest.mark.parametrize(
    ('plugin', 'mode'),
    [
        (StoragePlugin.MCAP, CompressionMode.STORAGE),  # only there is anything like it
        *((p, m) for p in PLUGINS for m in (None, CompressionMode.FILE, CompressionMode.MESSAGE)),
    ],
    ids=str,
)
@pytest.mark.parametrize('back_s', [0.5, 1.5, 8.0])
def test_a_clock_that_is_set_back_does_not_mix_two_times(tmp_path, plugin, mode, back_s):
    """Less than a second is disorder, which readers put in order; more is kept as written."""
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=plugin)
    if mode is not None:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    rng = np.random.default_rng(0)
    expected = []
    with writer:
        connections = [writer.add_connection(t, ARRAY, typestore=STORE) for t in ('/a', '/b')]
        for i in range(1000):
            back_ns = round(back_s * 1e9) if i >= 600 else 0
            connection = connections[i % 2]
            payload = array(i, *rng.normal(size=500))  # several chunks of 1 MB
            row = (connection.topic, ARRAY, START_NS + i * 10**7 - back_ns, payload)
            writer.write(connection, row[2], row[3])
            expected.append(row)
    found = read(tmp_path / 'bag')
    assert found == (expected if back_s > 1 else sorted(expected, key=lambda row: row[2]))


def test_topics_that_were_written_one_after_the_other_are_read_by_time(tmp_path):
    """As converters do: no clock was set back."""
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        for topic in ('/a', '/b'):
            connection = writer.add_connection(topic, ARRAY, typestore=STORE)
            for i in range(500):
                writer.write(connection, START_NS + i * 10**7, array(i, *[0.0] * 500))
    times_ns = [row[2] for row in read(tmp_path / 'bag')]
    assert times_ns == sorted(times_ns)


# What is no bag, or not whole


def test_no_bag_there(tmp_path):
    with pytest.raises(BadBag, match=r'no such file or directory: .*nowhere'):
        Bag.open(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(BadBag, match=r'is no bag: it holds no metadata\.yaml'):
        Bag.open(tmp_path / 'empty')
    (tmp_path / 'film.mp4').write_bytes(b'film')
    with pytest.raises(BadBag, match='is no bag: expected a directory'):
        Bag.open(tmp_path / 'film.mp4')


def test_a_bag_without_its_metadata_is_to_be_recovered(tmp_path):
    write(tmp_path / 'bag')
    (tmp_path / 'bag' / 'metadata.yaml').unlink()
    with pytest.raises(
        BadBag, match=r'the recorder was killed. To repair it: vqbet recover .*bag'
    ):
        Bag.open(tmp_path / 'bag')


@pytest.mark.parametrize('share', [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize('plugin', PLUGINS, ids=str)
def test_a_truncated_bag_says_what_repairs_it(tmp_path, plugin, share):
    write(tmp_path / 'bag', plugin=plugin, count=500)
    (file,) = Bag.open(tmp_path / 'bag').files()
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    repair = 'vqbet recover' if plugin is StoragePlugin.MCAP else 'ros2 bag reindex'
    with pytest.raises(BadBag, match=repair):
        read(tmp_path / 'bag')


@pytest.mark.parametrize('mode', [None, CompressionMode.STORAGE, CompressionMode.MESSAGE], ids=str)
def test_a_damaged_bag_is_never_silently_short(tmp_path, mode):
    expected = write(tmp_path / 'bag', mode=mode, count=2000)
    (file,) = Bag.open(tmp_path / 'bag').files()
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(content), 20):
        damaged = bytearray(content)
        damaged[place : place + 40] = rng.bytes(len(damaged[place : place + 40]))
        file.write_bytes(damaged)
        try:
            assert len(read(tmp_path / 'bag')) == len(expected)
        except BadBag:
            refused += 1
    assert refused


def test_files_and_metadata_that_disagree(tmp_path):
    write(tmp_path / 'bag')
    file = tmp_path / 'bag' / 'metadata.yaml'
    text = file.read_text()
    file.write_text(text.replace('message_count: 50', 'message_count: 60'))
    with pytest.raises(BadBag, match='it should hold 120 messages, but has 100'):
        read(tmp_path / 'bag')
    file.write_text(text.replace('bag.mcap', 'gone.mcap'))
    with pytest.raises(BadBag, match=r'gone\.mcap'):
        read(tmp_path / 'bag')
    file.write_text('version: [')
    with pytest.raises(BadBag, match='Could not load YAML'):
        read(tmp_path / 'bag')


VALUES: tuple[Any, ...] = (None, 'x', -1, math.inf, [], {}, [None], {'a': 1}, 10**30, True)


def places(node, at=()):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


def test_metadata_of_any_type_are_a_bag_or_a_clear_error(tmp_path):
    write(tmp_path / 'bag', count=2, data=[('a', 'b')])
    file = tmp_path / 'bag' / 'metadata.yaml'
    text = file.read_text()
    refused = 0
    for place in places(yaml.safe_load(text)):
        for value in VALUES:
            root = yaml.safe_load(text)
            node = root
            for key in place[:-1]:
                node = node[key]
            node[place[-1]] = value
            file.write_text(yaml.safe_dump(root))
            expected_steps(tmp_path / 'bag', 10.0)
            try:
                read(tmp_path / 'bag')
            except BadBag:
                refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ('names', 'broken', 'said'),
    [
        (['bag/a.mcap'], 'bag', 'vqbet recover {}/bag'),
        (['bag/a.mcap'], 'bag/a.mcap', 'vqbet recover {}/bag'),
        (['bag/a.mcap', 'bag/b.mcap'], 'bag', 'put it into a folder of its own'),
        (['bag/a.mcap', 'bag/b.db3'], 'bag/a.mcap', 'put it into a folder of its own'),
        (['bag/a.db3'], 'bag', 'ros2 bag reindex {}/bag'),
        (['bag/a.db3'], 'bag/a.db3', 'ros2 bag reindex {}/bag'),
    ],
)
def test_what_repairs_a_bag_is_what_can(tmp_path, names, broken, said):
    """`vqbet recover` works on a folder with one MCAP file."""
    (tmp_path / 'bag').mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b'cut short')
    with pytest.raises(BadBag) as error:
        Bag.open(tmp_path / broken)
    assert said.format(tmp_path) in str(error.value)
    assert ('vqbet recover' in str(error.value)) == ('reindex' not in said)


def test_a_compressed_file_is_no_bag_of_its_own(tmp_path):
    (tmp_path / 'bag.mcap.zstd').write_bytes(b'frame')
    with pytest.raises(BadBag, match='Unrecognized storage format'):
        Bag.open(tmp_path / 'bag.mcap.zstd')


def test_messages_that_sqlite_never_put_into_the_bag(tmp_path):
    write(tmp_path / 'bag', plugin=StoragePlugin.SQLITE3)
    (tmp_path / 'bag' / 'bag.db3-wal').write_bytes(b'rows')
    with pytest.raises(BadBag, match=r"sqlite3 .*bag.db3 'PRAGMA wal_checkpoint"):
        Bag.open(tmp_path / 'bag')


def test_all_that_a_spec_misses_is_listed(tmp_path):
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        writer.add_connection('/camera/image_raw', ARRAY, typestore=STORE)
        connection = writer.add_connection('/joint_state', ARRAY, typestore=STORE)
        writer.write(connection, START_NS, array(1))
        writer.add_connection(COMMANDS, ARRAY, typestore=STORE)
    with pytest.raises(BadBag) as error:
        Bag.open(tmp_path / 'bag').require(SPEC)
    text = str(error.value)
    assert f'  - /camera/image_raw: got {ARRAY}, expected sensor_msgs/msg/Image' in text
    assert "  - /joint_states: not in the bag (did you mean '/joint_state'?)" in text
    assert f'  - {COMMANDS}: in the bag, but without a single message' in text
    assert '--spec' in text


def test_a_raw_camera_may_have_been_recorded_compressed(tmp_path):
    types = {
        '/camera/image_raw/compressed': 'sensor_msgs/msg/CompressedImage',
        '/joint_states': 'sensor_msgs/msg/JointState',
        COMMANDS: ARRAY,
    }
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        for topic, type_name in types.items():
            connection = writer.add_connection(topic, type_name, typestore=STORE)
            writer.write(connection, START_NS, b'\0\1\0\0')
    spec = Bag.open(tmp_path / 'bag').require(SPEC)
    assert spec.recorded_topics == types
    assert spec.differences(SPEC) == []
