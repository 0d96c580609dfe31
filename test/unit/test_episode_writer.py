"""The writing thread: callbacks never wait, queues are bounded, every loss is counted."""

from collections import Counter
import json
from pathlib import Path
import subprocess
import sys
import threading

from bag_filler import message, TOPICS
import pytest
from rosbags.rosbag2 import Reader
from vqbet_ros.errors import BadBag
from vqbet_ros.recording.bag import BagOptions, BagWriter, is_whole, Topic
from vqbet_ros.recording.recovery import recover
from vqbet_ros.recording.writer import EpisodeWriter, OVERHEAD_BYTES

PATIENCE_S = 30.0
A, B = Topic('/a', 'std_msgs/msg/String'), Topic('/b', 'sensor_msgs/msg/Image')


class SlowDisk(BagWriter):
    """A bag on a disk that does not answer before it is told to."""

    def __init__(self, path, stuck, options=None):
        super().__init__(path, options or BagOptions(chunk_bytes=1), {})
        self.answers = {name: threading.Event() for name in ('write', 'sync')}
        self.asked = {name: threading.Event() for name in ('write', 'sync')}
        for name in self.answers:
            if name != stuck:
                self.answers[name].set()

    def _wait_for(self, name):
        self.asked[name].set()
        assert self.answers[name].wait(PATIENCE_S)

    def write(self, *message):
        self._wait_for('write')
        super().write(*message)

    def sync(self):
        self._wait_for('sync')
        super().sync()


class BrokenDisk(BagWriter):
    """A bag on a disk that fails at a given call of a given method."""

    def __init__(self, path, method, call):
        super().__init__(path, BagOptions(chunk_bytes=1000), {})
        self.calls = 0
        self.failed = threading.Event()
        original = getattr(self, method)

        def fail(*args):
            self.calls += 1
            if self.calls == call:
                self.failed.set()
                raise OSError(5, 'Input/output error', 'the disk')
            return original(*args)

        setattr(self, method, fail)


def read(path):
    with Reader(path) as bag:
        return [(c.topic, t, bytes(data)) for c, t, data in bag.messages()]


def test_all_that_was_taken_is_in_the_bag(tmp_path):
    bag = BagWriter(tmp_path / 'e', BagOptions(), {})
    a, b = bag.add_topic(A), bag.add_topic(B)
    seen = []
    writer = EpisodeWriter(bag, queue_bytes=10**8, on_message=lambda *m: seen.append(m))
    offered = [(b if n % 3 else a, bytes([n]) * n * 300, 10 * n, 5 * n, n) for n in range(200)]
    assert all(writer.put(*item) for item in offered)
    summary = writer.close({'x': 'y'}, PATIENCE_S)
    assert summary.messages == {'/a': 67, '/b': 133}
    assert (summary.start_ns, summary.end_ns) == (0, 1990)
    assert seen == offered
    assert writer.lost == {}
    assert writer.queued_bytes == 0
    assert writer.written_bytes == summary.bytes == (tmp_path / 'e/e_0.mcap').stat().st_size
    names = {a: '/a', b: '/b'}
    assert read(tmp_path / 'e') == [(names[c], t, data) for c, data, t, _, _ in offered]
    assert writer.close({}, PATIENCE_S) == summary  # a second time changes nothing
    with pytest.raises(BadBag, match='after the episode was closed'):
        writer.put(a, b'', 0, 0)


def test_many_threads_may_put(tmp_path):
    bag = BagWriter(tmp_path / 'e', BagOptions(), {})
    channels = [bag.add_topic(A), bag.add_topic(B)]
    writer = EpisodeWriter(bag, queue_bytes=10**8)
    threads = [
        threading.Thread(
            target=lambda i=i: [writer.put(channels[i % 2], bytes(8), n, n, n) for n in range(500)]
        )
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert writer.close({}, PATIENCE_S).messages == {'/a': 1500, '/b': 1500}


def test_a_stuck_disk_fills_the_queue_and_not_the_memory(tmp_path):
    bag = SlowDisk(tmp_path / 'e', stuck='write')
    a, b = bag.add_topic(A), bag.add_topic(B)
    bound = 100_000
    writer = EpisodeWriter(bag, queue_bytes=bound)
    assert writer.put(a, bytes(100), 0, 0)
    assert bag.asked['write'].wait(PATIENCE_S)
    # The thread is in the disk now, and stays there: put returns all the same.
    taken: Counter[int] = Counter({a: 1})
    refused: Counter[int] = Counter()
    for n in range(1, 1001):
        channel, size = (b, 1000) if n % 4 == 0 else (a, 10)
        (taken if writer.put(channel, bytes(size), n, n) else refused)[channel] += 1
        assert writer.queued_bytes <= bound
    assert writer.lost == dict(refused)
    assert writer.failure is None
    # Nothing more of the larger ones fits, and the bound is used.
    assert writer.queued_bytes > bound - 1000 - OVERHEAD_BYTES
    assert taken[a] + taken[b] + refused[a] + refused[b] == 1001
    with pytest.raises(BadBag, match=r'did not take the episode within 0\.01 s: \d+ messages'):
        writer.close({}, timeout=0.01)
    bag.answers['write'].set()
    summary = writer.close({}, PATIENCE_S)
    assert summary.messages == {'/a': taken[a], '/b': taken[b]}
    assert writer.lost == dict(refused)
    assert is_whole(tmp_path / 'e')


def test_a_message_larger_than_the_queue_is_counted(tmp_path):
    bag = BagWriter(tmp_path / 'e', BagOptions(), {})
    a = bag.add_topic(A)
    writer = EpisodeWriter(bag, queue_bytes=1000)
    assert not writer.put(a, bytes(1000), 0, 0)
    assert writer.put(a, bytes(1000 - OVERHEAD_BYTES), 0, 0)
    assert writer.close({}, PATIENCE_S).messages == {'/a': 1}
    assert writer.lost == {a: 1}


def test_waiting_for_the_disk_does_not_keep_messages_from_the_file(tmp_path):
    # What reached the operating system survives a killed program, even if the disk is busy.
    bag = SlowDisk(tmp_path / 'e', stuck='sync')
    a = bag.add_topic(A)
    arrived = threading.Semaphore(0)
    writer = EpisodeWriter(
        bag, queue_bytes=10**6, flush_every_s=0.0, on_message=lambda *_: arrived.release()
    )
    writer.put(a, b'first', 0, 0)
    assert bag.asked['sync'].wait(PATIENCE_S)
    for n in range(1, 50):
        assert writer.put(a, bytes(10), n, n)
        assert arrived.acquire(timeout=PATIENCE_S)
    assert arrived.acquire(timeout=PATIENCE_S)
    assert bag.counts[a] == 50
    bag.answers['sync'].set()
    assert writer.close({}, PATIENCE_S).messages == {'/a': 50}


def test_what_is_older_than_the_period_is_flushed(tmp_path):
    # No chunk is full, nothing more comes, and nobody closes: the clock alone does it.
    synced = threading.Event()

    class Watched(BagWriter):
        def sync(self):
            super().sync()
            synced.set()

    bag = Watched(tmp_path / 'e', BagOptions(chunk_bytes=10**9), {})
    a = bag.add_topic(A)
    writer = EpisodeWriter(bag, queue_bytes=10**6, flush_every_s=0.05)
    writer.put(a, b'alone', 7, 7)
    assert synced.wait(PATIENCE_S)
    assert bag.counts == {a: 1}
    assert recover_copy(tmp_path, tmp_path / 'e') == [('/a', 7, b'alone')]
    writer.close({}, PATIENCE_S)


def recover_copy(tmp_path, path):
    """Read what a kill at this moment would leave."""
    copy = tmp_path / 'killed' / path.name
    copy.mkdir(parents=True)
    (copy / f'{path.name}_0.mcap').write_bytes((path / f'{path.name}_0.mcap').read_bytes())
    recover(copy)
    return read(copy)


@pytest.mark.parametrize(('method', 'call'), [('write', 20), ('close_chunk', 1), ('sync', 1)])
def test_a_failing_disk_is_told_and_counted(tmp_path, method, call):
    bag = BrokenDisk(tmp_path / 'e', method, call)
    a, b = bag.add_topic(A), bag.add_topic(B)
    writer = EpisodeWriter(bag, queue_bytes=10**6, flush_every_s=0.02)
    taken: Counter[int] = Counter()
    for n in range(30):
        channel = b if n % 2 else a
        taken[channel] += writer.put(channel, bytes(100), n, n)
    assert bag.failed.wait(PATIENCE_S)
    while writer.failure is None:  # the disk has failed; the thread is about to say so
        assert writer._thread.is_alive()
    assert 'Input/output error' in writer.failure
    assert not writer.put(a, b'', 40, 40)
    summary = writer.close({}, PATIENCE_S)
    offered = {a: 16, b: 15}
    held = {a: summary.messages['/a'], b: summary.messages['/b']}
    for channel in (a, b):
        assert held[channel] + writer.lost.get(channel, 0) == offered[channel]
    assert is_whole(tmp_path / 'e')  # up to there
    assert len(read(tmp_path / 'e')) == held[a] + held[b]


def test_a_bug_in_the_audit_is_a_failure_and_not_silence(tmp_path, monkeypatch):
    shown: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, 'excepthook', shown.append)

    def audit(*_):
        raise ZeroDivisionError

    bag = BagWriter(tmp_path / 'e', BagOptions(), {})
    a = bag.add_topic(A)
    writer = EpisodeWriter(bag, queue_bytes=10**6, on_message=audit)
    writer.put(a, b'x', 0, 0)
    summary = writer.close({}, PATIENCE_S)
    assert 'ZeroDivisionError' in str(writer.failure)
    assert shown[0].exc_type is ZeroDivisionError
    assert summary.messages == {'/a': 1}
    assert writer.lost == {}


def test_what_is_refused_at_once(tmp_path):
    bag = BagWriter(tmp_path / 'e', BagOptions(), {})
    a = bag.add_topic(A)
    with pytest.raises(ValueError, match='queue_bytes: got 0'):
        EpisodeWriter(bag, queue_bytes=0)
    writer = EpisodeWriter(bag, queue_bytes=1000)
    with pytest.raises(ValueError, match='times: got -1 and 0 ns'):
        writer.put(a, b'', -1, 0)
    writer.close({}, PATIENCE_S)


# --- full disks


def fill(path, *arguments):
    """Record as fast as can be until the disk is full; return what the program told at its end."""
    command = [sys.executable, str(Path(__file__).with_name('bag_filler.py')), str(path)]
    result = subprocess.run(
        [*command, '--rate', '0', *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def numbers_of(messages):
    return [int.from_bytes(data[4:12], 'little') for _, _, data in messages]


def is_what_was_sent(messages):
    made = (message(number) for number in numbers_of(messages))
    return messages == [(TOPICS[topic].name, log, payload) for topic, payload, log, _, _ in made]


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 8 MB, where one may."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'none', str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip('mounting a small disk needs root')
    yield disk
    subprocess.run(['umount', str(disk)], check=True)


def check_full(told, path, why):
    assert why in told['failure']
    assert told['closed'] == ''
    for topic in TOPICS:
        held, lost = told['held'][topic.name], told['lost'].get(topic.name, 0)
        assert held + lost == told['offered'][topic.name]
    assert is_whole(path)
    messages = read(path)
    assert is_what_was_sent(messages)
    assert Counter(name for name, _, _ in messages) == told['held']
    # What was refused while the queue was full apart, the bag ends where the disk did.
    assert sum(told['held'].values()) > 100


def test_a_full_disk_ends_the_episode_and_keeps_it(small_disk):
    check_full(fill(small_disk / 'e'), small_disk / 'e', 'No space left on device')


@pytest.mark.parametrize('compression', ['none', 'zstd'])
def test_a_full_quota_ends_the_episode_and_keeps_it(tmp_path, compression):
    path = tmp_path / 'e'
    told = fill(path, '--limit-bytes', 8_000_000, '--compression', compression)
    check_full(told, path, 'File too large')


def test_a_disk_too_full_for_the_end_leaves_what_can_be_recovered(tmp_path):
    # With a chunk for each small message, the summary is larger than the one that did not fit.
    path = tmp_path / 'e'
    told = fill(path, '--limit-bytes', 300_000, '--chunk-bytes', 1, '--small')
    assert 'File too large' in told['failure']
    assert 'could not be finished' in told['closed']
    assert not is_whole(path)
    recovery = recover(path)
    held = {name: told['offered'][name] - told['lost'].get(name, 0) for name in recovery.messages}
    assert recovery.messages == held
    assert is_what_was_sent(read(path))
