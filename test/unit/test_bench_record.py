"""The recorder's benchmark: its load, its comparison of a bag with what was sent, its usage."""

import importlib
from typing import Any

import numpy as np
import pytest
from rosbags.typesys import get_typestore, Stores
from vqbet_ros.cli.bench_record_check import compare
from vqbet_ros.cli.main import main
from vqbet_ros.data.cdr import header_stamp_ns
from vqbet_ros.errors import VqbetError
from vqbet_ros.recording.audit import expected_streams
from vqbet_ros.recording.bag import BagOptions, BagWriter
from vqbet_ros.recording.bench_load import (
    checksum,
    JOINTS_TOPIC,
    number_of,
    read_ledger,
    spec,
    Template,
    TOPICS,
    write_ledger,
)
from vqbet_ros.recording.metadata import Topic
from vqbet_ros.spec import JOINT_STATE, RobotSpec

MARK = b'\xa5\x5a\xc3\x3c\x96\x69\xf0\x0f'
START = 1_700_000_000_123_456_789
STEP = 1_000_000


@pytest.fixture(scope='module')
def templates():
    """One serialised message of each topic, as another library serialises it."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    stamp = store.types['builtin_interfaces/msg/Time'](sec=0, nanosec=0)
    header = store.types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera')
    data = np.frombuffer(b'pixels' + MARK, np.uint8)
    made = {}
    for topic, kind in TOPICS.items():
        cls = store.types[kind]
        if kind == JOINT_STATE:
            values = np.array([1.5, 2.5])
            effort = np.frombuffer(bytes(8) + MARK)
            message = cls(
                header=header, name=['a', 'b'], position=values, velocity=values, effort=effort
            )
        elif 'Compressed' in kind:
            message = cls(header=header, format='jpeg', data=data)
        else:
            message = cls(
                header=header,
                height=1,
                width=1,
                encoding='rgb8',
                is_bigendian=0,
                step=3,
                data=data,
            )
        cdr = bytes(store.serialize_cdr(message, kind))
        made[topic] = Template(cdr, MARK, as_float=kind == JOINT_STATE)
    return made


@pytest.fixture
def record(templates, tmp_path):
    """Write a bag of what was sent, spoilt on the way; returns its path and the ledger."""

    def make(spoil=lambda sent: sent, count=10):
        sent, rows = [], []
        for i in range(count):
            for index, topic in enumerate(TOPICS):
                stamp_ns = START + i * STEP
                cdr = templates[topic].message(stamp_ns, i)
                sent.append((topic, cdr, stamp_ns))
                rows.append((index, i, stamp_ns, checksum(cdr)))
        bag = BagWriter(tmp_path / 'bag', BagOptions(), {})
        channels = {topic: bag.add_topic(Topic(topic, kind)) for topic, kind in TOPICS.items()}
        for topic, cdr, stamp_ns in spoil(sent):
            bag.write(channels[topic], cdr, stamp_ns, stamp_ns)
        bag.close({})
        write_ledger(tmp_path / 'ledger.npy', rows)
        return tmp_path / 'bag', read_ledger(tmp_path / 'ledger.npy')

    return make


ALL = (START, START + 100 * STEP)


@pytest.mark.parametrize(('topic', 'kind'), TOPICS.items())
def test_a_message_bears_its_stamp_and_number_and_stays_readable(templates, topic, kind):
    for number in (0, 1, 255, 150_000):
        cdr = templates[topic].message(START + number, number)
        assert header_stamp_ns(cdr, kind) == START + number
        assert number_of(topic, cdr) == number
        decoded: Any = get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr(cdr, kind)
        assert decoded.header.frame_id == 'camera'
        if kind == JOINT_STATE:
            assert decoded.effort[-1] == number
            np.testing.assert_array_equal(decoded.velocity, [1.5, 2.5])
        else:
            assert bytes(decoded.data[:6]) == b'pixels'


def test_a_message_without_the_mark_is_refused():
    with pytest.raises(ValueError, match='not in the message'):
        Template(bytes(40), MARK, as_float=False)


def test_a_whole_recording_is_found_whole(record):
    bag, ledger = record()
    result = compare(bag, ledger, ALL)
    assert (result['published'], result['recorded'], result['lost']) == (50, 50, 0)
    assert result['identical']['rosbags'] == result['identical']['mcap_ros2'] == 50
    assert result['differing'] == 0


def test_what_is_missing_is_lost_if_it_was_sent_in_time(record):
    bag, ledger = record(lambda sent: sent[5:20] + sent[25:45])
    result = compare(bag, ledger, (START + STEP, START + 8 * STEP))
    assert (result['published'], result['recorded'], result['lost']) == (40, 35, 5)
    assert result['identical']['rosbags'] == 35


def flipped(sent, where):
    topic, cdr, stamp_ns = sent[7]
    changed = bytearray(cdr)
    changed[where] ^= 1
    return [*sent[:7], (topic, bytes(changed), stamp_ns), *sent[8:]]


@pytest.mark.parametrize(
    'spoil',
    [
        lambda sent: flipped(sent, -1),
        lambda sent: flipped(sent, 12),
        lambda sent: [*sent, sent[3]],
    ],
    ids=['a bit of the number', 'a bit of the content', 'a message twice'],
)
def test_what_is_not_as_it_was_sent_is_counted_by_every_reader(record, spoil):
    bag, ledger = record(spoil)
    result = compare(bag, ledger, ALL)
    readers = [count for count in result['identical'].values() if count is not None]
    assert result['differing'] == len(readers)


def test_the_spec_expects_every_topic_of_the_load():
    streams = {stream.topic: stream for stream in expected_streams(spec())}
    assert {topic: stream.type for topic, stream in streams.items()} == TOPICS
    assert streams[JOINTS_TOPIC].rate_hz == 500
    assert RobotSpec.from_text(spec().to_yaml(), 'itself') == spec()


@pytest.mark.parametrize('bench', ['record', 'control'])
def test_nothing_that_was_there_is_taken_away(bench, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(f'vqbet_ros.cli.bench_{bench}')
    mine = [
        tmp_path / name for name in ('bags/mine', 'checkpoint/mine', 'spec.yaml', 'ledger.npy')
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text('mine')

    def failing(args, folder):
        assert tmp_path in folder.parents
        raise VqbetError('no robot here')

    monkeypatch.setattr(module, '_measure', failing)
    assert main(['bench', bench, '--out', str(tmp_path)]) == 1
    assert 'no robot here' in capsys.readouterr().err
    assert sorted(path for path in tmp_path.rglob('*') if path.is_file()) == sorted(mine)
    assert {path.read_text() for path in mine} == {'mine'}


def test_usage_is_checked(capsys):
    for arguments, text in (
        (['bench', 'record', '--seconds', '0'], '--seconds: got 0, expected 1 or more'),
        (['bench', 'record', '--baseline-seconds', '-1'], '--baseline-seconds: got -1'),
        (['bench'], 'BENCH'),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert text in capsys.readouterr().err
