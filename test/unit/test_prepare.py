"""Bags to a dataset: the same whatever the number of processes, only what is new, nothing lost."""

from dataclasses import replace
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cdr_messages as cdr
import numpy as np
import pytest
from vqbet_ros.cli.main import main
from vqbet_ros.data.align import align
from vqbet_ros.data.bag import Bag
from vqbet_ros.data.bag_folders import find_bags
from vqbet_ros.data.manifest import MANIFEST, Manifest
from vqbet_ros.data.prepare import Preparation
from vqbet_ros.data.store import Dataset
from vqbet_ros.errors import BadBag, BadDataset, SpecMismatch
from vqbet_ros.recording.bag import update_custom_data


def content(path):
    """Return all files of a dataset."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def statuses(preparation, jobs=1):
    with preparation:
        return [done.status for done in preparation.run(jobs)]


def entries(path):
    dataset = Dataset.open_unfilled(path)
    manifest = Manifest.read(path, dataset.episode_ends.tolist())
    assert manifest is not None
    return manifest.bags


@pytest.fixture
def bags(tmp_path, write_bag):
    folder = tmp_path / 'bags'
    for seed, outcome in enumerate(('success', 'failure', '')):
        write_bag(folder / f'twig_{seed}', 2.0 + seed, seed, outcome=outcome)
    return folder


def test_a_dataset_is_what_was_aligned(tmp_path, bags, bag_spec):
    preparation = Preparation(find_bags([bags]), tmp_path / 'dataset')
    assert statuses(preparation) == ['added'] * 3
    dataset = Dataset.open(tmp_path / 'dataset')
    assert dataset.num_episodes == 3
    assert dataset.outcomes == ('success', 'failure', 'unmarked')
    assert dataset.spec == bag_spec
    for index in range(3):
        pieces = list(align(Bag.open(bags / f'twig_{index}').messages(), bag_spec))
        frames = dataset.episode(index)
        for name, array in (
            ('state', dataset.state),
            ('action', dataset.action),
        ):
            expected = np.concatenate([getattr(piece, name) for piece in pieces])
            np.testing.assert_array_equal(array[frames], expected)
        images = np.concatenate([piece.images['top'] for piece in pieces])
        np.testing.assert_array_equal(dataset.images['top'][frames], images)
    # 2 s at 10 Hz are 20 frames; the operator's commands are the joints 0.1 s later.
    assert dataset.episode_ends[0] in (19, 20)
    first = dataset.state[:10]
    np.testing.assert_allclose(np.hypot(*first.T), 1.0, atol=1e-3)
    np.testing.assert_allclose(dataset.action[:9], first[1:10], atol=1e-3)
    assert not list((tmp_path / 'dataset').glob('.*'))


def test_the_manifest_says_where_everything_comes_from(tmp_path, bags):
    statuses(Preparation(find_bags([bags]), tmp_path / 'dataset'))
    found = entries(tmp_path / 'dataset')
    assert [bag.name for bag in found] == ['twig_0', 'twig_1', 'twig_2']
    assert [bag.outcome for bag in found] == ['success', 'failure', 'unmarked']
    assert [bag.first_episode for bag in found] == [0, 1, 2]
    assert found[0].sha256 == Bag.open(bags / 'twig_0').sha256()
    assert found[0].task == 'swing'
    assert found[0].rates_hz['/joint_states'] == pytest.approx(50, rel=0.05)
    assert found[0].rates_hz['top'] == pytest.approx(10, rel=0.1)
    ages = found[0].episodes[0].ages
    assert set(ages) == {'top', '/joint_states'}
    assert 0 <= ages['top'].p50_ms <= ages['top'].p99_ms <= ages['top'].max_ms < 250


def test_the_number_of_processes_changes_nothing(tmp_path, bags):
    statuses(Preparation(find_bags([bags]), tmp_path / 'one'), jobs=1)
    statuses(Preparation(find_bags([bags]), tmp_path / 'three'), jobs=3)
    assert content(tmp_path / 'one') == content(tmp_path / 'three')


def test_a_second_run_does_only_what_is_new(tmp_path, bags, write_bag):
    path = tmp_path / 'dataset'
    statuses(Preparation(find_bags([bags]), path))
    before = content(path)
    assert statuses(Preparation(find_bags([bags]), path)) == ['known'] * 3
    assert content(path) == before
    write_bag(bags / 'twig_1b', 1.5, 7)
    shutil.copytree(bags / 'twig_0', bags / 'zz_copy')
    expected = ['known', 'known', 'added', 'known', 'known']
    assert statuses(Preparation(find_bags([bags]), path)) == expected
    assert [bag.name for bag in entries(path)] == ['twig_0', 'twig_1', 'twig_2', 'twig_1b']
    # The same as if all had been there at once, in that order.
    order = [bags / f'twig_{name}' for name in ('0', '1', '2', '1b')]
    statuses(Preparation(order, tmp_path / 'at_once'))
    assert content(tmp_path / 'at_once') == content(path)


def test_an_outcome_that_is_marked_later_is_taken_over(tmp_path, bags):
    path = tmp_path / 'dataset'
    statuses(Preparation(find_bags([bags]), path))
    update_custom_data(bags / 'twig_2', {'vqbet.outcome': 'success'})
    assert statuses(Preparation(find_bags([bags]), path)) == ['known', 'known', 'relabelled']
    assert Dataset.open(path).outcomes == ('success', 'failure', 'success')
    assert entries(path)[2].outcome == 'success'
    assert statuses(Preparation(find_bags([bags]), path)) == ['known'] * 3


def test_a_gap_cuts_drops_or_fails(tmp_path, write_bag):
    bag = write_bag(tmp_path / 'twig', 4.0, lost=(1.5, 2.5))
    statuses(Preparation([bag], tmp_path / 'cut'))
    dataset = Dataset.open(tmp_path / 'cut')
    assert dataset.num_episodes == 2
    assert [len(bag.episodes) for bag in entries(tmp_path / 'cut')] == [2]
    assert 'gap from' in entries(tmp_path / 'cut')[0].problems[0]
    assert statuses(Preparation([bag], tmp_path / 'drop', gaps='drop')) == ['empty']
    assert entries(tmp_path / 'drop')[0].problems
    assert Dataset.open_unfilled(tmp_path / 'drop').num_frames == 0
    assert statuses(Preparation([bag], tmp_path / 'drop', gaps='drop')) == ['known']
    with pytest.raises(BadBag, match=r'twig: 1 gap\(s\), and gaps are not taken'):
        statuses(Preparation([bag], tmp_path / 'fail', gaps='fail'))
    assert Dataset.open_unfilled(tmp_path / 'fail').num_frames == 0


@pytest.fixture
def silent(tmp_path, write_bag, bag_spec):
    """Return what writes a bag whose commands end after 1 of 4 s."""

    def write(max_age_s):
        action = replace(bag_spec.action, record_max_age_s=max_age_s)
        messages = list(Bag.open(write_bag(tmp_path / 'whole', 4.0)).messages())
        until_ns = messages[0].log_ns + 1_000_000_000
        kept = [m for m in messages if m.topic != '/commands' or m.log_ns < until_ns]
        texts = {'vqbet.spec': replace(bag_spec, action=action).to_yaml()}
        return cdr.store_bag(tmp_path / 'silent', kept, texts)

    return write


def test_commands_that_ended_are_told(tmp_path, silent, capfd):
    assert main(['prepare', str(silent(None)), str(tmp_path / 'dataset')]) == 0
    dataset, (bag,) = Dataset.open(tmp_path / 'dataset'), entries(tmp_path / 'dataset')
    (note,) = bag.problems
    # The last command came at 0.904 s; a step's is due at the next one.
    ages_ms = [step * 100 + 100 - 904 for step in range(dataset.num_frames)]
    old = sum(age > 1000 for age in ages_ms)
    assert note.startswith(f'action: at {old} of the {dataset.num_frames} steps from ')
    assert 'older than 1 s (up to 3.' in note
    assert note in capfd.readouterr().err
    ages = bag.episodes[0].command_ages['action']
    assert ages.max_ms == max(ages_ms)
    assert ages.p50_ms < ages.p99_ms <= ages.max_ms
    assert 'Age of the commands, ms: action' in (tmp_path / 'dataset/report.html').read_text()


def test_commands_are_valid_as_long_as_the_spec_says(tmp_path, silent):
    statuses(Preparation([silent(0.25)], tmp_path / 'dataset'))
    (bag,) = entries(tmp_path / 'dataset')
    assert bag.episodes[0].frames in (11, 12)  # 1 s, and until the last command is 0.25 s old
    (note,) = bag.problems
    assert note.startswith('gap from')
    assert 'no command for a, b in the 250 ms before' in note


def test_short_episodes_are_left_out_with_a_word(tmp_path, write_bag):
    bags = [write_bag(tmp_path / 'long', 2.0), write_bag(tmp_path / 'short', 0.4, 1)]
    assert statuses(Preparation(bags, tmp_path / 'dataset', min_steps=10)) == ['added', 'empty']
    assert 'left out: an episode has at least 10' in entries(tmp_path / 'dataset')[1].problems[0]
    assert Dataset.open(tmp_path / 'dataset').num_episodes == 1
    with pytest.raises(BadDataset, match=r'min_steps: 10, 2'):
        Preparation(bags, tmp_path / 'dataset', min_steps=2)


def cut_short(bag):
    """Leave a bag as a killed recorder does."""
    (bag / 'metadata.yaml').unlink()
    file = next(bag.glob('*.mcap'))
    file.write_bytes(file.read_bytes()[:-700])


def test_a_broken_bag_is_reported_and_left_out(tmp_path, bags, write_bag, bag_spec, capfd):
    cut_short(bags / 'twig_1')
    write_bag(bags / 'twig_3', 1.0, 3, custom={'vqbet.outcome': 'won'})
    path = tmp_path / 'dataset'
    arguments = ['prepare', str(bags), str(path), '--jobs', '2']
    assert main([*arguments, '--json', str(tmp_path / 'result.json')]) == 0
    said = capfd.readouterr().err
    assert f'left out: {bags / "twig_1"}: ' in said
    assert f'vqbet recover {bags / "twig_1"}' in said
    assert "outcome is 'won', expected one of success, failure, unmarked, incomplete" in said
    result = json.loads((tmp_path / 'result.json').read_text())
    expected = ['added', 'failed', 'added', 'failed']
    assert [bag['status'] for bag in result['bags']] == expected
    assert result['episodes'] == Dataset.open(path).num_episodes == 2
    before = content(path)
    assert main([*arguments, '--strict']) == 1
    assert 'stopped by --strict' in capfd.readouterr().err
    assert content(path) == before
    # Once it is mended, it is taken.
    write_bag(tmp_path / 'whole', 3.0, 1)
    shutil.rmtree(bags / 'twig_1')
    (tmp_path / 'whole').rename(bags / 'twig_1')
    assert main(arguments) == 0
    assert Dataset.open(path).num_episodes == 3


def test_a_bad_recording_is_told(tmp_path, write_bag, capfd):
    findings = [
        {'kind': 'gap', 'severity': 'bad', 'stream': 'top', 'text': 'gap of 0.3 s'},
        {'kind': 'jitter', 'severity': 'warning', 'stream': 'top', 'text': 'trembles'},
    ]
    for name in ('good', 'bad'):
        audit = json.dumps({'verdict': name, 'findings': findings})
        write_bag(tmp_path / 'bags' / name, 2.0, len(name), custom={'vqbet.audit': audit})
    assert main(['prepare', str(tmp_path / 'bags'), str(tmp_path / 'dataset')]) == 0
    note = "the recorder's audit found it bad: top: gap of 0.3 s"
    notes = [line for line in capfd.readouterr().err.splitlines() if line.startswith('note: ')]
    assert notes == [f'note: {tmp_path / "bags/bad"}: {note}']
    assert [bag.problems for bag in entries(tmp_path / 'dataset')] == [(note,), ()]


def test_bags_without_a_spec_need_one(tmp_path, write_bag, bag_spec, capfd):
    bag = write_bag(tmp_path / 'foreign', 2.0, spec=None)
    assert main(['prepare', str(bag), str(tmp_path / 'dataset')]) == 1
    assert 'name their spec with --spec' in capfd.readouterr().err
    assert not (tmp_path / 'dataset').exists()
    (tmp_path / 'twig.yaml').write_text(bag_spec.to_yaml())
    spec = ['--spec', str(tmp_path / 'twig.yaml')]
    assert main(['prepare', str(bag), str(tmp_path / 'dataset'), *spec]) == 0
    own = write_bag(tmp_path / 'own', 2.0)
    assert main(['prepare', str(own), str(tmp_path / 'own_dataset')]) == 0
    one, other = Dataset.open(tmp_path / 'dataset'), Dataset.open(tmp_path / 'own_dataset')
    np.testing.assert_array_equal(one.images['top'], other.images['top'])


def test_a_dataset_of_another_spec_is_refused_with_all_differences(tmp_path, bags, bag_spec):
    path = tmp_path / 'dataset'
    statuses(Preparation(find_bags([bags]), path))
    before = content(path)
    camera = replace(bag_spec.cameras[0], height=4, width=6)
    other = replace(bag_spec, rate_hz=5.0, cameras=(camera,))
    with pytest.raises(SpecMismatch) as caught:
        Preparation(find_bags([bags]), path, spec=other)
    for difference in ('rate_hz: 10, 5', 'camera top, height x width: 8 x 12, 4 x 6'):
        assert difference in str(caught.value)
    with pytest.raises(BadDataset, match=r'gaps: cut, drop'):
        Preparation(find_bags([bags]), path, gaps='drop')
    assert content(path) == before


def test_a_bag_of_another_spec_is_left_out(tmp_path, bags, write_bag, bag_spec):
    write_bag(bags / 'zz', 2.0, 9, spec=replace(bag_spec, robot='branch', rate_hz=20.0))
    with Preparation(find_bags([bags]), tmp_path / 'dataset') as preparation:
        *_, last = preparation.run(1)
    assert last.status == 'failed'
    for difference in ('robot: twig, branch', 'rate_hz: 10, 20'):
        assert difference in str(last.error)


def test_finding_bags(tmp_path, bags, write_bag):
    (bags / '.discarded').mkdir()
    write_bag(bags / '.discarded' / 'twig_9', 1.0, 9)
    write_bag(bags / 'monday' / 'twig_5', 1.0, 5)
    names = [path.name for path in find_bags([bags, bags / 'twig_0'])]
    assert names == ['twig_5', 'twig_0', 'twig_1', 'twig_2']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(BadBag) as caught:
        find_bags([tmp_path / 'empty', tmp_path / 'absent', bags])
    assert f'{tmp_path / "empty"}: no bag' in str(caught.value)
    assert f'{tmp_path / "absent"}: no such file' in str(caught.value)


def names_in(folder):
    return [str(path.relative_to(folder)) for path in find_bags([folder])]


def test_what_a_recovery_leaves_is_no_bag(bags, write_bag):
    """The original, set aside; and the copy of a recovery that was interrupted."""
    shutil.copytree(bags / 'twig_0', bags / 'twig_0.crashed')
    cut_short(bags / 'twig_0.crashed')
    write_bag(bags / 'twig_1.recovering' / 'twig_1')
    assert names_in(bags) == ['twig_0', 'twig_1', 'twig_2']
    # Who names one means it.
    assert find_bags([bags / 'twig_0.crashed']) == [bags / 'twig_0.crashed']


def test_a_loose_file_hides_no_bags(bags):
    shutil.copy(next((bags / 'twig_0').glob('*.mcap')), bags / 'copy.mcap')
    assert names_in(bags) == ['copy.mcap', 'twig_0', 'twig_1', 'twig_2']


def test_files_without_metadata(tmp_path):
    for name in ('killed/killed_0.mcap', 'split/split_0.mcap', 'split/split_1.mcap', 'x/a.mcap',
                 'x/b.db3'):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names_in(tmp_path) == ['killed', 'split', 'x/a.mcap', 'x/b.db3']


def test_links_are_followed_once(bags, write_bag, tmp_path):
    (bags / 'again').symlink_to('.')
    (bags / 'latest').symlink_to('twig_2')
    write_bag(tmp_path / 'elsewhere' / 'twig_7', 1.0)
    (bags / 'more').symlink_to(tmp_path / 'elsewhere')
    assert names_in(bags) == ['more/twig_7', 'twig_0', 'twig_1', 'twig_2']


@pytest.mark.parametrize('jobs', [1, 2])
def test_a_full_disk_keeps_what_is_there(tmp_path, bags, jobs):
    """A limit on the size of files stands in for the disk; processes inherit it."""
    path = tmp_path / 'dataset'
    statuses(Preparation([bags / 'twig_0'], path))
    before = content(path)
    program = (
        'import resource, sys; from vqbet_ros.cli.main import main\n'
        'resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))\n'
        'sys.exit(main(sys.argv[1:]))'
    )
    command = [sys.executable, '-c', program, 'prepare', str(bags), str(path)]
    ended = subprocess.run(
        [*command, '--jobs', str(jobs)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert 'could not' in ended.stderr
    assert 'File too large' in ended.stderr
    assert 'Traceback' not in ended.stderr
    assert content(path) == before
    assert statuses(Preparation(find_bags([bags]), path)) == ['known', 'added', 'added']


@pytest.mark.slow
@pytest.mark.parametrize('jobs', [1, 2])
def test_ctrl_c_leaves_a_valid_dataset(tmp_path, write_bag, jobs):
    bags = tmp_path / 'bags'
    for seed in range(12):
        write_bag(bags / f'twig_{seed:02d}', 6.0, seed)
    path = tmp_path / 'dataset'
    command = [sys.executable, '-m', 'vqbet_ros.cli.main', 'prepare', str(bags), str(path)]
    # Its own group, so that the signal reaches its processes too, as from a terminal.
    with subprocess.Popen(
        [*command, '--jobs', str(jobs)], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and process.poll() is None:
            index = path / 'dataset.json'
            if index.exists() and json.loads(index.read_text())['num_episodes'] >= 2:
                break
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip().splitlines()[-1] == 'vqbet: interrupted'
    assert 'Traceback' not in said
    done = Dataset.open(path).num_episodes
    assert 2 <= done < 12
    assert not list(path.glob('.*'))
    assert len(entries(path)) == done
    expected = ['known'] * done + ['added'] * (12 - done)
    assert statuses(Preparation(find_bags([bags]), path)) == expected
    statuses(Preparation(find_bags([bags]), tmp_path / 'at_once'))
    assert content(tmp_path / 'at_once') == content(path)


def test_a_manifest_that_is_ahead_of_the_dataset_is_not_believed(tmp_path, bags):
    path = tmp_path / 'dataset'
    statuses(Preparation([bags / 'twig_0'], path))
    kept = {name: text for name, text in content(path).items() if name != MANIFEST}
    statuses(Preparation([bags / 'twig_1'], path))
    for name, text in kept.items():
        (path / name).write_bytes(text)  # as after a kill between manifest and dataset
    assert [bag.name for bag in entries(path)] == ['twig_0']
    assert statuses(Preparation(find_bags([bags]), path)) == ['known', 'added', 'added']
    statuses(Preparation(find_bags([bags]), tmp_path / 'at_once'))
    assert content(tmp_path / 'at_once') == content(path)


def test_a_manifest_of_other_episodes_is_not_believed(tmp_path, bags):
    """As many, but of other lengths."""
    statuses(Preparation([bags / 'twig_0', bags / 'twig_1'], tmp_path / 'dataset'))
    statuses(Preparation([bags / 'twig_0', bags / 'twig_2'], tmp_path / 'other'))
    shutil.copy(tmp_path / 'other' / MANIFEST, tmp_path / 'dataset' / MANIFEST)
    assert [bag.name for bag in entries(tmp_path / 'dataset')] == ['twig_0']


def test_a_broken_manifest(tmp_path, bags):
    statuses(Preparation([bags / 'twig_0'], tmp_path / 'dataset'))
    (tmp_path / 'dataset' / MANIFEST).write_text('{"bags": 3}')
    with pytest.raises(BadDataset, match=r'manifest.json is broken'):
        Preparation([bags / 'twig_0'], tmp_path / 'dataset')


def test_wrong_options(tmp_path, bags, capfd):
    with pytest.raises(SystemExit) as caught:
        main(['prepare', str(bags), str(tmp_path / 'dataset'), '--jobs', '-1'])
    assert caught.value.code == 2
    for backend, said in (
        ('spark=here', 'expected dask=ADDRESS or ray=ADDRESS'),
        ('dask', 'expected dask=ADDRESS or ray=ADDRESS'),
    ):
        command = ['prepare', str(bags), str(tmp_path / 'dataset'), '--backend', backend]
        assert main(command) == 1
        assert said in capfd.readouterr().err


def test_a_cluster_needs_its_package(tmp_path, bags, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, 'distributed', None)
    command = ['prepare', str(bags), str(tmp_path / 'dataset'), '--backend', 'dask=tcp://x:1']
    assert main(command) == 1
    assert 'needs distributed, which is not installed' in capfd.readouterr().err
