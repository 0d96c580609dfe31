"""Bags as files: what goes in comes out of other programs' readers, byte by byte."""

import os
import random
import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.records import Channel, Message
from mcap.stream_reader import StreamReader
from mcap_ros2.decoder import DecoderFactory
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from vqbet_ros.errors import BadBag
from vqbet_ros.recording.bag import (
    BagOptions,
    BagWriter,
    is_whole,
    QosProfile,
    read_custom_data,
    Topic,
    update_custom_data,
)
from vqbet_ros.recording.definitions import definition_of
import yaml

STATE = Topic('/joint_states', 'sensor_msgs/msg/JointState', qos=(QosProfile(),))
IMAGE = Topic('/camera/image_raw', 'sensor_msgs/msg/Image')
NAMES = [STATE.name, IMAGE.name]
OPTIONS = [
    BagOptions(compression, 4096, version, 'kilted')
    for compression in ('none', 'lz4', 'zstd')
    for version in (8, 9)
]

# (topic, size of the payload, log time, publish time, sequence, whether to flush after it)
messages = st.lists(
    st.tuples(
        st.sampled_from([0, 1]),
        st.one_of(st.integers(0, 60), st.sampled_from([4000, 16 * 1024, 40_000])),
        st.integers(0, 2**63 - 2),
        st.integers(0, 2**63 - 2),
        st.integers(0, 2**64 - 1),
        st.booleans(),
    ),
    max_size=40,
)


def payload(number, size):
    return b'\0\1\0\0' + random.Random(number).randbytes(size)


def write(path, sequence, options, custom_data=None):
    bag = BagWriter(path, options, {'when': 'open'})
    channels = [bag.add_topic(STATE), bag.add_topic(IMAGE)]
    for number, (topic, size, log_ns, publish_ns, count, flush) in enumerate(sequence):
        bag.write(channels[topic], payload(number, size), log_ns, publish_ns, count)
        if flush:
            bag.flush()
    return bag.close({'when': 'close', **(custom_data or {})})


def expected(sequence):
    return [
        (NAMES[topic], log_ns, publish_ns, count & 0xFFFFFFFF, payload(number, size))
        for number, (topic, size, log_ns, publish_ns, count, _) in enumerate(sequence)
    ]


def in_file_order(file):
    topics, found = {}, []
    with file.open('rb') as stream:
        for record in StreamReader(stream, validate_crcs=True).records:
            if isinstance(record, Channel):
                topics[record.id] = record.topic
            if isinstance(record, Message):
                found.append(
                    (
                        topics[record.channel_id],
                        record.log_time,
                        record.publish_time,
                        record.sequence,
                        record.data,
                    )
                )
    return found


@pytest.fixture
def a_bag(tmp_path):
    sequence = [(n % 2, 100 * n, 1000 + n, n, n, False) for n in range(50)]
    write(tmp_path / 'e', sequence, BagOptions())
    return tmp_path / 'e'


@settings(max_examples=60)
@given(
    sequence=messages,
    options=st.sampled_from(OPTIONS),
    window=st.tuples(*2 * [st.integers(0, 2**63)]),
)
def test_whatever_goes_in_comes_out(tmp_path_factory, sequence, options, window):
    path = tmp_path_factory.mktemp('bag') / 'e'
    summary = write(path, sequence, options)
    wanted = expected(sequence)
    file = path / 'e_0.mcap'
    assert in_file_order(file) == wanted
    counts = {name: sum(message[0] == name for message in wanted) for name in NAMES}
    times = [message[1] for message in wanted] or [0]
    assert (summary.messages, summary.bytes) == (counts, file.stat().st_size)
    assert (summary.start_ns, summary.end_ns) == (min(times), max(times))

    with file.open('rb') as stream:
        reader = make_reader(stream, validate_crcs=True)
        index: Any = reader.get_summary()
        assert index.statistics.message_count == len(wanted)
        found = [(m.log_time, m.data) for _, _, m in reader.iter_messages()]
        assert [log_ns for log_ns, _ in found] == sorted(times)[: len(wanted)]
        assert sorted(found) == sorted((message[1], message[4]) for message in wanted)
        # Seeking reads the chunk indexes, and of the chunks only those that are needed.
        start, end = sorted(window)
        sought = [m.data for _, _, m in reader.iter_messages(NAMES[0], start, end)]
        inside = [m[4] for m in wanted if m[0] == NAMES[0] and start <= m[1] < end]
        assert sorted(sought) == sorted(inside)

    with Reader(path) as bag:
        assert {name: bag.topics[name].msgcount for name in NAMES} == counts
        read = [(c.topic, t, bytes(data)) for c, t, data in bag.messages()]
        assert sorted(read) == sorted((m[0], m[1], m[4]) for m in wanted)


@pytest.mark.parametrize('options', OPTIONS, ids=lambda o: f'{o.compression}-{o.metadata_version}')
def test_the_layout_is_that_of_rosbag2(tmp_path, options):
    write(tmp_path / 'e', [(0, 8, 5, 4, 3, False), (1, 8, 7, 6, 5, True)], options)
    names = sorted(file.name for file in (tmp_path / 'e').iterdir())
    assert names == ['e_0.mcap', 'metadata.yaml']
    information = yaml.safe_load((tmp_path / 'e/metadata.yaml').read_text())
    information = information['rosbag2_bagfile_information']
    assert information['version'] == options.metadata_version
    assert information['relative_file_paths'] == ['e_0.mcap']
    assert information['message_count'] == 2
    assert information['starting_time'] == {'nanoseconds_since_epoch': 5}
    assert information['duration'] == {'nanoseconds': 2}
    assert information['custom_data'] == {'when': 'close'}
    with (tmp_path / 'e/e_0.mcap').open('rb') as stream:
        reader = make_reader(stream)
        header = reader.get_header()
        summary: Any = reader.get_summary()
        records = [r for r in reader.iter_metadata() if r.name == 'rosbag2']
    assert header.profile == 'ros2'
    assert header.library.startswith('vqbet_ros ')
    schemas = {schema.name: schema for schema in summary.schemas.values()}
    assert set(schemas) == {STATE.type, IMAGE.type}
    assert all(schema.encoding == 'ros2msg' for schema in schemas.values())
    assert schemas[IMAGE.type].data.decode() == definition_of(IMAGE.type).text
    channel = next(c for c in summary.channels.values() if c.topic == STATE.name)
    assert channel.message_encoding == 'cdr'
    assert set(channel.metadata) == {'offered_qos_profiles', 'topic_type_hash'}
    # At the start what is known then; at the end the same as metadata.yaml.
    texts = [yaml.safe_load(record.metadata['serialized_metadata']) for record in records]
    assert texts[0]['custom_data'] == {'when': 'open'}
    assert texts[0]['version'] == options.metadata_version
    assert texts[-1] == information


@pytest.mark.parametrize('version', [8, 9])
def test_a_bag_without_messages_opens(tmp_path, version):
    write(tmp_path / 'e', [], BagOptions(metadata_version=version))
    with Reader(tmp_path / 'e') as bag:
        assert bag.message_count == 0
        assert set(bag.topics) == set(NAMES)
        assert list(bag.messages()) == []


def test_large_payloads_are_not_copied_before_the_kernel_takes_them(tmp_path):
    # A proxy for speed that does not depend on the machine: who holds the bytes.
    bag = BagWriter(tmp_path / 'e', BagOptions(chunk_bytes=10**9), {})
    channel = bag.add_topic(IMAGE)
    large = payload(0, 10**6)
    before = sys.getrefcount(large)
    bag.write(channel, large, 0, 0)
    assert sys.getrefcount(large) == before + 1
    bag.close({})
    assert in_file_order(tmp_path / 'e/e_0.mcap')[0][-1] == large


def test_a_chunk_may_be_of_any_number_of_pieces(tmp_path):
    # Payloads of this size are handed to the kernel one by one, which takes some 1000 a call.
    sent = [payload(number, 17_000) for number in range(1500)]
    bag = BagWriter(tmp_path / 'e', BagOptions(chunk_bytes=64_000_000), {})
    channel = bag.add_topic(IMAGE)
    for number, data in enumerate(sent):
        bag.write(channel, data, number, number)
    bag.close({})
    assert [message[-1] for message in in_file_order(tmp_path / 'e/e_0.mcap')] == sent


# --- types


DEEP = {
    'Whole': 'std_msgs/Header header\n'
    'int32 LIMIT=3\n'
    'Part[] parts\n'
    'Part[2] pair\n'
    'geometry_msgs/Point[<=4] path\n'
    'string<=10 label "none"\n'
    'string[] names\n'
    'float64[] values\n'
    'bool[<=3] flags\n',
    'Part': 'Leaf[] leaves  # nested once more\nuint8[] data\n',
    'Leaf': 'string text\nint64 number\n',
}


def test_custom_types_with_unbounded_and_nested_fields(tmp_path, monkeypatch):
    folder = tmp_path / 'install/share/deep_msgs/msg'
    folder.mkdir(parents=True)
    for name, text in DEEP.items():
        (folder / f'{name}.msg').write_text(text)
    before = os.environ.get('AMENT_PREFIX_PATH', '')
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{tmp_path / "install"}:{before}')

    store = get_typestore(Stores.LATEST)
    for name, text in DEEP.items():
        store.register(get_types_from_msg(text, f'deep_msgs/msg/{name}'))
    types: Any = {name.rpartition('/')[2]: kind for name, kind in store.types.items()}

    def part(number):
        leaves = [types['Leaf'](text='é' * i, number=-i) for i in range(number)]
        return types['Part'](leaves=leaves, data=np.arange(number * 1000, dtype=np.uint8))

    written = types['Whole'](
        header=types['Header'](types['Time'](1, 2), 'base'),
        parts=[part(i) for i in range(5)],
        pair=[part(1), part(0)],
        path=[types['Point'](1.0, 2.0, 3.0)],
        label='grasp',
        names=['', 'a', 'longer name'],
        values=np.linspace(0, 1, 7),
        flags=np.array([True, False]),
    )
    cdr = bytes(store.serialize_cdr(written, 'deep_msgs/msg/Whole'))
    bag = BagWriter(tmp_path / 'e', BagOptions(), {})
    bag.write(bag.add_topic(Topic('/deep', 'deep_msgs/msg/Whole')), cdr, 1, 1)
    bag.close({})

    with AnyReader([tmp_path / 'e']) as reader:  # types from the bag, not from here
        ((connection, _, data),) = reader.messages()
        assert bytes(data) == cdr
        read: Any = reader.deserialize(data, connection.msgtype)
    assert [leaf.text for leaf in read.parts[4].leaves] == ['', 'é', 'éé', 'ééé']
    assert read.names == written.names
    np.testing.assert_array_equal(read.values, written.values)

    with (tmp_path / 'e/e_0.mcap').open('rb') as stream:
        decoder = make_reader(stream, decoder_factories=[DecoderFactory()])
        ((_, _, message, decoded),) = decoder.iter_decoded_messages()
    assert message.data == cdr
    assert [leaf.number for leaf in decoded.parts[3].leaves] == [0, -1, -2]
    assert decoded.label == 'grasp'
    assert bytes(decoded.parts[2].data) == bytes(np.arange(2000, dtype=np.uint8))


def test_rosbag2_itself_reads_it(a_bag):
    rosbag2_py = pytest.importorskip('rosbag2_py', reason='rosbag2_py comes with a sourced ROS 2')
    reader = rosbag2_py.SequentialReader()
    reader.open(
        rosbag2_py.StorageOptions(uri=str(a_bag), storage_id='mcap'),
        rosbag2_py.ConverterOptions('cdr', 'cdr'),
    )
    read = []
    while reader.has_next():
        read.append(reader.read_next())
    assert read == [(NAMES[n % 2], payload(n, 100 * n), 1000 + n) for n in range(50)]
    assert {topic.name for topic in reader.get_all_topics_and_types()} == set(NAMES)


# --- the folder


def test_nothing_is_overwritten(a_bag):
    before = (a_bag / 'e_0.mcap').read_bytes()
    with pytest.raises(BadBag, match='never overwritten'):
        BagWriter(a_bag, BagOptions(), {})
    assert (a_bag / 'e_0.mcap').read_bytes() == before


def test_a_topic_is_added_once(tmp_path):
    bag = BagWriter(tmp_path / 'e', BagOptions(), {})
    bag.add_topic(IMAGE)
    with pytest.raises(BadBag, match='/camera/image_raw was added already'):
        bag.add_topic(Topic(IMAGE.name, 'std_msgs/msg/String'))
    with pytest.raises(KeyError):
        bag.write(7, b'', 0, 0)
    bag.close({})


def test_options_check_themselves():
    with pytest.raises(ValueError, match='chunk_bytes: got 0'):
        BagOptions(chunk_bytes=0)


def test_texts_are_changed_in_place(a_bag):
    information = yaml.safe_load((a_bag / 'metadata.yaml').read_text())
    update_custom_data(a_bag, {'vqbet.outcome': 'success', 'more': 'lines:\n  - é "x"\n'})
    update_custom_data(a_bag, {'vqbet.outcome': 'failure'})
    assert read_custom_data(a_bag) == {
        'when': 'close',
        'vqbet.outcome': 'failure',
        'more': 'lines:\n  - é "x"\n',
    }
    changed = yaml.safe_load((a_bag / 'metadata.yaml').read_text())
    assert list(changed['rosbag2_bagfile_information']) == list(
        information['rosbag2_bagfile_information']
    )
    changed['rosbag2_bagfile_information']['custom_data'] = {'when': 'close'}
    assert changed == information
    with Reader(a_bag) as bag:
        assert bag.message_count == 50


def test_an_open_bag_tells_what_was_known_at_its_start(tmp_path):
    bag = BagWriter(tmp_path / 'e', BagOptions(), {'vqbet.task': 'push'})
    assert not is_whole(tmp_path / 'e')
    assert read_custom_data(tmp_path / 'e') == {'vqbet.task': 'push'}
    with pytest.raises(BadBag, match='was not closed; run `vqbet recover'):
        update_custom_data(tmp_path / 'e', {})
    bag.close({'vqbet.task': 'pull'})
    assert is_whole(tmp_path / 'e')
    assert read_custom_data(tmp_path / 'e') == {'vqbet.task': 'pull'}


def test_whole_means_both_files_with_their_ends(a_bag):
    assert is_whole(a_bag)
    file = a_bag / 'e_0.mcap'
    content = file.read_bytes()
    for broken in (content[:-1], content[: len(content) // 2], content + b'x', b''):
        file.write_bytes(broken)
        assert not is_whole(a_bag)
    file.unlink()
    assert not is_whole(a_bag)
    file.write_bytes(content)
    assert is_whole(a_bag)
    (a_bag / 'metadata.yaml').write_text('a: [')
    assert not is_whole(a_bag)


def test_where_there_is_no_bag(tmp_path):
    assert not is_whole(tmp_path / 'absent')
    with pytest.raises(BadBag, match='no such folder'):
        read_custom_data(tmp_path / 'absent')
    with pytest.raises(BadBag, match=r'got none, expected one \.mcap file'):
        read_custom_data(tmp_path)
