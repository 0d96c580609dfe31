"""Bags of every kind: both storages, compressed, split, old metadata; and those that are none."""

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from vqbet_ros.data.bag import Bag
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec

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
                payload = array(i, len(expected))
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
