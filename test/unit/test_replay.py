"""The whole runtime on recorded data: what was demonstrated comes out, what is lost stops it."""

from dataclasses import dataclass, replace
import itertools
import json

import cdr_messages as cdr
import numpy as np
import pytest
from vqbet_ros.cli.main import main
from vqbet_ros.cli.replay import arrivals
from vqbet_ros.data.align import align
from vqbet_ros.data.bag import Bag
from vqbet_ros.data.bag_folders import find_bags
from vqbet_ros.data.messages import DECODERS
from vqbet_ros.data.prepare import Preparation
from vqbet_ros.data.store import Dataset
from vqbet_ros.errors import BadBag
from vqbet_ros.policy.checkpoint import load_checkpoint
from vqbet_ros.runtime.replay import Planned, Replay, Tick
from vqbet_ros.runtime.supervisor import Command, Hold, State
from vqbet_ros.training.evaluate_offline import evaluate
from vqbet_ros.training.trainer import Trainer

pytest.importorskip('matplotlib', reason="needs matplotlib: extra 'train'")
from vqbet_ros.training.replay_report import compare, Recorded

MS = 1_000_000
PERIOD_NS = 100 * MS
CHUNK, HISTORY = 5, 3
BEGIN_NS = 1_700_000_000_000_000_000


@dataclass
class Answer:
    actions: np.ndarray
    confidence: float = 1.0


def run(bag, spec, infer, **changes):
    settings = {'history': HISTORY, 'chunk': CHUNK, 'control_rate_hz': 50.0, **changes}
    replay = Replay(infer, spec, decoders=DECODERS, **settings)
    return replay, list(replay.run(arrivals(Bag.open(bag), spec)))


@pytest.fixture
def demonstrator(bag_spec):
    """Return a policy that knows the twig's future: the joints swing as sine and cosine."""

    def infer(observation):
        due_s = (observation.stamp_ns - BEGIN_NS) / 1e9 + 0.1 * np.arange(1, CHUNK + 1)
        return Answer(np.stack([np.sin(due_s), np.cos(due_s)], axis=1)), 30 * MS

    return infer


@pytest.mark.parametrize('interpolation', ['step', 'linear', 'cubic'])
def test_a_policy_that_knows_everything_makes_no_error(
    tmp_path, write_bag, bag_spec, demonstrator, interpolation
):
    runtime = replace(bag_spec.runtime, interpolation=interpolation)
    bag_spec = replace(bag_spec, runtime=runtime)
    bag = write_bag(tmp_path / 'twig', 6.0)
    replay, events = run(bag, bag_spec, demonstrator)
    recorded = Recorded.of(align(Bag.open(bag).messages(), bag_spec), bag_spec)
    found = compare(events, recorded, CHUNK, bag_spec.runtime.interpolation)
    # Commands are held between the recorded steps and interpolated here: 0.1 rad a step at most,
    # of which the second difference remains.
    assert np.nanmax(found.plan_error) < 0.01
    assert np.nanmax(found.command_error) < 0.01
    # A policy that repeats its last action is worse the further it looks.
    assert np.all(np.diff(found.held_error.mean(axis=1)) > 0.02)
    assert found.refused == 0
    assert found.confidence == {'p50': 1.0, 'p99': 1.0, 'max': 1.0}
    assert found.inference_ms == {'p50': 30.0, 'p99': 30.0, 'max': 30.0}
    first = next(i for i, e in enumerate(events) if isinstance(e, Tick) and sent(e))
    assert all(sent(event) for event in events[first:] if isinstance(event, Tick))
    assert replay.supervisor.state is State.RUNNING


def sent(event):
    return isinstance(event.outcome, Command)


def test_every_observation_is_what_the_dataset_holds(tmp_path, write_bag, bag_spec, demonstrator):
    """The runtime on a bag and the prepared bag see the same frames and joints, bit for bit."""
    bag = write_bag(tmp_path / 'twig', 4.0)
    seen = {}

    def infer(observation):
        for frames, state, valid, k in zip(
            observation.frames,
            observation.state,
            observation.valid,
            reversed(range(HISTORY)),
            strict=True,
        ):
            if valid:
                seen[observation.stamp_ns - k * PERIOD_NS] = frames['top'].image, state
        return demonstrator(observation)

    run(bag, bag_spec, infer, plan_every=1)
    pieces = list(align(Bag.open(bag).messages(), bag_spec))
    compared = 0
    for piece in pieces:
        for row, stamp_ns in enumerate(piece.stamps_ns.tolist()):
            if stamp_ns in seen:
                image, state = seen[stamp_ns]
                np.testing.assert_array_equal(piece.images['top'][row], image)
                np.testing.assert_array_equal(piece.state[row], state)
                compared += 1
    assert compared > 30


def test_commands_come_as_late_as_the_policy_is_slow(tmp_path, write_bag, bag_spec, demonstrator):
    bag = write_bag(tmp_path / 'twig', 4.0)

    def latency_of(took_ms):
        def infer(observation):
            return demonstrator(observation)[0], took_ms * MS

        _, events = run(bag, bag_spec, infer, plan_every=1)
        plans = [event for event in events if isinstance(event, Planned)]
        assert all(plan.ready_ns - plan.asked_ns == took_ms * MS for plan in plans)
        # One decision at a time, in the order of time.
        for before, after in itertools.pairwise(plans):
            assert after.asked_ns >= before.ready_ns
            assert after.t_obs_ns > before.t_obs_ns
        return compare(
            events,
            Recorded.of(align(Bag.open(bag).messages(), bag_spec), bag_spec),
            CHUNK,
            bag_spec.runtime.interpolation,
        ).latency_ms['p50']

    fast, slow = latency_of(5), latency_of(65)
    assert 5 <= fast <= 5 + 3 + 20 + 1  # the frame's way, and up to a tick
    assert 65 <= slow <= 65 + 20 + 20


def test_a_gap_holds_with_its_reason_and_goes_on_after_it(
    tmp_path, write_bag, bag_spec, demonstrator
):
    bag = write_bag(tmp_path / 'twig', 6.0, lost=(2.0, 3.5))
    _, events = run(bag, bag_spec, demonstrator)
    recorded = Recorded.of(align(Bag.open(bag).messages(), bag_spec), bag_spec)
    found = compare(events, recorded, CHUNK, bag_spec.runtime.interpolation)
    reasons = [reason for begin_ns, _, reason in found.holds if begin_ns > BEGIN_NS + 1000 * MS]
    assert reasons[0] == 'top: data is too old'
    begin_ns, end_ns, _ = next(hold for hold in found.holds if hold[2] == reasons[0])
    # The last frame is of 1.9 s, and may be 0.25 s old.
    assert begin_ns - BEGIN_NS == pytest.approx(2150 * MS, abs=25 * MS)
    assert end_ns - BEGIN_NS == pytest.approx(3500 * MS, abs=25 * MS)
    last = next(event for event in reversed(events) if isinstance(event, Tick))
    assert sent(last)
    assert np.nanmax(found.command_error) < 0.01


def test_a_policy_that_is_too_slow_is_told(tmp_path, write_bag, bag_spec, demonstrator):
    bag = write_bag(tmp_path / 'twig', 4.0)

    def infer(observation):
        return demonstrator(observation)[0], 700 * MS

    _, events = run(bag, bag_spec, infer)
    kinds = {
        reason.kind.value
        for event in events
        if isinstance(event, Tick) and isinstance(event.outcome, Hold)
        for reason in event.outcome.reasons
    }
    assert 'plan has ended' in kinds


def test_broken_messages_are_counted(tmp_path, write_bag, bag_spec, demonstrator):
    bag = Bag.open(write_bag(tmp_path / 'twig', 3.0))
    items = list(arrivals(bag, bag_spec))
    items[40:40] = [replace(items[40], payload=b'\0\1\0\0', broken='4 bytes are too few')]
    replay = Replay(
        demonstrator, bag_spec, history=3, chunk=5, decoders=DECODERS, control_rate_hz=10
    )
    events = list(replay.run(items))
    assert sum(counts.bad for counts in replay.buffer.counts().values()) == 1
    assert any(sent(event) for event in events if isinstance(event, Tick))


def test_a_clock_that_was_set_back_is_no_time_to_replay_by(tmp_path, write_bag, bag_spec):
    messages = list(Bag.open(write_bag(tmp_path / 'twig', 2.0)).messages())
    cdr.store_bag(tmp_path / 'twice', [*messages, *messages])
    with pytest.raises(BadBag, match=r'cannot be replayed: its clock was set back from 17000'):
        list(arrivals(Bag.open(tmp_path / 'twice'), bag_spec))


def test_actions_are_interpolated_but_never_over_a_gap():
    stamps = np.array([0, 100, 200, 400, 500]) * MS
    recorded = Recorded(stamps, np.array([[0.0], [1.0], [2.0], [4.0], [5.0]]), PERIOD_NS)
    times = np.array([-1, 0, 50, 100, 200, 250, 399, 400, 475, 500, 501]) * MS
    expected = [np.nan, 0, 0.5, 1, 2, np.nan, np.nan, 4, 4.75, 5, np.nan]
    np.testing.assert_allclose(recorded.at(times)[:, 0], expected)
    assert recorded.at(times.reshape(11, 1)).shape == (11, 1, 1)


# From bags to a policy that is judged on them, by the commands.


@pytest.fixture(scope='module')
def trained(tmp_path_factory, write_bag, tiny_config):
    """Return bags, their dataset, and a policy that was trained on it for a second."""
    folder = tmp_path_factory.mktemp('trained')
    for seed in range(4):
        write_bag(folder / 'bags' / f'twig_{seed}', 4.0, seed)
    assert main(['prepare', str(folder / 'bags'), str(folder / 'dataset'), '--jobs', '1']) == 0
    vision = replace(tiny_config.model.vision, crop=None)
    config = replace(
        tiny_config,
        model=replace(tiny_config.model, vision=vision),
        encoder=replace(tiny_config.encoder, steps=1),
    )
    dataset = Dataset.open(folder / 'dataset')
    assert Trainer(dataset, config, folder / 'run', 'cpu').run()
    return folder


@pytest.fixture(scope='module')
def checkpoint(trained):
    return trained / 'run' / 'checkpoints' / 'last'


def test_the_command_writes_figures_and_pictures(trained, checkpoint, tmp_path, capsys):
    arguments = [str(trained / 'bags/twig_0'), str(checkpoint), '--inference-ms', '20']
    for name in ('one', 'two'):
        out = ['--json', str(tmp_path / f'{name}.json'), '--out', str(tmp_path / name)]
        assert main(['replay', *arguments, *out]) == 0
    one, two = (json.loads((tmp_path / f'{name}.json').read_text()) for name in ('one', 'two'))
    for result in (one, two):
        assert result.pop('times_real_time') > 1
    assert one == two, 'with a given time of inference the result depends on nothing else'
    assert one['robot'] == 'twig'
    assert one['plans'] > 5
    assert one['commands'] > 30
    assert one['messages']['top']['received'] == 40
    for sensed in one['sensing'].values():
        assert 0 <= sensed['age_ms']['p50'] <= sensed['age_ms']['max'] < 250
        assert 0 <= sensed['skew_ms']['p50'] <= sensed['age_ms']['max']
    assert set(one['sensing']) == set(one['messages'])
    assert min(sensed['skew_ms']['max'] for sensed in one['sensing'].values()) < 100
    assert 0 <= one['confidence']['p50'] <= 1
    assert len(one['error_by_horizon']['a']) == 3
    for name in ('traces.png', 'horizon.png'):
        assert (tmp_path / 'one' / name).read_bytes().startswith(b'\x89PNG')
    assert 'times real time' in capsys.readouterr().out


def test_another_robot_is_refused(trained, checkpoint, tmp_path, bag_spec, capsys):
    (tmp_path / 'other.yaml').write_text(replace(bag_spec, rate_hz=20.0).to_yaml())
    arguments = [str(trained / 'bags/twig_0'), str(checkpoint)]
    assert main(['replay', *arguments, '--spec', str(tmp_path / 'other.yaml')]) == 1
    assert 'rate_hz: 10, 20' in capsys.readouterr().err
    assert main(['replay', str(tmp_path / 'absent'), str(checkpoint)]) == 1
    assert 'no such file or directory' in capsys.readouterr().err


def test_offline_evaluation_is_of_the_episodes_kept_out(trained, checkpoint, tmp_path, capsys):
    json_file = tmp_path / 'offline.json'
    arguments = [str(checkpoint), str(trained / 'dataset'), '--json', str(json_file)]
    assert main(['eval', 'offline', *arguments, '--out', str(tmp_path)]) == 0
    assert 'held-out episodes: 1' in capsys.readouterr().out
    result = json.loads(json_file.read_text())
    assert result['held_out'] is True
    assert result['episodes'] == 1
    assert (tmp_path / 'horizon.png').read_bytes().startswith(b'\x89PNG')
    # The same by hand, at one frame.
    dataset = Dataset.open(trained / 'dataset')
    loaded = load_checkpoint(checkpoint)
    found = evaluate(loaded, dataset)
    assert result['error']['a'] == pytest.approx(found.error[:, 0].mean())
    row = int(found.frames[4])
    np.testing.assert_allclose(found.recorded[4], dataset.action[row : row + 3])
    np.testing.assert_allclose(found.last[4], dataset.action[row - 1])
    held = 1 if found.episode[0] == 0 else 0
    assert held not in found.episode


def test_offline_evaluation_on_another_dataset_is_of_all_episodes(
    trained, checkpoint, tmp_path, write_bag
):
    bags = [write_bag(tmp_path / f'twig_{n}', 3.0, 20 + n, outcome='failure') for n in range(2)]
    with Preparation(find_bags(bags), tmp_path / 'dataset') as preparation:
        list(preparation.run(1))
    found = evaluate(load_checkpoint(checkpoint), Dataset.open(tmp_path / 'dataset'))
    assert not found.held_out
    assert set(found.episode.tolist()) == {0, 1}
