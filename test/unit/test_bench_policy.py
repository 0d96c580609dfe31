"""The benches of the policy: their configuration, inputs, figures and usage."""

from dataclasses import replace
from itertools import islice, pairwise
import json
import time

import numpy as np
import pytest
import torch
from vqbet_ros.cli import bench_inference, bench_train
from vqbet_ros.cli.bench_machine import cpu_name
from vqbet_ros.cli.bench_policy import observations, peer_config, peer_spec
from vqbet_ros.cli.bench_training import durations_of, TrainingTimer, with_batch, write_walks
from vqbet_ros.cli.main import main
from vqbet_ros.config import TrainConfig
from vqbet_ros.errors import ConfigError
from vqbet_ros.policy.checkpoint import save_checkpoint
from vqbet_ros.policy.engine import GRAPH
from vqbet_ros.policy.normalizer import Stats
from vqbet_ros.policy.packed import Numbers
from vqbet_ros.policy.policy import Policy

SMALL = ['--set', 'model.width=16', '--set', 'model.layers=1', '--set', 'model.heads=2']
SMALL += ['--set', 'model.vision.stages=1', '--threads', '1']
MACHINE = {'date', 'cpu', 'cpus', 'gpu', 'load_before', 'kernel', 'versions'}


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_peer_configuration_is_that_of_the_public_one():
    """LeRobot 0.4.4's VQBeTConfig by default."""
    model = peer_config(96).model
    assert (model.history, model.chunk, model.layers, model.heads, model.width) == (
        5,
        5,
        8,
        8,
        512,
    )
    assert (model.code_layers, model.codebook_size, model.latent) == (2, 16, 256)
    assert (model.tokenizer_hidden, model.code_mode, model.head_hidden) == (128, 'joint', None)
    assert (model.query_token, model.temperature, model.dropout) == (True, 0.1, 0.1)
    vision = model.vision
    assert (vision.backbone, vision.weights, vision.stages) == ('resnet18', 'none', 4)
    assert (vision.norm, vision.normalisation, vision.crop) == ('group', 'unit', 84)
    assert (vision.pool, vision.keypoints, vision.features) == ('spatial_softmax', 32, 64)
    assert peer_config(224).model.vision.crop is None
    assert peer_config(96, ['model.vision.crop=90', 'policy.batch=3']).policy.batch == 3


def test_each_observation_brings_one_new_frame_a_camera():
    spec = peer_spec(2, 32)
    seen = list(islice(observations(spec, 3, seed=1), 40))
    for before, after in pairwise(seen):
        assert after.frames[:-1] == before.frames[1:]
        np.testing.assert_array_equal(after.state[:-1], before.state[1:])
        assert after.stamp_ns == after.frames[-1]['camera_1'].stamp_ns  # type: ignore[index]
    for name in ('camera_0', 'camera_1'):
        stamps = [step.frames[-1][name].stamp_ns for step in seen]  # type: ignore[index]
        assert len(set(stamps)) == len(seen)
    assert seen[0].frames[0]['camera_1'].image.shape == (32, 32, 3)  # type: ignore[index]
    assert all(step.valid.all() for step in seen)


def test_inference_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_inference, 'LEAST_CALLS', 3)
    path = tmp_path / 'out/inference.json'
    arguments = ['--calls', '3', '--cameras', '2', '--size', '32', *SMALL, '--device', 'cpu']
    assert main(['bench', 'inference', *arguments, '--json', str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures.keys() >= MACHINE
    assert figures['calls'] == 3
    assert (figures['device'], figures['threads'], figures['dtype']) == ('cpu', 1, 'float32')
    assert figures['runtime'] == 'PyTorch'
    assert figures['numbers'] == str(Numbers.best(torch.device('cpu')))
    assert figures['cameras'] == [[32, 32], [32, 32]]
    assert 0 < figures['p50_ms'] <= figures['p99_ms'] <= figures['max_ms']
    assert figures['parameters'] > 10_000


@pytest.fixture
def with_onnx():
    for module in ('onnx', 'onnxruntime', 'onnxscript'):
        pytest.importorskip(module, reason=f"needs {module}: extra 'onnx'")


@pytest.mark.slow
def test_inference_in_onnx_runtime(tmp_path, monkeypatch, with_onnx):
    monkeypatch.setattr(bench_inference, 'LEAST_CALLS', 3)
    path = tmp_path / 'inference.json'
    arguments = ['--calls', '3', '--size', '32', *SMALL, '--onnx']
    assert main(['bench', 'inference', *arguments, '--json', str(path)]) == 0
    figures = json.loads(path.read_text())
    assert (figures['runtime'], figures['device'], figures['calls']) == ('ONNX Runtime', 'cpu', 3)
    assert figures['numbers'] == 'float32'


def tiny_policy(model):
    stats = Stats((0.0,) * 2, (1.0,) * 2, (0.5,) * 2, (0.1,) * 2)
    return Policy(model, peer_spec(1, 24), {'state': stats, 'action': stats})


@pytest.mark.slow
def test_what_ran_a_checkpoint_is_told(tmp_path, monkeypatch, capsys, tiny_config, with_onnx):
    from vqbet_ros.policy.onnx_export import export

    monkeypatch.setattr(bench_inference, 'LEAST_CALLS', 2)
    policy, checkpoint = tiny_policy(tiny_config.model).eval(), tmp_path / 'checkpoint'
    save_checkpoint(checkpoint, policy, card='', training={})
    export(policy, checkpoint / GRAPH, temperature=policy.config.temperature, cases=2)
    path = tmp_path / 'figures.json'
    arguments = ['bench', 'inference', str(checkpoint), '--calls', '2', '--threads', '1']
    for words, runtime in (
        ([], 'ONNX Runtime'),
        (['--precision', 'float32'], 'PyTorch'),
    ):
        assert main([*arguments, *words, '--device', 'cpu', '--json', str(path)]) == 0
        figures = json.loads(path.read_text())
        assert (figures['runtime'], figures['numbers']) == (runtime, 'float32')
        assert f'cpu, 1 threads, {runtime}, float32: ' in capsys.readouterr().out


def test_a_checkpoint_with_goals_is_measured_with_one(tmp_path, monkeypatch, tiny_config):
    monkeypatch.setattr(bench_inference, 'LEAST_CALLS', 2)
    policy = tiny_policy(replace(tiny_config.model, goal_steps=2, goal_state=True))
    save_checkpoint(tmp_path / 'goals', policy, card='', training={})
    path = tmp_path / 'figures.json'
    arguments = ['bench', 'inference', str(tmp_path / 'goals'), '--calls', '2', '--threads', '1']
    assert main([*arguments, '--json', str(path)]) == 0
    figures = json.loads(path.read_text())
    assert (figures['goal_steps'], figures['policy']) == (2, str(tmp_path / 'goals'))
    for option in (['--set', 'model.width=8'], ['--cameras', '2'], ['--size', '64']):
        with pytest.raises(SystemExit, match='2'):
            main([*arguments, *option])


@pytest.mark.parametrize(
    'arguments',
    [
        ['inference', '--calls', '199'],
        ['inference', '--onnx', '--device', 'cuda'],
        ['train', '--steps', '0'],
        ['inference', '--threads', '-1'],
        ['inference', '--cameras', '-1'],
        ['inference', '--size', '0'],
        ['train', '--threads', '-1'],
        ['train', '--batch', '0'],
        ['train', '--phase', 'encoder'],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit, match='2'):
        main(['bench', *arguments])
    assert arguments[1] in capsys.readouterr().err


def test_a_configuration_that_cannot_be(capsys):
    assert main(['bench', 'inference', '--set', 'model.width=9']) == 1
    assert 'width 9 is no multiple of heads 8' in capsys.readouterr().err
    assert main(['bench', 'train', '--size', '64', '--set', 'model.vision.crop=65']) == 1
    assert '65' in capsys.readouterr().err


def test_training_figures_for_several_values(tmp_path, monkeypatch):
    monkeypatch.setitem(bench_train.SCALES, 'width', ('--set=model.width={}', (8, 32)))
    path = tmp_path / 'train.json'
    arguments = ['--steps', '2', '--batch', '2', '--cameras', '0', *SMALL, '--device', 'cpu']
    assert main(['bench', 'train', *arguments, '--vary', 'width', '--json', str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures.keys() >= MACHINE
    assert (figures['device'], figures['batch'], figures['steps']) == ('cpu', 2, 2)
    assert figures['steps_per_s'] > 0
    assert 10 < figures['peak_memory_mb'] < 5000
    rows = figures['scaling']['width']
    assert [row['width'] for row in rows] == [8, 32]
    assert rows[0]['parameters'] < figures['parameters'] < rows[1]['parameters']


def test_the_measured_step_is_the_trainings(tmp_path, tiny_config):
    """Weights move, codes stay as phase `tokenizer` left them, every step has another batch."""
    dataset = write_walks(tmp_path / 'walks', 1, 24, seed=0)
    config = with_batch(replace(tiny_config, bf16=False), 'policy', 4)
    assert isinstance(config, TrainConfig)
    timer = TrainingTimer(dataset, config, 'cpu')
    tokenizer = timer.policy.vqbet.tokenizer
    assert bool(tokenizer.rvq.initialised)
    codebooks, weights = tokenizer.rvq.codebooks.clone(), timer.policy.vqbet.position.clone()
    timer.warm_up()
    timer.run(2)
    assert torch.equal(tokenizer.rvq.codebooks, codebooks)
    assert not torch.equal(timer.policy.vqbet.position, weights)
    assert timer.figures()['steps'] == 2
    assert timer.figures()['batch'] == 4


def test_more_samples_than_there_are_cannot_be_a_batch(tmp_path, tiny_config):
    dataset = write_walks(tmp_path / 'walks', 0, 24, seed=0)
    config = with_batch(replace(tiny_config, bf16=False), 'policy', 301)
    with pytest.raises(ConfigError, match='batch: got 301, expected at most 300'):
        TrainingTimer(dataset, config, 'cpu')


def test_a_value_that_cannot_be_measured_is_told_without_a_traceback(monkeypatch, capfd):
    monkeypatch.setitem(bench_train.SCALES, 'batch', ('--batch={}', (10_000,)))
    arguments = ['--steps', '1', '--batch', '2', '--cameras', '0', *SMALL, '--device', 'cpu']
    assert main(['bench', 'train', *arguments, '--vary', 'batch']) == 1
    told = capfd.readouterr().err
    assert 'batch: got 10000, expected at most 300' in told
    assert 'measuring batch 10000 ended with status 1, as told above' in told
    assert 'Traceback' not in told


def test_as_many_durations_as_calls():
    for calls in (0, 3):
        durations_s = durations_of(lambda: time.sleep(0.01), calls, torch.device('cpu'))
        assert len(durations_s) == calls
        assert all(0.01 <= duration_s < 1.0 for duration_s in durations_s)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_a_gpu_times_itself():
    x = torch.randn(2048, 2048, device='cuda')
    durations_s = durations_of(lambda: x @ x, 5, torch.device('cuda'))
    assert all(0 < duration_s < 1.0 for duration_s in durations_s)


def test_the_cpu_is_named_with_its_vectors(tmp_path):
    path = tmp_path / 'cpuinfo'
    path.write_text('model name\t: Fast One\nflags\t\t: fpu avx2 avx512f\n\nmodel name\t: Other\n')
    assert cpu_name(path) == 'Fast One (AVX2, AVX-512)'
    assert cpu_name(tmp_path / 'absent')
