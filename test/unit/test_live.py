"""A bag that is being recorded is taken for nothing else."""

import errno
import fcntl
import os
from pathlib import Path
import signal
import subprocess
import sys

from bag_filler import message, TOPICS
import pytest
from vqbet_ros.cli.main import main
from vqbet_ros.data.bag import Bag
from vqbet_ros.data.live import is_being_recorded
from vqbet_ros.errors import BadBag
from vqbet_ros.recording import bag as writing
from vqbet_ros.recording.bag import BagOptions, BagWriter
from vqbet_ros.recording.folder import write_information
from vqbet_ros.recording.recovery import recover
from vqbet_ros.recording.unfinished import Unfinished, unfinished

COUNT = 40


@pytest.fixture
def running(tmp_path):
    """Begin a bag, and put half of its messages into it."""
    bag = BagWriter(tmp_path / 'e', BagOptions(), {})
    channels = [bag.add_topic(topic) for topic in TOPICS]
    fill(bag, channels, 0)
    bag.flush()
    yield bag, channels
    bag.abandon()


def fill(bag, channels, first):
    for number in range(first, first + COUNT // 2):
        topic, payload, *rest = message(number)
        bag.write(channels[topic], payload, *rest)


def test_a_running_recording_is_left_alone_and_goes_on(running, tmp_path, capsys):
    bag, channels = running
    assert is_being_recorded(bag.path)
    assert unfinished(tmp_path) == []
    with pytest.raises(BadBag, match='is being recorded, or recovered by another program: wait'):
        recover(bag.path)
    assert main(['recover', str(bag.path)]) == 1
    assert 'is being recorded' in capsys.readouterr().err
    for path in (bag.path, bag.path / 'e_0.mcap'):
        with pytest.raises(BadBag, match='is being recorded, or recovered: wait until'):
            Bag.open(path)
    fill(bag, channels, COUNT // 2)
    bag.close({})
    assert not is_being_recorded(bag.path)
    assert len(list(Bag.open(bag.path).messages())) == COUNT
    assert [path.name for path in tmp_path.iterdir()] == ['e']
    assert not recover(bag.path).repaired


def test_it_is_held_until_its_metadata_is_there(running, monkeypatch):
    bag, _ = running
    seen = []

    def write(path, information):
        seen.append(is_being_recorded(path))
        original(path, information)

    original = write_information
    monkeypatch.setattr(writing, 'write_information', write)
    bag.close({})
    assert seen == [True]
    assert not is_being_recorded(bag.path)


def test_a_bag_that_could_not_be_ended_is_let_go(running, tmp_path, monkeypatch):
    bag, _ = running

    def fail(path, information):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(writing, 'write_information', fail)
    with pytest.raises(OSError, match='No space'):
        bag.close({})
    assert [one.path for one in unfinished(tmp_path)] == [bag.path]


def test_a_killed_recorder_holds_nothing(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name('bag_filler.py')), tmp_path / 'e']
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert child.stdout is not None
    assert b'ready' in child.stdout.readline()
    assert unfinished(tmp_path) == []
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=20)
    assert [one.path for one in unfinished(tmp_path)] == [tmp_path / 'e']
    assert recover(tmp_path / 'e').repaired


def test_a_bag_that_is_recovered_is_held_too(running, tmp_path):
    bag, _ = running
    bag.abandon()
    tried: list[list[Unfinished]] = []

    def progress(done, total):
        if not tried:
            tried.append(unfinished(tmp_path))
            with pytest.raises(BadBag, match='recovered by another program'):
                recover(bag.path)

    assert recover(bag.path, progress).repaired
    assert tried == [[]]
    assert not is_being_recorded(bag.path)


def test_what_nobody_can_hold_counts_as_not_recorded(running, tmp_path, monkeypatch):
    # As some network file systems answer.
    bag, _ = running

    def flock(file, operation):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', flock)
    assert not is_being_recorded(bag.path)
    assert [one.path for one in unfinished(tmp_path)] == [bag.path]
    other = BagWriter(tmp_path / 'f', BagOptions(), {})
    other.close({})
    bag.abandon()
    (tmp_path / 'e.recovering').mkdir()  # perhaps of a recovery that is at work
    with pytest.raises(BadBag, match=r'another recovery is at work.*rm -r .*e\.recovering'):
        recover(bag.path)
    (tmp_path / 'e.recovering').rmdir()
    assert recover(bag.path).repaired


def test_where_there_is_nothing_nothing_is_recorded(tmp_path):
    assert not is_being_recorded(tmp_path)
    assert not is_being_recorded(tmp_path / 'absent')


def test_a_read_only_file_is_recovered(running, monkeypatch):
    bag, _ = running
    bag.abandon()
    (bag.path / 'e_0.mcap').chmod(0o444)
    monkeypatch.setattr(os, 'access', lambda path, mode: False)  # root may write to every file
    assert recover(bag.path).repaired
