"""What a training does on a GPU, seen without one: where tensors are, and what would wait."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('rich', reason="needs the extra 'train'")
pytest.importorskip('tensorboard', reason="needs the extra 'train'")
pytest.importorskip('matplotlib', reason="needs the extra 'train'")

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from vqbet_ros.policy.checkpoint import load_checkpoint
from vqbet_ros.policy.policy import Policy
from vqbet_ros.policy.rvq import ResidualVQ
from vqbet_ros.training.data import load_data
from vqbet_ros.training.evaluate_offline import evaluate
from vqbet_ros.training.phases import policy as policy_phase
from vqbet_ros.training.phases.policy import PolicyTraining
from vqbet_ros.training.phases.tokenizer import TokenizerTraining
from vqbet_ros.training.report import predict, whole_chunks
from vqbet_ros.training.step import Stepper
from vqbet_ros.training.trainer import Trainer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
CUDA = torch.device('cuda')
ASKING = {'_local_scalar_dense', 'nonzero', 'masked_select'}


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name in ASKING:
            self.found[f'asking for {args[0].dtype}'] += 1
        if name == '_to_copy' and kwargs.get('device') is not None:
            ends = {args[0].device.type, torch.device(kwargs['device']).type}
            if len(ends) == 2 and not kwargs.get('non_blocking'):
                self.found['a copy'] += 1
        if name == 'index' and args[0].device.type == 'cuda':
            there = {index.device.type for index in args[1] if index is not None}
            self.found['an index that is not there'] += 'cpu' in there
        return func(*args, **kwargs)

    @property
    def reasons(self):
        return {reason for reason, times in self.found.items() if times}


@pytest.fixture
def on_gpu(tmp_path, make_dataset, tiny_config, monkeypatch):
    """A policy and its data on a GPU that is not there: shapes and devices without numbers."""
    vision = replace(tiny_config.model.vision, train='full', crop=None, colour_jitter=0.0)
    model = replace(tiny_config.model, vision=vision, goal_steps=2, goal_state=True)
    config = replace(tiny_config, model=model, bf16=False)
    dataset = make_dataset(tmp_path / 'dataset')
    # Neither of the two can be imitated.
    monkeypatch.setattr(policy_phase, 'channels_last', lambda encoder: encoder)
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (1 << 40, 1 << 40))
    with FakeTensorMode(allow_non_fake_inputs=True):
        data = load_data(dataset, config, CUDA)
        with CUDA:
            policy = Policy(
                config.model, dataset.spec, {key: data.stats[key] for key in ('state', 'action')}
            )
        policy.vqbet.tokenizer.rvq._ready = True
        yield policy, data, config


def test_a_step_of_phase_policy_waits_for_nothing(on_gpu):
    policy, data, config = on_gpu
    phase = PolicyTraining(policy, data, config)
    policy.train()
    with Waits() as waits:
        loss, _ = phase.loss(0)
    assert loss.device.type == 'cuda'
    assert waits.reasons == set()


def test_a_step_of_phase_tokenizer_waits_for_nothing(on_gpu):
    policy, data, config = on_gpu
    phase = TokenizerTraining(policy, data, config)
    phase.module.train()
    with Waits() as waits:
        loss, _ = phase.loss(0)
    assert loss.device.type == 'cuda'
    assert waits.reasons == set()


def test_chunks_are_predicted_where_the_policy_is(on_gpu):
    policy, data, config = on_gpu
    policy.eval()
    _, frames = whole_chunks(data.val, config.model.chunk)
    with torch.no_grad():
        chunks = predict(policy, data, frames)
    assert chunks.device.type == 'cuda'
    assert chunks.shape == (len(frames), config.model.chunk, 2)


def test_what_waits_would_be_seen(on_gpu):
    _, data, _ = on_gpu
    with Waits() as waits:
        data.state[torch.tensor([0, 1])]
    assert waits.reasons == {'an index that is not there'}
    with Waits() as waits:
        data.state[np.array([0, 1])]
    assert waits.reasons == {'a copy'}


@needs_gpu
@pytest.mark.parametrize('phase', ['tokenizer', 'policy'])
def test_steps_on_a_gpu_wait_for_nothing(phase, tmp_path, make_dataset, tiny_config):
    vision = replace(tiny_config.model.vision, train='full')
    config = replace(tiny_config, model=replace(tiny_config.model, vision=vision, goal_steps=2))
    data = load_data(make_dataset(tmp_path / 'dataset'), config, CUDA)
    stats = {key: data.stats[key] for key in ('state', 'action')}
    policy = Policy(config.model, data.dataset.spec, stats).to(CUDA)
    stepper = Stepper(policy, TokenizerTraining(policy, data, config), config, 0)
    stepper.step(0)  # makes the codebooks
    if phase == 'policy':
        stepper = Stepper(policy, PolicyTraining(policy, data, config), config, 1)
    for step in range(2):
        stepper.step(step)
    torch.cuda.set_sync_debug_mode('error')
    try:
        for step in range(2, 5):
            stepper.step(step)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert stepper.bad_step() is None


@needs_gpu
def test_a_run_is_reported_and_evaluated_on_a_gpu(tmp_path, make_dataset, tiny_config):
    dataset, run = make_dataset(tmp_path / 'dataset'), tmp_path / 'run'
    assert Trainer(dataset, tiny_config, run, 'cuda').run()
    last = run / 'checkpoints/last'
    there, here = (evaluate(load_checkpoint(last, device), dataset) for device in ('cuda', 'cpu'))
    assert there.predicted.shape == here.predicted.shape
    assert np.isfinite(there.error).all()


def test_codebooks_are_asked_once_whether_they_are_there():
    rvq, x = ResidualVQ(layers=1, codebook_size=4, width=2), torch.randn(16, 2)
    with Waits() as waits:
        rvq(x)
    assert 'asking for torch.bool' in waits.reasons
    with Waits() as waits:
        rvq(x)
    assert 'asking for torch.bool' not in waits.reasons
    # What is loaded decides anew, whichever way.
    fresh = ResidualVQ(layers=1, codebook_size=4, width=2)
    rvq.load_state_dict(fresh.state_dict())
    rvq(x)
    assert bool(rvq.initialised)
    assert not torch.equal(rvq.codebooks, fresh.codebooks)
    fresh.load_state_dict(rvq.state_dict())
    fresh.decay, fresh.revive_below = 1.0 - 1e-9, 0.0
    fresh(x)
    torch.testing.assert_close(fresh.codebooks, rvq.codebooks, rtol=1e-3, atol=1e-3)
