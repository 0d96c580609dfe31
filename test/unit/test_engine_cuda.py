"""The engine on a GPU: CUDA graphs give what the plain pass gives, and what a CPU gives."""

from contextlib import nullcontext
from dataclasses import replace
import logging

from engine_parts import assert_same, CONFIG, GOALS, make_engine, plain, Recording
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from vqbet_ros.policy.engine import Engine
from vqbet_ros.policy.graphs import GraphRunner
from vqbet_ros.policy.runner import Runner

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


def on_gpu(config=CONFIG, **settings):
    policy = make_engine(config).policy.to('cuda')
    return Engine(policy, precision='float32', **settings)


def same(output, decoded):
    assert_same(output, type(decoded)(*(part.cpu() for part in vars(decoded).values())))


@pytest.fixture
def exact():
    """Convolutions and products in float32, not TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@needs_gpu
@pytest.mark.parametrize('code_mode', ['joint', 'sequential'])
@pytest.mark.parametrize('relative_actions', [False, True])
def test_graphs_give_what_the_plain_pass_gives(exact, code_mode, relative_actions, caplog):
    config = replace(CONFIG, code_mode=code_mode, relative_actions=relative_actions)
    with caplog.at_level(logging.WARNING):
        engine = on_gpu(config)
        engine.warm_up()
    assert not caplog.records  # everything was captured
    captured = [dict(engine._runner._encoders), dict(engine._runner._decisions)]
    assert [len(c) for c in captured] == [1, 2]  # one size after the crop; with and without goal
    recording = Recording()
    for step in range(6):
        same(engine.plan(recording.observation(step)), plain(engine, recording, step))
    for begin in (5, 6, None):
        goal = None
        if begin is not None:
            goal = {n: images[begin : begin + GOALS] for n, images in recording.images.items()}
        engine.set_goal(goal, recording.state[6 : 6 + GOALS])
        for step in (6, 7):
            output = engine.plan(recording.observation(step, missing=(5,)))
            same(output, plain(engine, recording, step, missing=(5,)))
    # Nothing was left to the first plan.
    assert captured == [engine._runner._encoders, engine._runner._decisions]


@needs_gpu
def test_a_gpu_draws_and_stays_as_a_cpu_does(exact):
    recording = Recording()
    engines = (make_engine(temperature=2.0), on_gpu(temperature=2.0))
    for step in range(2, 8):
        for running in (None, 0, 3):
            one, other = (
                e.plan(recording.observation(step), running=running, hysteresis=0.2)
                for e in engines
            )
            np.testing.assert_array_equal(other.codes, one.codes)
            np.testing.assert_allclose(other.actions, one.actions, rtol=1e-3, atol=0.1)


@needs_gpu
def test_what_cannot_be_captured_runs_all_the_same(exact, monkeypatch, caplog):
    compute = Runner._compute

    def asking(self, question):
        assert float(question.sum()) == float(question.sum())  # waits for the GPU: no graph
        return compute(self, question)

    monkeypatch.setattr(Runner, '_compute', asking)
    engine, recording = on_gpu(), Recording()
    with caplog.at_level(logging.WARNING):
        output = engine.plan(recording.observation(3))
    assert 'the decision runs without a CUDA graph' in caplog.text
    same(output, plain(engine, recording, 3))


def test_a_capture_that_fails_is_told_and_kept(monkeypatch, caplog):
    """Without a GPU: its graph must not be let go, its error may have no text."""

    def failing(graph, **settings):
        assert settings['stream'] == 'stream'
        raise RuntimeError

    for name, what in (
        ('CUDAGraph', lambda: 'graph'),
        ('graph', failing),
        ('stream', lambda stream: nullcontext()),
        ('synchronize', lambda device: None),
    ):
        monkeypatch.setattr(torch.cuda, name, what)
    runner = GraphRunner.__new__(GraphRunner)
    runner.device, runner._graphs = torch.device('cuda'), []
    runner._stream = 'stream'  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        assert runner._replayed(lambda: None, 'the encoder') is None
    assert 'the encoder runs without a CUDA graph, which is slower' in caplog.text
    assert runner._graphs == ['graph']  # type: ignore[comparison-overlap]


class Operators(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_nothing_in_a_decision_waits_for_the_device():
    # What a CUDA graph cannot hold, seen without a GPU: values that the host asks for, results
    # whose size depends on values, constants that are uploaded.
    engine = make_engine(replace(CONFIG, relative_actions=True), temperature=2.0)
    recording = Recording()
    engine.set_goal({n: i[:GOALS] for n, i in recording.images.items()}, recording.state[:GOALS])
    runner = engine._runner
    with torch.no_grad(), Operators() as seen:
        runner._compute(runner._question)
        runner.program.encode(torch.zeros(1, 28, 28, 3, dtype=torch.uint8))
    assert 'argmax' in seen.names
    assert not seen.names & {'_local_scalar_dense', 'nonzero', 'masked_select', 'lift_fresh'}
    with torch.no_grad(), Operators() as seen:
        float(torch.zeros(3).argmax()) + torch.tensor([1.0])
    assert {'_local_scalar_dense', 'lift_fresh'} <= seen.names  # they would have been seen
