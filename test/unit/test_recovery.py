"""Bags that were cut or damaged: what is whole comes back, and nothing is deleted."""

from dataclasses import replace
import itertools
import json
import os
import random
import shutil
import struct
from typing import Any

from bag_filler import message, TOPICS
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.exceptions import McapError
from mcap.reader import make_reader
from mcap.records import Chunk, Message
from mcap.stream_reader import breakup_chunk, StreamReader
from mcap.writer import CompressionType, Writer
import pytest
from rosbags.rosbag2 import Reader
from vqbet_ros.cli.main import main
from vqbet_ros.data.bag import Bag
from vqbet_ros.errors import BadBag
from vqbet_ros.recording import copying
from vqbet_ros.recording.bag import (
    BagOptions,
    BagWriter,
    is_whole,
    QosProfile,
    read_custom_data,
    Topic,
    update_custom_data,
)
from vqbet_ros.recording.mcap_file import MAGIC
from vqbet_ros.recording.recovery import recover
from vqbet_ros.recording.unfinished import unfinished
from vqbet_ros.recording.verification import Tally, verify
import yaml

COUNT = 80
AT_OPEN = {'vqbet.task': 'push', 'vqbet.outcome': 'unmarked'}
AT_CLOSE = {**AT_OPEN, 'vqbet.outcome': 'success', 'vqbet.audit': '{}'}


def make(path, options=None, count=COUNT):
    bag = BagWriter(path, options or BagOptions(chunk_bytes=50_000), AT_OPEN)
    channels = [bag.add_topic(topic) for topic in TOPICS]
    for number in range(count):
        topic, payload, log_ns, publish_ns, sequence = message(number)
        bag.write(channels[topic], payload, log_ns, publish_ns, sequence)
    bag.close(AT_CLOSE)
    return path / f'{path.name}_0.mcap'


@pytest.fixture(params=['none', 'lz4', 'zstd'])
def file(request, tmp_path):
    """Make a whole bag, and return its MCAP file."""
    return make(tmp_path / 'e', BagOptions(request.param, chunk_bytes=50_000))


@pytest.fixture
def plain(tmp_path):
    return make(tmp_path / 'e')


def read(path):
    with Reader(path) as bag:
        return [(c.topic, t, bytes(data)) for c, t, data in bag.messages()]


def sent(count):
    made = (message(number) for number in range(count))
    return [(TOPICS[topic].name, log_ns, payload) for topic, payload, log_ns, _, _ in made]


def chunks(file):
    with file.open('rb') as stream:
        summary: Any = make_reader(stream).get_summary()
    return summary.chunk_indexes


def cut(file, size):
    """Leave what a killed recorder leaves."""
    (file.parent / 'metadata.yaml').unlink(missing_ok=True)
    os.truncate(file, size)


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# --- what comes back


def test_a_whole_bag_is_left_as_it_is(plain, capsys):
    before = files_of(plain.parent)
    recovery = recover(plain.parent)
    assert not recovery.repaired
    assert recovery.kept_original is None
    assert sum(recovery.messages.values()) == COUNT
    assert main(['recover', str(plain.parent)]) == 0
    assert 'nothing to repair' in capsys.readouterr().out
    assert files_of(plain.parent) == before
    assert [path.name for path in plain.parent.parent.iterdir()] == ['e']


def test_only_metadata_is_missing(file):
    (file.parent / 'metadata.yaml').unlink()
    recovery = recover(file.parent)
    assert recovery.complete
    assert recovery.lost_bytes == 0
    assert read(file.parent) == sent(COUNT)
    custom = read_custom_data(file.parent)
    assert {key: custom[key] for key in AT_CLOSE} == AT_CLOSE  # nothing is missing: a success


@pytest.mark.parametrize('from_end', [1, 8, 9, 40, 400])
def test_the_end_is_missing(file, from_end):
    cut(file, file.stat().st_size - from_end)
    recovery = recover(file.parent)
    assert recovery.complete
    assert read(file.parent) == sent(COUNT)


@pytest.mark.parametrize('where', ['head', 'data', 'boundary'])
def test_a_chunk_is_cut(file, where):
    indexes = chunks(file)
    middle = len(indexes) // 2
    start, length = indexes[middle].chunk_start_offset, indexes[middle].chunk_length
    before, within = sum(counts(file)[:middle]), counts(file)[middle]
    cut(file, start + {'head': 20, 'data': length - 1000, 'boundary': length}[where])
    with pytest.raises((McapError, struct.error)), file.open('rb') as stream:
        list(make_reader(stream).iter_messages())
    recovery = recover(file.parent)
    kept = read(file.parent)
    assert kept == sent(len(kept))  # a beginning of what was sent, byte by byte
    assert not recovery.complete
    plain_data = where == 'data' and not indexes[middle].compression
    # Of a chunk that is cut, what can be read without its end: all but the last message.
    more = within if where == 'boundary' else within - 1 if plain_data else 0
    assert len(kept) == before + more
    assert (recovery.lost_bytes > 0) == (where != 'boundary')
    assert recovery.last_ns == kept[-1][1]
    custom = read_custom_data(file.parent)
    assert custom['vqbet.outcome'] == 'incomplete'
    assert custom['vqbet.task'] == 'push'  # from the record that was written when it was opened
    note = json.loads(custom['vqbet.recovery'])
    assert note['messages'] == len(kept)
    assert note['lost_bytes'] == recovery.lost_bytes
    assert note['last_message_ns'] == recovery.last_ns
    assert note['outcome_before'] == 'unmarked'


@settings(max_examples=25)
@given(st.floats(0, 1), st.sampled_from([1, 20_000, 1024 * 1024]))
def test_every_whole_message_of_a_cut_file_comes_back(tmp_path_factory, share, chunk_bytes):
    file = make(tmp_path_factory.mktemp('bag') / 'e', BagOptions(chunk_bytes=chunk_bytes), 50)
    size = int(share * file.stat().st_size)
    whole = [end for end in message_ends(file) if end <= size]
    cut(file, size)
    recovery = recover(file.parent)
    assert read(file.parent) == sent(len(whole))
    assert sum(recovery.messages.values()) == len(whole)


def message_ends(file):
    """Where in the file each message ends, in order, by its indexes alone."""
    ends = []
    content = file.read_bytes()
    for chunk in chunks(file):
        position = chunk.chunk_start_offset + chunk.chunk_length
        data = position - chunk.uncompressed_size
        while content[position] == 0x07:  # the message indexes that follow a chunk
            length, _, records = struct.unpack_from('<QHI', content, position + 1)
            for entry in range(records // 16):
                (offset,) = struct.unpack_from('<Q', content, position + 15 + 16 * entry + 8)
                (size,) = struct.unpack_from('<Q', content, data + offset + 1)
                ends.append(data + offset + 9 + size)
            position += 9 + length
    return sorted(ends)


def counts(file):
    """Count the messages of each chunk."""
    with file.open('rb') as stream:
        return [
            sum(isinstance(record, Message) for record in breakup_chunk(chunk))
            for chunk in StreamReader(stream, emit_chunks=True).records
            if isinstance(chunk, Chunk)
        ]


@pytest.mark.parametrize('garbage', [bytes(10), bytes(100_000), None, b'\x05\0\0', b'log line\n'])
@pytest.mark.parametrize('at', ['boundary', 'end'])
def test_garbage_follows(plain, garbage, at):
    last = chunks(plain)[-1]
    before = COUNT if at == 'end' else sum(counts(plain)[:-1])
    (plain.parent / 'metadata.yaml').unlink()
    size = plain.stat().st_size if at == 'end' else last.chunk_start_offset
    os.truncate(plain, size)
    garbage = random.Random(1).randbytes(100_000) if garbage is None else garbage
    with plain.open('ab') as stream:
        stream.write(garbage)
    recovery = recover(plain.parent)
    assert read(plain.parent) == sent(before)
    assert recovery.complete == (at == 'end')
    assert recovery.lost_bytes == (0 if at == 'end' else len(garbage))


def test_a_damaged_chunk_is_left_out_and_the_rest_kept(file):
    indexes, held = chunks(file), counts(file)
    hit = len(indexes) // 2
    (file.parent / 'metadata.yaml').unlink()
    with file.open('r+b') as stream:
        stream.seek(indexes[hit].chunk_start_offset + indexes[hit].chunk_length // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 0xFF]))
    recovery = recover(file.parent)
    first = sum(held[:hit])
    assert read(file.parent) == sent(COUNT)[:first] + sent(COUNT)[first + held[hit] :]
    assert recovery.damaged_chunks == 1
    assert recovery.lost_bytes == indexes[hit].chunk_length
    assert not recovery.complete
    assert read_custom_data(file.parent)['vqbet.outcome'] == 'incomplete'


@pytest.mark.parametrize('zeros', [20_000, 500_000])
def test_zeros_that_a_power_cut_left_are_not_messages(plain, zeros):
    # The file system had made room for the last pages, and not yet written them.
    start, length = chunks(plain)[2].chunk_start_offset, chunks(plain)[2].chunk_length
    fills_chunk = 60_000 + zeros >= length  # its checksum is wrong then, and nothing is believed
    end = start if fills_chunk else start + 60_000
    before = sum(message <= end for message in message_ends(plain))
    cut(plain, start + 60_000)
    with plain.open('ab') as stream:
        stream.write(bytes(zeros))
    recovery = recover(plain.parent)
    assert read(plain.parent) == sent(before)
    assert recovery.damaged_chunks == fills_chunk


@pytest.mark.parametrize(
    'content', [b'', MAGIC[:3], MAGIC, MAGIC + b'\x01\x20', bytes(5), bytes(5000)]
)
def test_next_to_nothing_becomes_an_empty_bag(plain, content):
    cut(plain, 0)
    plain.write_bytes(content)
    recovery = recover(plain.parent)
    assert recovery.messages == {}
    assert is_whole(plain.parent)
    assert read(plain.parent) == []


def test_what_describes_the_messages_comes_back(tmp_path):
    topic = Topic('/a', 'std_msgs/msg/String', 'RIHS01_' + 64 * '0', (QosProfile(depth=7),) * 2)
    for version in (8, 9):
        path = tmp_path / f'v{version}'
        bag = BagWriter(path, BagOptions(metadata_version=version, ros_distro='jazzy'), {})
        bag.write(bag.add_topic(topic), b'\0\1\0\0', 1, 1)
        bag.close({})
        described = describe(path)
        cut(path / f'v{version}_0.mcap', (path / f'v{version}_0.mcap').stat().st_size - 4)
        recover(path)
        assert describe(path) == described


@pytest.mark.parametrize(('distro', 'version'), [('humble', 8), ('jazzy', 9)])
def test_a_bag_that_does_not_tell_is_made_for_the_sourced_ros(plain, monkeypatch, distro, version):
    monkeypatch.setenv('ROS_DISTRO', distro)
    cut(plain, 0)
    recover(plain.parent)
    information = yaml.safe_load((plain.parent / 'metadata.yaml').read_text())
    assert information['rosbag2_bagfile_information']['version'] == version


def describe(path):
    with (path / f'{path.name}_0.mcap').open('rb') as stream:
        reader = make_reader(stream)
        summary: Any = reader.get_summary()
        header = reader.get_header()
    information = yaml.safe_load((path / 'metadata.yaml').read_text())
    information = information['rosbag2_bagfile_information']
    information.pop('custom_data')
    return summary.schemas, summary.channels, header, information


@pytest.mark.parametrize('compression', [CompressionType.NONE, CompressionType.ZSTD])
def test_bags_of_other_recorders_are_recovered_too(tmp_path, compression):
    # Channels within chunks, no metadata record, no QoS.
    path = tmp_path / 'other'
    path.mkdir()
    with (path / 'any_name.mcap').open('wb') as stream:
        writer = Writer(stream, compression=compression, chunk_size=10_000)
        writer.start('ros2', 'another')
        schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data\n')
        channel = writer.register_channel('/chatter', 'cdr', schema)
        for n in range(1000):
            writer.add_message(channel, n, b'\0\1\0\0%030d' % n, n)
        # killed here: what is buffered is gone
    recovery = recover(path)
    kept = read(path)
    assert kept == [('/chatter', n, b'\0\1\0\0%030d' % n) for n in range(len(kept))]
    assert 800 < len(kept) < 1000
    assert recovery.messages == {'/chatter': len(kept)}
    assert (path / 'other_0.mcap').is_file()


# --- bags that were ended, and are damaged


def flip(file, at):
    with file.open('r+b') as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


def test_a_flipped_bit_costs_its_chunk_alone(file, capsys):
    indexes, held = chunks(file), counts(file)
    hit = len(indexes) // 2
    flip(file, indexes[hit].chunk_start_offset + indexes[hit].chunk_length // 2)
    assert is_whole(file.parent)
    with pytest.raises(BadBag, match='To repair it: vqbet recover'):
        list(Bag.open(file.parent).messages())
    assert main(['recover', str(file.parent)]) == 0
    first = sum(held[:hit])
    assert read(file.parent) == sent(COUNT)[:first] + sent(COUNT)[first + held[hit] :]
    assert len(list(Bag.open(file.parent).messages())) == COUNT - held[hit]
    printed = capsys.readouterr()
    size = indexes[hit].chunk_length
    assert (
        f'lost   {size} bytes of the file (1 damaged chunks), and {held[hit]} messages that were '
        'recorded\n' in printed.out
    )
    assert 'note   it was damaged: after ' in printed.out
    assert read_custom_data(file.parent)['vqbet.outcome'] == 'incomplete'
    assert not recover(file.parent).repaired


def test_a_damaged_index_costs_nothing(plain):
    flip(plain, plain.read_bytes().rindex(struct.pack('<Q', chunks(plain)[2].chunk_start_offset)))
    with pytest.raises(BadBag, match='To repair it: vqbet recover'):
        list(Bag.open(plain.parent).messages())
    recovery = recover(plain.parent)
    assert recovery.repaired
    assert recovery.complete
    assert read(plain.parent) == sent(COUNT)
    assert read_custom_data(plain.parent)['vqbet.outcome'] == 'success'


def rewrite_metadata(file, change):
    path = file.parent / 'metadata.yaml'
    document = yaml.safe_load(path.read_text())
    change(document['rosbag2_bagfile_information'])
    path.write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.mark.parametrize('more', [7, -7])
def test_metadata_that_count_otherwise(plain, more):
    # As if the metadata of another recording had been written over a bag's own.
    def miscount(information):
        information['message_count'] += more
        information['topics_with_message_count'][0]['message_count'] += more

    rewrite_metadata(plain, miscount)
    recovery = recover(plain.parent)
    assert recovery.repaired
    assert recovery.missing == max(0, more)
    assert recovery.complete == (more < 0)
    assert recovery.ended
    assert len(recovery.notes) == 1
    assert read(plain.parent) == sent(COUNT)
    outcome = 'success' if more < 0 else 'incomplete'
    assert read_custom_data(plain.parent)['vqbet.outcome'] == outcome


@pytest.mark.parametrize(
    'change',
    [
        lambda information: information.update(custom_data='cut'),
        lambda information: information.update(version='nine'),
        lambda information: information.update(topics_with_message_count=[]),
        lambda information: information.pop('starting_time'),
    ],
)
def test_metadata_that_are_nonsense_are_made_anew(plain, change):
    rewrite_metadata(plain, change)
    recovery = recover(plain.parent)
    assert recovery.repaired
    assert recovery.complete
    assert read(plain.parent) == sent(COUNT)
    assert read_custom_data(plain.parent)['vqbet.outcome'] == 'success'
    assert not recover(plain.parent).repaired


def test_a_definition_that_is_damaged_is_the_installed_one(plain):
    definition = describe(plain.parent)[0]
    content = plain.read_bytes()
    assert b'\x07\0\0\0ros2msg' in content
    flip(plain, content.index(b'ros2msg') + 3)
    (plain.parent / 'metadata.yaml').unlink()
    recovery = recover(plain.parent)
    assert read(plain.parent) == sent(COUNT)
    (note,) = recovery.notes
    assert "in the bag it was damaged: got encoding 'ros3msg', expected ros2msg or ros2idl" in note
    assert describe(plain.parent)[0].keys() == definition.keys()


def test_a_damaged_bag_of_several_files_is_left_alone(plain):
    second = plain.with_name('e_1.mcap')
    shutil.copy(plain, second)
    rewrite_metadata(plain, lambda i: i.update(relative_file_paths=[plain.name, second.name]))
    before = files_of(plain.parent)
    with pytest.raises(BadBag, match=r'only a bag of one \.mcap file can be repaired\n  - /'):
        recover(plain.parent)
    assert files_of(plain.parent) == before


# --- what happens to the original


def test_the_original_is_kept_whatever_happens(plain):
    cut(plain, plain.stat().st_size // 2)
    update_note = plain.parent / 'notes.txt'
    update_note.write_text('by hand')
    before = files_of(plain.parent)
    recovery = recover(plain.parent)
    assert recovery.kept_original == plain.parent.with_name('e.crashed')
    assert files_of(recovery.kept_original) == before
    # Once more, with the same name.
    cut(plain, plain.stat().st_size // 2)
    recovery = recover(plain.parent)
    assert recovery.kept_original == plain.parent.with_name('e.2.crashed')
    names = sorted(path.name for path in plain.parent.parent.iterdir())
    assert names == ['e', 'e.2.crashed', 'e.crashed']


def test_marks_that_were_made_later_win(plain):
    update_custom_data(plain.parent, {'vqbet.operator': 'Kim'})
    os.truncate(plain, plain.stat().st_size // 2)
    assert not is_whole(plain.parent)
    recover(plain.parent)
    custom = read_custom_data(plain.parent)
    assert custom['vqbet.operator'] == 'Kim'
    assert json.loads(custom['vqbet.recovery'])['outcome_before'] == 'success'


def fail_after(calls, error):
    def write(self, *message):
        if self.counts and next(calls) > 10:
            raise error
        return original(self, *message)

    original = BagWriter.write
    return write


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_a_failing_copy_leaves_everything_as_it_was(plain, monkeypatch, error):
    cut(plain, plain.stat().st_size // 2)
    before = files_of(plain.parent)
    monkeypatch.setattr(BagWriter, 'write', fail_after(itertools.count(), error))
    with pytest.raises(type(error)):
        recover(plain.parent)
    assert files_of(plain.parent) == before
    assert [path.name for path in plain.parent.parent.iterdir()] == ['e']


@pytest.mark.parametrize('flip', [True, False])
def test_a_copy_that_is_not_right_is_not_taken(plain, monkeypatch, flip):
    cut(plain, plain.stat().st_size // 2)
    before = files_of(plain.parent)

    def verify_damaged(path, expected, progress):
        copied = path / 'e_0.mcap'
        if flip:
            content = bytearray(copied.read_bytes())
            content[len(content) // 2] ^= 1
            copied.write_bytes(content)
        else:
            shutil.rmtree(path)
            make(path, count=10)
        return verify(path, expected, progress)

    monkeypatch.setattr(copying, 'verify', verify_damaged)
    with pytest.raises(BadBag, match=r'is not right and is removed; the bag is untouched\n  - '):
        recover(plain.parent)
    assert files_of(plain.parent) == before
    assert [path.name for path in plain.parent.parent.iterdir()] == ['e']


def test_verification_sees_every_difference(tmp_path):
    path = make(tmp_path / 'e', count=30).parent
    tallies = {topic.name: Tally() for topic in TOPICS}
    made = [Message(t, log, data, pub, n) for t, data, log, pub, n in map(message, range(30))]
    for record in made:
        tallies[TOPICS[record.channel_id].name].add(record)
    right = {name: tally.result() for name, tally in tallies.items()}
    assert verify(path, right, lambda done, total: None) == []
    for change in ('log_time', 'publish_time', 'sequence', 'data'):
        tally = Tally()
        for record in made:
            if record.channel_id == 0:
                value = getattr(record, change)
                tally.add(replace(record, **{change: value + (b'x' if change == 'data' else 1)}))
        wrong = {**right, TOPICS[0].name: tally.result()}
        assert len(verify(path, wrong, lambda done, total: None)) == 1


def test_what_a_killed_recovery_left_is_made_anew(plain, tmp_path):
    cut(plain, plain.stat().st_size // 2)
    begun = make(tmp_path / 'e.recovering/e', count=10)
    cut(begun, begun.stat().st_size // 2)
    recovery = recover(plain.parent)
    assert recovery.repaired
    assert len(read(plain.parent)) == sum(recovery.messages.values()) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ['e', 'e.crashed']


def test_a_recovery_that_was_killed_at_its_last_step_is_finished(plain, tmp_path):
    # Between the two renames: the original is aside, the verified copy has not yet its name.
    (tmp_path / 'e.recovering').mkdir()
    plain.parent.rename(tmp_path / 'e.recovering/e')
    assert [one.path for one in unfinished(tmp_path)] == [tmp_path / 'e']
    recovery = recover(tmp_path / 'e')
    assert not recovery.repaired
    assert read(tmp_path / 'e') == sent(COUNT)
    assert [path.name for path in tmp_path.iterdir()] == ['e']


def test_no_room_for_a_copy(plain, monkeypatch):
    cut(plain, plain.stat().st_size // 2)
    usage = shutil.disk_usage(plain)._replace(free=1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(BadBag, match=r'needs \d+ MB, but only 0 MB are free'):
        recover(plain.parent)


# --- the command


def test_the_command_tells_what_it_did(plain, tmp_path, capsys):
    cut(plain, chunks(plain)[3].chunk_start_offset + 100)
    assert main(['recover', str(plain.parent), '--json', str(tmp_path / 'out/told.json')]) == 0
    told = json.loads((tmp_path / 'out/told.json').read_text())
    kept = len(read(plain.parent))
    assert told['repaired'] is True
    assert told['messages'] == kept
    assert told['lost_bytes'] > 0
    assert told['kept_original'] == str(tmp_path / 'e.crashed')
    assert told['last_message_ns'] == message(kept - 1)[2]
    assert told['seconds'] == pytest.approx((message(kept - 1)[2] - message(0)[2]) / 1e9)
    printed = capsys.readouterr()
    assert f'{kept} messages' in printed.out
    assert f'{told["lost_bytes"]} bytes' in printed.out
    assert '2023-11-14 22:13:20' in printed.out
    assert 'recovering: 100 %' in printed.err
    assert main(['recover', str(plain.parent), '--json', str(tmp_path / 'told.json')]) == 0
    assert json.loads((tmp_path / 'told.json').read_text())['repaired'] is False


@pytest.mark.parametrize(
    ('prepare', 'why'),
    [
        (lambda bag: shutil.rmtree(bag), 'no such folder'),
        (lambda bag: (bag / 'e_0.mcap').unlink(), 'got none, expected one .mcap file'),
        (lambda bag: (bag / 'f.mcap').touch(), 'got e_0.mcap, f.mcap, expected one'),
        (lambda bag: (bag / 'e_0.mcap').write_text('SQLite format 3'), 'not an MCAP file'),
    ],
)
def test_what_cannot_be_recovered_is_one_message(plain, capsys, prepare, why):
    (plain.parent / 'metadata.yaml').unlink()
    prepare(plain.parent)
    assert main(['recover', str(plain.parent)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ''
    assert printed.err.startswith('vqbet: error: ')
    assert why in printed.err
    assert not plain.parent.with_name('e.recovering').exists()


def test_a_file_instead_of_a_folder(plain, capsys):
    assert main(['recover', str(plain)]) == 1
    assert 'is a file, expected the folder of a bag' in capsys.readouterr().err
