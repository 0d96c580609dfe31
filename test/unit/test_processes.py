"""Training by several processes gives what one gives, to rounding."""

from dataclasses import replace
import json
import os
from pathlib import Path
import socket
import subprocess
import sys

import pytest

pytest.importorskip('rich', reason="needs the extra 'train'")
pytest.importorskip('tensorboard', reason="needs the extra 'train'")
pytest.importorskip('matplotlib', reason="needs the extra 'train'")

from safetensors.torch import load_file
import torch
from vqbet_ros.errors import ConfigError
from vqbet_ros.policy.policy import Policy
from vqbet_ros.structured import to_mapping
from vqbet_ros.training.data import load_data
from vqbet_ros.training.journal import read_metrics
from vqbet_ros.training.phases.encoder import EncoderTraining
from vqbet_ros.training.phases.policy import PolicyTraining
from vqbet_ros.training.processes import ALONE, Processes
from vqbet_ros.training.trainer import Trainer
import yaml

ROOT = Path(__file__).parents[2]
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def dataset(tmp_path_factory, make_dataset):
    return make_dataset(tmp_path_factory.mktemp('data') / 'dataset', lengths=(7, 9, 5, 11))


@pytest.fixture(scope='module')
def config(tiny_config):
    """Without what is drawn for each sample, which follows the process too."""
    vision = replace(
        tiny_config.model.vision, train='full', crop=None, colour_jitter=0.0, norm='group'
    )
    model = replace(tiny_config.model, vision=vision, dropout=0.0)
    policy = replace(tiny_config.policy, state_noise=0.0, offset_codes='true', steps=12, batch=7)
    return replace(tiny_config, model=model, policy=policy, val_every=6)


def phase_of(kind, dataset, config, processes):
    torch.manual_seed(0)
    data = load_data(dataset, config, CPU, processes)
    policy = Policy(config.model, dataset.spec, {k: data.stats[k] for k in ('state', 'action')})
    rvq = policy.vqbet.tokenizer.rvq
    rvq.codebooks.normal_()
    return kind(policy, data, config)


@pytest.mark.parametrize('kind', [PolicyTraining, EncoderTraining])
@pytest.mark.parametrize('count', [2, 3])
def test_shares_of_a_batch_add_up_to_the_whole(kind, count, dataset, config):
    """Loss, metrics and gradients, though chunks at an episode's end hold fewer real steps."""

    def found(processes, step):
        phase = phase_of(kind, dataset, config, processes)
        loss, metrics = phase.loss(step)
        loss.backward()
        grads = {k: p.grad for k, p in phase.module.named_parameters() if p.grad is not None}
        return {'loss': loss.detach(), **metrics, **grads}

    for step in range(3):
        whole = found(ALONE, step)
        parts = [found(Processes(rank, count), step) for rank in range(count)]
        for key, value in whole.items():
            assert torch.allclose(sum(part[key] for part in parts), value, atol=1e-5), key


def test_goals_are_those_of_the_whole_batch(dataset, config):
    model = replace(config.model, goal_steps=2)
    goals = replace(config, model=model, policy=replace(config.policy, goal_dropout=0.0))
    whole = phase_of(PolicyTraining, dataset, goals, ALONE).loss(1)[0]
    parts = [phase_of(PolicyTraining, dataset, goals, Processes(r, 2)).loss(1)[0] for r in (0, 1)]
    assert torch.allclose(torch.stack(parts).sum(), whole, atol=1e-5)


def test_a_batch_that_is_too_small_to_share(dataset, config):
    with pytest.raises(ConfigError, match='7 samples cannot be shared by 8 processes'):
        phase_of(PolicyTraining, dataset, config, Processes(0, 8))


def start_two(folder, dataset, config, run, *more):
    """Train in two processes, as `accelerate launch` starts them; returns what each said."""
    (folder / 'config.yaml').write_text(yaml.safe_dump(to_mapping(config)))
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    words = ['train', '--config', str(folder / 'config.yaml'), '--dataset', str(dataset.path)]
    words += ['--out', str(run), '--device', 'cpu', '--threads', '1', *more]
    several = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, '-m', 'vqbet_ros.cli.main', *words],
            cwd=ROOT,
            env={**os.environ, **several, 'RANK': rank, 'LOCAL_RANK': rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ('0', '1')
    ]
    try:
        said = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    return [out for out, _ in said]


def same_results(run, expected):
    found, wanted = (
        load_file(path / 'checkpoints/last/resume.safetensors') for path in (run, expected)
    )
    assert found.keys() == wanted.keys()
    # Where a gradient is nothing but rounding (the bias before a softmax), Adam makes steps of it.
    different = [k for k in wanted if not torch.allclose(found[k], wanted[k], atol=2e-4)]
    assert different == []
    ours, theirs = (read_metrics(path / 'metrics.jsonl') for path in (run, expected))
    assert len(ours) == len(theirs) > 5
    for one, other in zip(ours, theirs, strict=True):
        assert (one['phase'], one['kind']) == (other['phase'], other['kind'])
        for key in other.keys() - {'phase', 'kind', 'steps_per_s'}:
            assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-4), key


@pytest.fixture(scope='module')
def alone(tmp_path_factory, dataset, config):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp('runs') / 'alone'
    assert Trainer(dataset, config, run, 'cpu').run()
    yield run
    torch.set_num_threads(before)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path, dataset, config, alone):
    pytest.importorskip('accelerate', reason="needs the extra 'distributed'")
    first, second = start_two(tmp_path, dataset, config, tmp_path / 'run')
    assert 'finished: ' in first
    assert second == ''
    same_results(tmp_path / 'run', alone)


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(
    tmp_path, dataset, config, alone, monkeypatch
):
    pytest.importorskip('accelerate', reason="needs the extra 'distributed'")
    run = tmp_path / 'run'
    original = PolicyTraining.loss
    with monkeypatch.context() as patch:
        trainer = Trainer(dataset, config, run, 'cpu')

        def loss(self, step):
            if step == 4:
                trainer.stop()
            return original(self, step)

        patch.setattr(PolicyTraining, 'loss', loss)
        assert not trainer.run()
    assert json.loads((run / 'checkpoints/last/resume.json').read_text())['step'] == 5
    start_two(tmp_path, dataset, config, run, '--resume')
    same_results(run, alone)
