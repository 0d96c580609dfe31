"""Policies judged on PushT: figures, seeds, batches, and `vqbet eval pusht`."""

from dataclasses import replace
import json

import numpy as np
import pytest

pytest.importorskip('gym_pusht', reason="needs gym-pusht: extra 'sim'")

import cv2
import torch
from vqbet_ros.cli import main as cli
from vqbet_ros.config import ModelConfig, VisionConfig
from vqbet_ros.errors import SpecMismatch
from vqbet_ros.policy.checkpoint import save_checkpoint
from vqbet_ros.policy.engine import Engine
from vqbet_ros.policy.normalizer import Stats
from vqbet_ros.policy.policy import Policy
from vqbet_ros.resources import resource
from vqbet_ros.sim.pusht import PushTWorld
from vqbet_ros.spec import RobotSpec
from vqbet_ros.training import evaluate_pusht
from vqbet_ros.training.evaluate_pusht import Episode, evaluate, mean_interval, wilson_interval

STEPS = 24


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Short episodes on one thread."""
    monkeypatch.setattr(evaluate_pusht, 'STEPS', STEPS)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def robot(name):
    return RobotSpec.from_yaml(resource(f'config/robots/{name}.yaml'))


def random_policy(spec):
    torch.manual_seed(1)
    model = ModelConfig(
        history=2,
        chunk=4,
        codebook_size=4,
        latent=8,
        tokenizer_hidden=8,
        layers=1,
        heads=2,
        width=16,
        vision=VisionConfig(stages=1, features=4, keypoints=2, crop=84),
    )

    def table(width):
        return Stats((0.0,) * width, (512.0,) * width, (256.0,) * width, (100.0,) * width)

    stats = {'state': table(spec.state_dim), 'action': table(spec.action_dim)}
    policy = Policy(model, spec, stats)
    with torch.no_grad():
        policy.vqbet.tokenizer.rvq.codebooks.normal_()
    return policy


@pytest.fixture(scope='module')
def policy():
    return random_policy(robot('pusht_keypoints'))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, policy):
    path = tmp_path_factory.mktemp('runs') / 'checkpoint'
    save_checkpoint(path, policy, card='', training={})
    return path


@pytest.mark.parametrize(
    ('successes', 'trials', 'interval'),
    [
        # Newcombe 1998, table I: Wilson's score method without continuity correction.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (29, 29, (0.8830, 1.0)),
    ],
)
def test_intervals_of_a_rate(successes, trials, interval):
    assert wilson_interval(successes, trials) == pytest.approx(interval, abs=1e-4)


def test_interval_of_a_mean():
    values = np.random.default_rng(1).normal(0.5, 0.2, 400)
    low, high = mean_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=3e-3)
    assert mean_interval(np.array([0.25, 0.25])) == (0.25, 0.25)


def test_figures_of_an_episode():
    targets = [np.array([t**3, 0.0], np.float32) for t in range(6)]  # third difference: 6
    episode = Episode(4, [0.1, 0.96, 0.5], targets)
    assert episode.jerk_rms == pytest.approx(6.0)
    assert episode.result() == {
        'seed': 4,
        'max_overlap': 0.96,
        'final_overlap': 0.5,
        'success': True,
        'steps': 3,
        'jerk_rms': pytest.approx(6.0),
    }
    assert not Episode(0, [0.95]).success
    assert Episode(0, [0.95], targets[:3]).jerk_rms == 0.0


def test_the_same_seeds_give_the_same_figures(policy):
    def figures(**changes):
        found, _ = evaluate(Engine(policy, **changes), episodes=3, seed=7)
        del found['steps_per_s']
        return found

    assert figures() == figures()
    assert figures(temperature=1.0, seed=3) == figures(temperature=1.0, seed=3)
    assert figures() != figures(temperature=1.0)
    assert [r['seed'] for r in figures()['per_episode']] == [7, 8, 9]


def test_the_batch_does_not_change_an_episode(policy):
    _, together = evaluate(Engine(policy), episodes=3, seed=7, batch=3)
    _, alone = evaluate(Engine(policy), episodes=3, seed=7, batch=1)
    _, later = evaluate(Engine(policy), episodes=1, seed=9)
    for one, other in zip([*together, together[2]], [*alone, *later], strict=True):
        assert one.seed == other.seed
        # A product of matrices may round otherwise in another batch.
        assert np.allclose(one.targets, other.targets, atol=1e-2)
        assert np.allclose(one.coverage, other.coverage, atol=1e-4)


def test_episodes_equal_a_plain_loop_over_one_world(policy):
    engine = Engine(policy)
    _, (episode,) = evaluate(engine, episodes=1, seed=11, execute=3)
    world, seen, coverage = PushTWorld(11), [], []
    for step in range(STEPS):
        seen.append(np.concatenate([world.pusher(), world.keypoints()]))
        if step % 3 == 0:
            state = torch.from_numpy(np.stack(seen[-2:]))[None]  # (1, up to h, S)
            chunk = engine.decode(None, state, None).actions[0].numpy()
        world.step(chunk[step % 3])
        coverage.append(world.coverage())
    assert episode.coverage == coverage


def test_a_success_ends_an_episode(policy, monkeypatch):
    monkeypatch.setattr(evaluate_pusht, 'SUCCESS_COVERAGE', -1.0)
    figures, episodes = evaluate(Engine(policy), episodes=2, seed=0)
    assert [len(e.coverage) for e in episodes] == [1, 1]
    assert figures['success_rate'] == 1.0


def test_a_policy_with_a_camera_sees_the_world():
    engine = Engine(random_policy(robot('pusht')))
    figures, (episode, _) = evaluate(engine, episodes=2, seed=3, execute=1)
    assert figures['execute'] == 1
    assert len(episode.targets) == STEPS
    world = PushTWorld(3)
    first = engine.encode({'top': world.image()[None]})[:, None]  # (1, 1, n, F)
    state = torch.from_numpy(world.pusher())[None, None]
    expected = engine.decode(first, state, None).actions[0, 0].numpy()
    assert np.allclose(episode.targets[0], expected, atol=1e-2)


def test_a_policy_of_another_robot_is_refused():
    spec = robot('pusht_keypoints')
    other = replace(spec, state=spec.state[1:], rate_hz=20.0)
    with pytest.raises(SpecMismatch) as caught:
        evaluate(Engine(random_policy(other)), episodes=1, seed=0)
    message = str(caught.value)
    assert 'not for PushT' in message
    assert 'state: kp0_x, kp0_y' in message
    assert 'rate: 20 Hz, expected 10 Hz' in message


def test_the_command_prints_and_writes(checkpoint, tmp_path, capsys):
    out, videos = tmp_path / 'deep' / 'figures.json', tmp_path / 'videos'
    arguments = ['--episodes', '2', '--seed', '5', '--json', str(out), '--video', str(videos)]
    assert cli.main(['eval', 'pusht', str(checkpoint), *arguments, '--device', 'cpu']) == 0
    figures = json.loads(out.read_text())
    assert {
        'episodes',
        'seed',
        'mean_max_overlap',
        'mean_final_overlap',
        'success_rate',
        'success_ci95',
        'per_episode',
    } <= set(figures)
    assert (figures['episodes'], figures['seed']) == (2, 5)
    assert figures['success_ci95'] == pytest.approx(list(wilson_interval(0, 2)))
    overlaps = [r['max_overlap'] for r in figures['per_episode']]
    assert figures['mean_max_overlap'] == pytest.approx(np.mean(overlaps))
    said = capsys.readouterr()
    assert f'mean max overlap    {np.mean(overlaps):.3f} [' in said.out
    assert 'batches: 1/1' in said.err
    assert sorted(path.name for path in videos.iterdir()) == ['seed_5.mp4', 'seed_6.mp4']
    video = cv2.VideoCapture(str(videos / 'seed_5.mp4'))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == STEPS
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)


@pytest.mark.parametrize(
    ('option', 'value', 'low'),
    [('episodes', '0', 1), ('batch', '0', 1), ('execute', '-1', 0), ('temperature', 'nan', 0)],
)
def test_wrong_usage(option, value, low, checkpoint, capsys):
    with pytest.raises(SystemExit, match='2'):
        cli.main(['eval', 'pusht', str(checkpoint), f'--{option}', value])
    assert f'--{option} must be at least {low}, got {value}' in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there(tmp_path, capsys):
    assert cli.main(['eval', 'pusht', str(tmp_path / 'absent')]) == 1
    assert 'no such checkpoint directory' in capsys.readouterr().err
