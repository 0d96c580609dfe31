"""The dataset on disk: what is written comes back, and nothing that is cut short hurts it."""

import dataclasses
import itertools
import json
import os
from pathlib import Path
import resource as limits
import subprocess
import sys
import tempfile

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.data import layout
from vqbet_ros.data import writer as writer_module
from vqbet_ros.data.episode import Episode
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.errors import BadDataset, SpecMismatch
from vqbet_ros.spec import RobotSpec

SPEC = RobotSpec.from_text(
    """
robot: test
rate_hz: 10.0
cameras:
  - {name: top, topic: /top, type: sensor_msgs/msg/Image, height: 8, width: 6, rate_hz: 10.0,
     max_age_s: 0.25}
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [a, b], unit: rad,
     rate_hz: 50.0, max_age_s: 0.1}
action:
  names: [a, b]
  unit: rad
  record_topic: /commands
  record_type: std_msgs/msg/Float64MultiArray
  command_topic: /commands
  limits: {a: {position: [-1.0, 1.0]}, b: {position: [-1.0, 1.0]}}
""",
    'test',
)
TARGETS = ('t0', 't1', 't2')


def episode(steps, seed=0):
    rng = np.random.default_rng(seed)
    return Episode(
        state=rng.normal(size=(steps, 2)).astype(np.float32),
        action=rng.normal(size=(steps, 2)).astype(np.float32),
        images={'top': rng.integers(0, 256, (steps, 8, 6, 3)).astype(np.uint8)},
        targets=rng.normal(size=(steps, 3)).astype(np.float32),
    )


def write(path, lengths, **kwargs):
    with DatasetWriter(path, SPEC, 'made up', TARGETS, **kwargs) as writer:
        for seed, steps in enumerate(lengths):
            writer.add(episode(steps, seed))
    return writer


def check(path, lengths):
    """Assert that the dataset holds exactly the episodes that `write` makes."""
    dataset = Dataset.open(path)
    assert dataset.episode_ends.tolist() == np.cumsum(lengths).tolist()
    assert dataset.num_frames == sum(lengths)
    assert dataset.targets is not None
    for seed, steps in enumerate(lengths):
        expected, frames = episode(steps, seed), dataset.episode(seed)
        np.testing.assert_array_equal(dataset.state[frames], expected.state)
        np.testing.assert_array_equal(dataset.action[frames], expected.action)
        np.testing.assert_array_equal(dataset.targets[frames], expected.targets)
        np.testing.assert_array_equal(dataset.images['top'][frames], expected.images['top'])
    return dataset


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'dataset'


def test_round_trip(path):
    writer = write(path, [5, 1, 9])
    assert (writer.num_episodes, writer.num_frames) == (3, 15)
    dataset = check(path, [5, 1, 9])
    assert dataset.spec == SPEC
    assert dataset.target_names == TARGETS
    assert dataset.source == 'made up'
    assert dataset.num_episodes == 3
    assert not dataset.state.flags.writeable
    for index in (-1, 3):
        with pytest.raises(IndexError):
            dataset.episode(index)


def test_the_files_are_plain_npy(path):
    write(path, [5, 4])
    assert np.load(path / 'state.npy').shape == (9, 2)
    assert np.load(path / 'images_top.npy').shape == (9, 8, 6, 3)
    assert np.load(path / 'episode_ends.npy').tolist() == [5, 9]


def test_a_spec_without_state_and_targets(path):
    only_images = RobotSpec(SPEC.robot, SPEC.rate_hz, SPEC.action, SPEC.cameras, ())
    first = episode(4)
    with DatasetWriter(path, only_images, 'made up') as writer:
        writer.add(Episode(first.state[:, :0], first.action, first.images))
    dataset = Dataset.open(path)
    assert dataset.state.shape == (4, 0)
    assert dataset.targets is None


def test_appending_after_reopening(path):
    write(path, [5, 3])
    with DatasetWriter(path, SPEC, 'more', TARGETS) as writer:
        assert (writer.num_episodes, writer.num_frames) == (2, 8)
        writer.add(episode(7, seed=2))
    dataset = check(path, [5, 3, 7])
    assert dataset.source == 'made up; more'


def test_an_open_dataset_does_not_see_what_is_appended(path):
    write(path, [5])
    before = Dataset.open(path)
    with DatasetWriter(path, SPEC, 'made up', TARGETS) as writer:
        writer.add(episode(7, seed=1))
    assert before.num_frames == 5
    np.testing.assert_array_equal(before.state, episode(5, 0).state)


@pytest.mark.parametrize('lengths', [[], [5], [5, 3]])
def test_a_kill_in_the_middle_of_an_episode_loses_only_that_one(path, lengths):
    write(path, lengths)
    # Rows without a header that counts them, then a header without an entry in dataset.json.
    with (path / 'images_top.npy').open('ab') as file:
        file.write(b'\x7f' * 1000)
    with (path / 'state.npy').open('r+b') as file:
        file.seek(0, os.SEEK_END)
        file.write(b'\xff' * 16)
        file.seek(0)
        file.write(layout.npy_header(np.dtype(np.float32), (sum(lengths) + 2, 2)))
    (path / 'dataset.json.tmp').write_text('{"vers')
    if lengths:
        check(path, lengths)
    with DatasetWriter(path, SPEC, 'made up', TARGETS) as writer:
        writer.add(episode(4, seed=len(lengths)))
    check(path, [*lengths, 4])


def test_ends_that_are_ahead_of_the_index_are_ignored(path):
    write(path, [5])
    kept = (path / 'dataset.json').read_bytes()
    with DatasetWriter(path, SPEC, 'made up', TARGETS) as writer:
        writer.add(episode(3, seed=1))
    (path / 'dataset.json').write_bytes(kept)
    check(path, [5])


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import test_store
with test_store.DatasetWriter(sys.argv[2], test_store.SPEC, 'made up', test_store.TARGETS) as w:
    for seed in range(100000):
        w.add(test_store.episode(40, seed))
        print(seed, flush=True)
"""


def test_a_killed_process_leaves_the_episodes_before(path):
    command = [sys.executable, '-c', KILLED, os.path.dirname(__file__), str(path)]  # noqa: PTH120
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(7):
            process.stdout.readline()
        process.kill()
    episodes = Dataset.open(path).num_episodes
    assert episodes >= 7
    check(path, [40] * episodes)


def test_a_full_disk_keeps_the_episodes_before(path):
    """A limit on the size of files stands in for the disk; the error is of the same kind."""
    write(path, [5])
    soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
    writer = DatasetWriter(path, SPEC, 'made up', TARGETS)
    big = episode(2000, seed=1)
    limits.setrlimit(limits.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(BadDataset) as caught:
            writer.add(big)
    finally:
        limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))
    message = str(caught.value)
    assert f'({2000 * (144 + 8 + 8 + 12)} bytes) to {path}' in message
    assert 'the 1 episode(s) before it are kept' in message
    check(path, [5])
    assert (path / 'images_top.npy').stat().st_size == layout.HEADER_BYTES + 5 * 144
    writer.add(episode(3, seed=1))
    check(path, [5, 3])


def test_a_disk_too_full_for_a_new_dataset(path):
    soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
    limits.setrlimit(limits.RLIMIT_FSIZE, (200, hard))  # enough for a lock
    try:
        with pytest.raises(BadDataset, match=f'cannot make a dataset in {path}'):
            DatasetWriter(path, SPEC, 'made up', TARGETS)
    finally:
        limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))


def test_an_episode_that_does_not_fit_is_refused_and_nothing_is_written(path):
    writer = write(path, [5])
    whole = episode(4)
    with pytest.raises(BadDataset) as caught:
        writer.add(Episode(whole.state[:, :1], whole.action, {}, None))
    assert 'state: got 1 columns, expected 2' in str(caught.value)
    assert "images of 'top': missing" in str(caught.value)
    assert 'targets: got 0 columns, expected 3' in str(caught.value)
    check(path, [5])


def test_no_dataset(tmp_path):
    with pytest.raises(BadDataset, match='no such directory'):
        Dataset.open(tmp_path / 'absent')
    with pytest.raises(BadDataset, match=r'not a dataset \(expected dataset.json'):
        Dataset.open(tmp_path)


def test_a_dataset_without_episodes_does_not_open(path):
    write(path, [])
    with pytest.raises(BadDataset, match='holds no episode yet'):
        Dataset.open(path)


def test_the_writer_refuses_a_directory_that_holds_something_else(tmp_path):
    (tmp_path / 'thesis.tex').write_text('precious')
    (tmp_path / layout.LOCK).write_text("an editor's")
    with pytest.raises(BadDataset, match='not a dataset'):
        DatasetWriter(tmp_path, SPEC, 'made up')
    assert (tmp_path / layout.LOCK).read_text() == "an editor's"
    (tmp_path / layout.LOCK).unlink()
    with pytest.raises(BadDataset, match='not a dataset'):
        DatasetWriter(tmp_path / 'thesis.tex', SPEC, 'made up')
    with pytest.raises(BadDataset, match='cannot make and lock'):
        DatasetWriter(tmp_path / 'thesis.tex' / 'below', SPEC, 'made up')
    assert [item.name for item in tmp_path.iterdir()] == ['thesis.tex']


def test_the_writer_refuses_another_spec_or_other_targets(path):
    write(path, [5])
    faster = RobotSpec(SPEC.robot, 20.0, SPEC.action, SPEC.cameras, SPEC.state)
    with pytest.raises(SpecMismatch, match='rate_hz: 10, 20'):
        DatasetWriter(path, faster, 'made up', TARGETS)
    with pytest.raises(BadDataset, match='its targets are'):
        DatasetWriter(path, SPEC, 'made up', ('t0',))
    with pytest.raises(BadDataset, match='each demonstration 1 time'):
        DatasetWriter(path, SPEC, 'made up', TARGETS, copies=2)
    check(path, [5])


@pytest.mark.parametrize('version', [None, 0, 2, '1'])
def test_an_unknown_version(path, version):
    write(path, [5])
    edit(path, version=version)
    with pytest.raises(BadDataset, match=f'got version {version!r}, expected 1'):
        Dataset.open(path)
    with pytest.raises(BadDataset, match='version'):
        DatasetWriter(path, SPEC, 'made up', TARGETS)


def test_a_broken_index(path):
    write(path, [5])
    edit(path, num_frames=-1, source=7, target_names=[1], copies=0)
    with pytest.raises(BadDataset) as caught:
        Dataset.open(path)
    for problem in (
        'num_frames: got -1',
        'source: got 7',
        'target_names: got [1]',
        'copies: got 0',
    ):
        assert problem in str(caught.value)
    (path / 'dataset.json').write_text('{')
    with pytest.raises(BadDataset, match='not valid JSON'):
        Dataset.open(path)


def test_a_broken_spec(path):
    write(path, [5])
    (path / 'spec.yaml').write_text('robot: 3')
    with pytest.raises(BadDataset, match='its spec cannot be read'):
        Dataset.open(path)


def test_every_problem_of_the_arrays_is_listed(path):
    write(path, [5, 4])
    np.save(path / 'state.npy', np.zeros((8, 2), np.float32))
    np.save(path / 'action.npy', np.full((9, 2), np.nan, np.float32))
    np.save(path / 'targets.npy', np.zeros((9, 3), np.float64))
    np.save(path / 'episode_ends.npy', np.array([9, 5]))
    with (path / 'images_top.npy').open('r+b') as file:
        file.truncate(300)
    with pytest.raises(BadDataset) as caught:
        Dataset.open(path)
    message = str(caught.value)
    assert f'{path}: 6 problem(s)' in message
    assert 'state.npy: got 8 rows, expected 9' in message
    assert 'action.npy: 18 value(s) are NaN or infinite, the first in row 0' in message
    assert 'targets.npy: got dtype float64, expected float32' in message
    assert 'images_top.npy: broken or cut short' in message
    assert 'episode_ends.npy: not strictly increasing' in message
    assert 'episode_ends.npy: ends at 5, expected 9 frames' in message


def test_arrays_of_another_width_missing_or_pickled(path):
    write(path, [5])
    np.save(path / 'images_top.npy', np.zeros((5, 6, 8, 3), np.uint8))
    np.save(path / 'action.npy', np.array([{}] * 5), allow_pickle=True)
    (path / 'state.npy').unlink()
    with pytest.raises(BadDataset) as caught:
        Dataset.open(path)
    message = str(caught.value)
    assert 'images_top.npy: got rows of (6, 8, 3), expected (8, 6, 3)' in message
    assert 'action.npy: broken' in message
    assert 'state.npy: missing' in message


def test_the_header_is_numpys_own(tmp_path):
    for dtype, shape in (
        (np.uint8, (10**9, 1080, 1920, 3)),
        (np.int64, (0,)),
        (np.float32, (3, 0)),
    ):
        header = layout.npy_header(np.dtype(dtype), shape)
        assert len(header) == layout.HEADER_BYTES
        (tmp_path / 'header').write_bytes(header)
        with (tmp_path / 'header').open('rb') as file:
            assert np.lib.format.read_magic(file) == (1, 0)
            read = np.lib.format.read_array_header_1_0(file)
        assert read == (shape, False, np.dtype(dtype))


def edit(path, **values):
    index = json.loads((path / 'dataset.json').read_text())
    (path / 'dataset.json').write_text(json.dumps({**index, **values}))


def pieces_of(whole, at):
    """Cut an episode into pieces at some steps."""
    for first, last in itertools.pairwise([0, *at, whole.length]):
        rows = slice(first, last)
        assert whole.targets is not None
        images = {name: array[rows] for name, array in whole.images.items()}
        yield Episode(whole.state[rows], whole.action[rows], images, whole.targets[rows])


@given(st.integers(2, 30), st.data())
def test_an_episode_in_pieces_is_the_episode(steps, data):
    at = sorted(data.draw(st.sets(st.integers(1, steps - 1))))
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / 'whole', Path(folder) / 'cut'
        write(whole, [steps, 4])
        with DatasetWriter(cut, SPEC, 'made up', TARGETS) as writer:
            writer.add_pieces(pieces_of(episode(steps, 0), at))
            writer.add(episode(4, 1))
        names = sorted(file.name for file in whole.iterdir())
        assert sorted(file.name for file in cut.iterdir()) == names
        for name in names:
            assert (cut / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize('error', [KeyboardInterrupt, BadDataset, OSError])
def test_what_ends_in_the_middle_of_an_episode_leaves_those_before(path, error):
    writer = write(path, [5])
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def interrupted():
        yield from pieces_of(episode(6, 1), [2, 4])
        raise error

    with pytest.raises(BadDataset if error is OSError else error):
        writer.add_pieces(interrupted())
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    writer.add(episode(3, 1))
    check(path, [5, 3])


def test_an_episode_without_pieces_is_refused(path):
    writer = write(path, [5])
    with pytest.raises(BadDataset, match=r'episode 1 for .* has no steps'):
        writer.add_pieces([])
    check(path, [5])


def test_a_dataset_is_appended_to_another(path, tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, 'COPY_BYTES', 3 * 8 * 6 * 3)  # pieces of 3 frames
    with DatasetWriter(tmp_path / 'part', SPEC, 'made up', TARGETS, durable=False) as part:
        part.add(episode(7, 1), 'success')
        part.add(episode(3, 2), 'failure')
    writer = write(path, [5])
    writer.extend(Dataset.open(tmp_path / 'part'))
    assert writer.ends == (5, 12, 15)
    assert check(path, [5, 7, 3]).outcomes == ('unmarked', 'success', 'failure')
    other = dataclasses.replace(SPEC, rate_hz=20.0)
    with DatasetWriter(tmp_path / 'faster', other, 'made up', TARGETS) as faster:
        faster.add(episode(2, 3))
    with pytest.raises(SpecMismatch, match='rate_hz: 10, 20'):
        writer.extend(Dataset.open(tmp_path / 'faster'))
    check(path, [5, 7, 3])


def test_outcomes(path):
    with DatasetWriter(path, SPEC, 'made up', TARGETS) as writer:
        writer.add(episode(3, 0), 'success')
        writer.add(episode(3, 1), 'failure')
        writer.add(episode(3, 2), 'incomplete')
    assert check(path, [3, 3, 3]).outcomes == ('success', 'failure', 'incomplete')
    write(path, [])  # continues, adds nothing
    with DatasetWriter(path, SPEC, 'made up', TARGETS) as writer:
        writer.add(episode(3, 3))
        writer.relabel(range(1, 3), 'unmarked')
    expected = ('success', 'unmarked', 'unmarked', 'unmarked')
    assert check(path, [3, 3, 3, 3]).outcomes == expected
    edit(path, outcomes=['success', 'won', 'unmarked', 'unmarked'])
    with pytest.raises(BadDataset, match=r'outcomes: got .*expected one of success, failure'):
        Dataset.open(path)
    edit(path, outcomes=['success'])
    with pytest.raises(BadDataset, match='for each episode'):
        Dataset.open(path)


def test_a_dataset_of_an_earlier_version_has_unmarked_episodes(path):
    write(path, [5, 3])
    index = json.loads((path / 'dataset.json').read_text())
    del index['outcomes']
    (path / 'dataset.json').write_text(json.dumps(index))
    assert check(path, [5, 3]).outcomes == ('unmarked', 'unmarked')
