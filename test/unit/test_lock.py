"""One writer of a dataset at a time, and a killed one is none."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from vqbet_ros.cli.main import main
from vqbet_ros.data.bag_folders import find_bags
from vqbet_ros.data.episode import Episode
from vqbet_ros.data.layout import LOCK
from vqbet_ros.data.lock import DatasetLock
from vqbet_ros.data.prepare import Preparation
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.errors import BadDataset

HOLD = (
    'import sys; from pathlib import Path; from vqbet_ros.data.lock import DatasetLock\n'
    'lock = DatasetLock(Path(sys.argv[1]))\n'
    'print("held", flush=True)\n'
    'sys.stdin.read()'
)
OPEN = """
import sys
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.writer import DatasetWriter
DatasetWriter(sys.argv[1], Dataset.open(sys.argv[1]).spec, 'a walk')
"""
# Whoever holds the lock finds no other one inside.
TAKE_TURNS = """
import os, sys
from pathlib import Path
from vqbet_ros.data.lock import DatasetLock
from vqbet_ros.errors import BadDataset
folder, turns = Path(sys.argv[1]), 0
while turns < 100:
    try:
        lock = DatasetLock(folder)
    except BadDataset:
        continue
    os.close(os.open(folder / 'inside', os.O_CREAT | os.O_EXCL))
    (folder / 'inside').unlink()
    lock.release()
    turns += 1
"""


def test_one_at_a_time(tmp_path):
    lock = DatasetLock(tmp_path)
    with pytest.raises(BadDataset, match=r'is being written by process \d+ on .*: wait until'):
        DatasetLock(tmp_path)
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    DatasetLock(tmp_path).release()


def test_a_directory_that_was_never_filled_is_taken_away(tmp_path):
    DatasetLock(tmp_path / 'a' / 'new').release()
    assert not (tmp_path / 'a' / 'new').exists()
    lock = DatasetLock(tmp_path / 'filled')
    (tmp_path / 'filled' / 'state.npy').touch()
    lock.release()
    assert [file.name for file in (tmp_path / 'filled').iterdir()] == ['state.npy']


def test_what_cannot_be_locked(tmp_path):
    (tmp_path / 'thesis.tex').touch()
    with pytest.raises(BadDataset, match=r'cannot make and lock .*thesis.tex: '):
        DatasetLock(tmp_path / 'thesis.tex')


def test_a_killed_process_holds_nothing(tmp_path):
    with subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'held\n'
        with pytest.raises(BadDataset, match='is being written by process'):
            DatasetLock(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    DatasetLock(tmp_path).release()


def test_never_two_at_once(tmp_path):
    command = [sys.executable, '-c', TAKE_TURNS, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()


def test_a_second_writer_is_refused_and_leaves_the_rows_of_the_first(tmp_path, make_dataset):
    """It would cut off what the other has added since the index was last written."""
    path = tmp_path / 'dataset'
    spec, before = make_dataset(path, lengths=(3,), camera=False).spec, 3
    episode = Episode(np.ones((5, 2), np.float32), np.ones((5, 2), np.float32), {})

    def pieces():
        yield episode
        refused = subprocess.run(
            [sys.executable, '-c', OPEN, str(path)], capture_output=True, text=True, check=False
        )
        assert refused.returncode == 1
        assert f'is being written by process {os.getpid()}' in refused.stderr
        yield episode

    with DatasetWriter(path, spec, 'a walk') as writer:
        writer.add_pieces(pieces())
    np.testing.assert_array_equal(Dataset.open(path).state[before:], np.ones((10, 2)))
    assert not (path / LOCK).exists()


def test_a_folder_of_other_things_is_refused_before_it_is_locked(tmp_path, write_bag, capfd):
    folder = tmp_path / 'thesis'
    folder.mkdir()
    (folder / LOCK).write_text("an editor's")
    (folder / 'thesis.tex').touch()
    bag = write_bag(tmp_path / 'twig')
    assert main(['prepare', str(bag), str(folder)]) == 1
    assert 'not a dataset' in capfd.readouterr().err
    assert (folder / LOCK).read_text() == "an editor's"


def test_a_second_preparation_is_refused(tmp_path, write_bag, capfd):
    bags, path = tmp_path / 'bags', tmp_path / 'dataset'
    write_bag(bags / 'twig_0')
    with Preparation(find_bags([bags]), path) as first:
        assert main(['prepare', str(bags), str(path)]) == 1
        said = capfd.readouterr().err.strip()
        assert len(said.splitlines()) == 1
        assert 'is being written by process' in said
        assert [done.status for done in first.run(1)] == ['added']
    assert main(['prepare', str(bags), str(path)]) == 0
    assert Dataset.open(path).num_episodes == 1
    assert not (path / LOCK).exists()
