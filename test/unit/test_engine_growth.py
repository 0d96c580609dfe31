"""An engine holds no more after thousands of decisions than after some: nothing slows it down."""

from dataclasses import replace
import gc
from types import FunctionType, ModuleType

from engine_parts import CONFIG, GOALS, make_engine, Recording
import numpy as np
import pytest
import torch
from vqbet_ros.policy.engine import Engine

MANY = 2000


@pytest.fixture(params=['PyTorch', 'ONNX Runtime'])
def engine(request, tmp_path):
    engine = make_engine(replace(CONFIG, temperature=1.0))
    if request.param == 'PyTorch':
        return engine
    for package in ('onnx', 'onnxruntime', 'onnxscript'):
        pytest.importorskip(package)
    from vqbet_ros.policy.onnx_export import export

    export(engine.policy, tmp_path / 'policy.onnx', temperature=1.0, cases=2)
    return Engine(engine.policy, graph=tmp_path / 'policy.onnx')


def live(engine, decisions):
    """Decide on frames that are ever new; with resets, lost frames and changed goals between."""
    recording = Recording()
    goal = {name: images[:GOALS] for name, images in recording.images.items()}
    for number in range(decisions):
        if number % 97 == 0:
            engine.reset()
        if number % 41 == 0:
            engine.set_goal(None if number % 82 else goal, recording.state[:GOALS])
        observation = recording.observation(2 + number % 6, missing=(number % 7,))
        frames = tuple(
            step and {n: replace(f, stamp_ns=100 * (number + age)) for n, f in step.items()}
            for age, step in enumerate(observation.frames)
        )
        if observation.valid[-1]:
            engine.plan(replace(observation, frames=frames), running=number % 4, hysteresis=0.1)


def held(engine):
    """Count what can be reached from an engine, and the bytes of its tensors and arrays."""
    seen, waiting, size = set(), [engine], 0
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (type, ModuleType, FunctionType)):
            continue
        seen.add(id(thing))
        if isinstance(thing, (torch.Tensor, np.ndarray)):
            size += thing.nbytes
        elif isinstance(thing, dict):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set, frozenset)):
            waiting += thing
        elif hasattr(thing, '__dict__'):
            waiting.append(vars(thing))
    return len(seen), size


def alive():
    """Count all tensors of the process; by type, as some things answer for their class."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.slow
def test_nothing_grows(engine):
    live(engine, 300)
    before = held(engine), alive()
    live(engine, MANY)
    live(engine, 300)  # so that it stands where it stood
    assert (held(engine), alive()) == before


def test_growth_would_be_seen(monkeypatch):
    engine, kept = make_engine(), []
    runner = engine._runner
    decide = runner.decide

    def hoarding(question):
        kept.append(question)
        return decide(question)

    monkeypatch.setattr(runner, 'decide', hoarding)
    monkeypatch.setattr(runner, 'questions', kept, raising=False)
    live(engine, 20)
    before = held(engine)
    live(engine, 20)
    after = held(engine)
    assert after[0] > before[0]
    assert after[1] > before[1]
