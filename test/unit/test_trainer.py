"""The training loop: resumed bit for bit, stopped by hand, by numbers and by a full disk."""

from dataclasses import replace
import importlib
import json
import os
from pathlib import Path
import resource as limits
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rich', reason="needs the extra 'train'")
pytest.importorskip('tensorboard', reason="needs the extra 'train'")
pytest.importorskip('matplotlib', reason="needs the extra 'train'")

from safetensors.torch import load_file
import torch
from vqbet_ros.cli import main as cli
from vqbet_ros.errors import BadCheckpoint, ConfigError, VqbetError
from vqbet_ros.policy.checkpoint import load_checkpoint
from vqbet_ros.policy.device import pick_device
from vqbet_ros.structured import to_mapping
from vqbet_ros.training.journal import read_metrics
from vqbet_ros.training.phases.common import val_frames
from vqbet_ros.training.phases.encoder import EncoderTraining
from vqbet_ros.training.phases.policy import PolicyTraining
from vqbet_ros.training.phases.tokenizer import TokenizerTraining
from vqbet_ros.training.tensorboard import EventFile
from vqbet_ros.training.trainer import Trainer
import yaml

ROOT = Path(__file__).parents[2]
PHASES: dict[str, Any] = {
    'encoder': EncoderTraining,
    'tokenizer': TokenizerTraining,
    'policy': PolicyTraining,
}


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Many threads on tiny tensors only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory, make_dataset):
    return make_dataset(tmp_path_factory.mktemp('data') / 'dataset')


@pytest.fixture(scope='module')
def vectors(tmp_path_factory, make_dataset):
    """A dataset without a camera."""
    return make_dataset(tmp_path_factory.mktemp('data') / 'vectors', camera=False)


@pytest.fixture(scope='module')
def state_config(tiny_config):
    """Two phases, without the encoder."""
    return replace(tiny_config, encoder=replace(tiny_config.encoder, steps=0))


@pytest.fixture(scope='module')
def configs(tiny_config, state_config):
    vision = replace(tiny_config.model.vision, train='full')
    full = replace(tiny_config.model, vision=vision, goal_steps=2)
    return {'frozen': tiny_config, 'full': replace(state_config, model=full)}


@pytest.fixture(scope='module')
def whole_runs(tmp_path_factory, dataset, configs):
    """One uninterrupted training of each kind."""
    runs = {}
    for name, config in configs.items():
        runs[name] = tmp_path_factory.mktemp('runs') / name
        assert Trainer(dataset, config, runs[name], 'cpu').run()
    return runs


def stop_at(trainer, phase, step, monkeypatch):
    """Have the trainer asked to stop while it is at a step."""
    kind = PHASES[phase]
    original = kind.loss

    def loss(self, at):
        if at == step:
            trainer.stop()
        return original(self, at)

    monkeypatch.setattr(kind, 'loss', loss)


def tensors(run):
    last = run / 'checkpoints' / 'last'
    return {**load_file(last / 'resume.safetensors'), **load_file(last / 'model.safetensors')}


def metrics(run):
    records = read_metrics(run / 'metrics.jsonl')
    return [{k: v for k, v in record.items() if k != 'steps_per_s'} for record in records]


def scalars(run):
    """Read a run as TensorBoard does."""
    reader = importlib.import_module('tensorboard.backend.event_processing.event_accumulator')
    return reader.EventAccumulator(str(run)).Reload()


@pytest.mark.parametrize(
    ('kind', 'phase', 'step'),
    [
        ('frozen', 'encoder', 2),
        ('frozen', 'encoder', 3),  # its last: the next phase has not begun
        ('frozen', 'tokenizer', 2),
        ('frozen', 'policy', 2),
        ('full', 'policy', 4),
    ],
)
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(
    kind, phase, step, tmp_path, dataset, configs, whole_runs, monkeypatch, capsys
):
    run = tmp_path / 'run'
    with monkeypatch.context() as patch:
        trainer = Trainer(dataset, configs[kind], run, 'cpu')
        stop_at(trainer, phase, step, patch)
        assert not trainer.run()
    assert 'stopped' in capsys.readouterr().out
    saved = json.loads((run / 'checkpoints/last/resume.json').read_text())
    assert (saved['phase'], saved['step']) == (phase, step + 1)
    torch.manual_seed(12345)  # nothing may hang on the state that the process happens to be in
    assert Trainer(dataset, configs[kind], run, 'cpu').run(resume=True)

    expected, found = tensors(whole_runs[kind]), tensors(run)
    assert expected.keys() == found.keys()
    assert any(key.startswith('average/') for key in found)
    assert any(key.startswith('optimizer/') for key in found)
    different = [key for key in expected if not torch.equal(expected[key], found[key])]
    assert different == []
    assert metrics(run) == metrics(whole_runs[kind])
    assert (run / 'report.html').is_file()


def test_what_a_run_leaves(whole_runs, configs):
    run = whole_runs['frozen']
    records = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    steps = [(r['phase'], r['kind'], r['step']) for r in records]
    assert [s for s in steps if s[1] == 'train'] == [
        *(('encoder', 'train', step) for step in (2, 4)),
        *(('tokenizer', 'train', step) for step in (2, 4, 5)),
        *(('policy', 'train', step) for step in (2, 4, 6)),
    ]
    assert [s for s in steps if s[1] == 'val'] == [
        *(('encoder', 'val', step) for step in (3, 4)),
        *(('tokenizer', 'val', step) for step in (3, 5)),
        *(('policy', 'val', step) for step in (3, 6)),
    ]
    assert all(np.isfinite(v) for r in records for v in r.values() if not isinstance(v, str))
    assert yaml.safe_load((run / 'config.yaml').read_text()) == to_mapping(configs['frozen'])

    board = scalars(run)
    assert [e.step for e in board.Scalars('policy/train/loss')] == [2, 4, 6]
    assert 'tokenizer/val/error_x' in board.Tags()['scalars']

    loaded = load_checkpoint(run / 'checkpoints' / 'last')
    assert set(loaded.training['validation']) == {'encoder', 'tokenizer', 'policy'}
    average = load_file(run / 'checkpoints/last/resume.safetensors')
    assert all(
        torch.equal(value, average[f'average/{key}'])
        for key, value in loaded.policy.state_dict().items()
    )
    assert 'phase policy, step 6' in (run / 'checkpoints/last/README.md').read_text()


def test_a_frozen_encoder_stays_as_it_was(whole_runs):
    found = load_file(whole_runs['frozen'] / 'checkpoints/last/resume.safetensors')
    encoder = [key for key in found if key.startswith('policy/encoder.')]
    assert encoder
    for key in encoder:
        assert torch.equal(found[key], found[key.replace('policy/', 'average/', 1)]), key


def test_a_run_directory_that_is_taken(whole_runs, dataset, configs):
    before = tensors(whole_runs['full'])
    with pytest.raises(VqbetError, match='holds a run: give --resume, or another --out'):
        Trainer(dataset, configs['full'], whole_runs['full'], 'cpu').run()
    after = tensors(whole_runs['full'])
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_resuming_with_other_settings_lists_every_difference(whole_runs, dataset, configs):
    policy = replace(configs['full'].policy, lr=0.5, steps=9)
    with pytest.raises(BadCheckpoint) as caught:
        Trainer(
            dataset, replace(configs['full'], policy=policy, seed=4), whole_runs['full'], 'cpu'
        ).run(resume=True)
    assert str(caught.value).splitlines()[1:] == [
        '  - policy.lr: was 0.001, now 0.5',
        '  - policy.steps: was 6, now 9',
        '  - seed: was 0, now 4',
    ]


def test_resuming_with_other_data(whole_runs, configs, tmp_path, make_dataset):
    for lengths, seed, part in (
        ((14, 9, 12), 0, 'episodes: was 4, now 3'),
        ((14, 9, 12, 11), 1, 'the values in it'),
    ):
        other = make_dataset(tmp_path / str(seed), lengths=lengths, seed=seed)
        with pytest.raises(BadCheckpoint, match='trained on another dataset') as caught:
            Trainer(other, configs['full'], whole_runs['full'], 'cpu').run(resume=True)
        assert part in str(caught.value)


def test_nothing_to_resume(tmp_path, vectors, state_config):
    with pytest.raises(BadCheckpoint, match='nothing to resume; missing'):
        Trainer(vectors, state_config, tmp_path / 'run', 'cpu').run(resume=True)


def test_steps_after_the_last_save_are_recorded_once(tmp_path, vectors, state_config, monkeypatch):
    """A killed process has recorded steps that its checkpoint does not know."""
    run = tmp_path / 'run'
    with monkeypatch.context() as patch:
        trainer = Trainer(vectors, state_config, run, 'cpu')
        stop_at(trainer, 'policy', 2, patch)
        trainer.run()
    with (run / 'metrics.jsonl').open('a') as file:
        file.write('{"phase": "policy", "kind": "train", "step": 4, "loss": 9.0}\n{"phase": "pol')
    events = EventFile(run)
    events.add({'policy/train/loss': 9.0}, 4)
    events.add({'tokenizer/train/loss': 1.0, 'my own': 2.0}, 5)
    events.close()
    assert Trainer(vectors, state_config, run, 'cpu').run(resume=True)
    steps = [r['step'] for r in metrics(run) if r['phase'] == 'policy' and r['kind'] == 'train']
    assert steps == [2, 4, 6]
    board = scalars(run)
    shown = board.Scalars('policy/train/loss')
    assert [e.step for e in shown] == [2, 4, 6]
    assert all(e.value != 9.0 for e in shown)
    # What came before, and what is not the training's, stays.
    assert [e.step for e in board.Scalars('tokenizer/train/loss')] == [2, 4, 5, 5]
    assert [e.step for e in board.Scalars('my own')] == [5]


def test_a_loss_that_is_not_finite_stops_with_step_and_episodes(tmp_path, vectors, state_config):
    wild = replace(state_config, tokenizer=replace(state_config.tokenizer, lr=1e30))
    with pytest.raises(VqbetError) as caught:
        Trainer(vectors, wild, tmp_path / 'run', 'cpu').run()
    message = str(caught.value)
    assert 'phase tokenizer, step 1: got loss ' in message
    assert 'expected finite numbers; episodes in the batch: [' in message
    assert 'or lower tokenizer.lr; nothing was saved yet' in message


@pytest.mark.parametrize('phase', ['encoder', 'policy'])
def test_validation_takes_no_more_samples_at_once_than_a_step(
    phase, dataset, configs, tmp_path, monkeypatch
):
    config = configs['frozen' if phase == 'encoder' else 'full']
    trainer = Trainer(dataset, config, tmp_path / 'run', 'cpu')
    taken = PHASES[phase](trainer.policy, trainer.data, config)
    sizes, read = [], trainer.data.pictures.read

    def counted(rows):
        sizes.append(len(rows))
        return read(rows)

    monkeypatch.setattr(trainer.data.pictures, 'read', counted)
    taken.validate()
    batch = getattr(config, phase).batch
    assert len(val_frames(trainer.data)) > batch
    assert max(sizes) == batch


def test_a_gradient_that_is_not_finite_stops_before_its_weights_are_saved(
    tmp_path, vectors, state_config, monkeypatch
):
    original, every = PolicyTraining.loss, replace(state_config, save_every=1)

    def loss(self, step):
        value, metrics = original(self, step)
        if step == 2:  # what is added is 0, its slope is not finite
            value = value + (0 * self.policy.vqbet.query.sum()).abs().sqrt()
        return value, metrics

    monkeypatch.setattr(PolicyTraining, 'loss', loss)
    trainer = Trainer(vectors, every, tmp_path / 'run', 'cpu')
    with pytest.raises(VqbetError, match=r'phase policy, step 2: .* norm nan of the gradient'):
        trainer.run()
    last = load_checkpoint(trainer.last)  # which refuses numbers that are not finite
    assert (last.training['phase'], last.training['step']) == ('policy', 2)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, vectors, state_config, monkeypatch):
    run = tmp_path / 'run'
    with monkeypatch.context() as patch:
        trainer = Trainer(vectors, state_config, run, 'cpu')
        stop_at(trainer, 'policy', 2, patch)
        trainer.run()
    before = tensors(run)
    size = (run / 'checkpoints/last/resume.safetensors').stat().st_size
    soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
    again = Trainer(vectors, state_config, run, 'cpu')
    limits.setrlimit(limits.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(VqbetError, match='could not save the checkpoint') as caught:
            again.run(resume=True)
    finally:
        limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))
    assert 'What was there before is untouched' in str(caught.value)
    assert [path.name for path in (run / 'checkpoints').iterdir()] == ['last']
    after = tensors(run)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert Trainer(vectors, state_config, run, 'cpu').run(resume=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA GPU')
def test_cuda_asked_for_and_absent():
    with pytest.raises(ConfigError, match=r'torch sees no CUDA GPU .* use cpu'):
        pick_device('cuda')
    assert pick_device('auto') == 'cpu'


def test_a_crop_larger_than_the_picture(tmp_path, dataset, tiny_config):
    vision = replace(tiny_config.model.vision, crop=25)
    config = replace(tiny_config, model=replace(tiny_config.model, vision=vision))
    with pytest.raises(ConfigError, match=r'crop is 25, but the pictures of camera top are 24x24'):
        Trainer(dataset, config, tmp_path / 'run', 'cpu')


def test_an_encoder_phase_without_camera(tmp_path, vectors, tiny_config):
    with pytest.raises(VqbetError, match='the dataset has no camera'):
        Trainer(vectors, tiny_config, tmp_path / 'run', 'cpu').run()


def test_padded_actions_never_count(vectors, state_config, tmp_path):
    """The last rows of an episode stand in the padding of its last chunks alone."""
    trainer = Trainer(vectors, state_config, tmp_path / 'run', 'cpu')
    phase = TokenizerTraining(trainer.policy, trainer.data, state_config)
    frames = trainer.data.train
    actions, mask = phase._chunks(frames)
    trainer.policy.eval()
    tokenizer = trainer.policy.vqbet.tokenizer
    with torch.no_grad():
        loss, found = tokenizer.loss(actions, mask)
        error = (tokenizer.decode(found['codes']) - actions).abs().mean(-1)  # (N, W)
    real = [error[i, j] for i in range(len(frames)) for j in range(3) if mask[i, j]]
    assert len(real) < error.numel()
    assert float(found['reconstruction']) == pytest.approx(float(torch.stack(real).mean()), 1e-5)
    assert torch.isfinite(loss)


def test_codes_are_learned_from_whole_chunks_alone(vectors, state_config, tmp_path):
    trainer = Trainer(vectors, state_config, tmp_path / 'run', 'cpu')
    phase = TokenizerTraining(trainer.policy, trainer.data, state_config)
    chunk = state_config.model.chunk
    ends = np.concatenate([phase._batches.indices(step).end for step in range(50)])
    starts = np.concatenate([phase._batches.indices(step).at for step in range(50)])
    assert (starts + chunk <= ends).all()
    assert (starts + chunk == ends).any()  # the last whole chunk of an episode is among them


def command(tmp_path, dataset, config, *more):
    path = tmp_path / 'config.yaml'
    path.write_text(yaml.safe_dump(to_mapping(config)))
    return ['train', '--config', str(path), '--dataset', str(dataset.path), *more]


def test_ctrl_c_saves_and_the_printed_command_goes_on(tmp_path, vectors, state_config):
    config = replace(state_config, policy=replace(state_config.policy, steps=150), log_every=50)
    arguments = command(tmp_path, vectors, config, '--out', str(tmp_path / 'run'))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(
        [sys.executable, '-m', 'vqbet_ros.cli.main', *arguments, '--threads', '1'],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith('phase policy'):
                process.send_signal(signal.SIGINT)
        errors = process.stderr.read() if process.stderr else ''
    assert process.returncode == 0, errors
    assert errors == ''
    assert '\x1b' not in ''.join(said)  # plain lines where there is no terminal
    assert said[-2].startswith('stopped in phase policy after step')
    assert said[-1].startswith('go on with: vqbet train --config ')
    assert '--resume' in said[-1]
    assert cli.main([*said[-1].split()[4:]]) == 0
    assert json.loads((tmp_path / 'run/checkpoints/last/resume.json').read_text())['step'] == 150


def test_mistakes_on_the_command_line(tmp_path, vectors, state_config, capsys):
    out = ('--out', str(tmp_path / 'run'))
    wrong = command(tmp_path, vectors, state_config, *out, '--set', 'polcy.lr=1')
    assert cli.main(wrong) == 1
    assert "unknown key 'polcy' (did you mean 'policy'?)" in capsys.readouterr().err
    absent = command(tmp_path, replace(vectors, path=tmp_path / 'absent'), state_config, *out)
    assert cli.main(absent) == 1
    assert 'absent' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        cli.main(command(tmp_path, vectors, state_config, *out, '--threads', '-1'))
    assert '--threads must be at least 0, got -1' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()
