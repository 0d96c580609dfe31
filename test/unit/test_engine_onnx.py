"""The engine in ONNX Runtime decides as the plain pass; a graph of another policy is not used."""

from dataclasses import replace
import logging
import shutil

from engine_parts import (
    assert_decides_as,
    assert_same,
    CONFIG,
    HISTORY,
    KEYPOINTS,
    make_engine,
    Observation,
    Recording,
)
import numpy as np
import pytest
import torch
from vqbet_ros.errors import BadCheckpoint
from vqbet_ros.policy import engine as engine_module
from vqbet_ros.policy import onnx_export
from vqbet_ros.policy.checkpoint import save_checkpoint
from vqbet_ros.policy.engine import Engine, GRAPH
from vqbet_ros.policy.onnx_export import export
from vqbet_ros.policy.onnx_runner import OnnxRunner

for package in ('onnx', 'onnxruntime', 'onnxscript'):
    pytest.importorskip(package)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Save a policy together with its graph."""
    path = tmp_path_factory.mktemp('exported') / 'checkpoint'
    policy = make_engine(replace(CONFIG, temperature=1.0)).policy
    save_checkpoint(path, policy, card='', training={})
    export(policy, path / GRAPH, temperature=1.0, cases=2)
    return path


def test_every_plan_is_that_of_the_plain_pass(checkpoint):
    engine, other = Engine.load(checkpoint), Engine.load(checkpoint, precision='float32')
    assert isinstance(engine._runner, OnnxRunner)
    assert not isinstance(other._runner, OnnxRunner)
    engine.warm_up()
    assert_decides_as(engine, other)
    recording = Recording()
    for running in range(4):
        first, second = (
            e.plan(recording.observation(7), running=running, hysteresis=0.1)
            for e in (engine, other)
        )
        np.testing.assert_array_equal(first.codes, second.codes)
        np.testing.assert_allclose(first.actions, second.actions, rtol=1e-4, atol=1e-2)


def count_runs(engine):
    """Return a list that grows with each run of the graph."""
    session, runs = engine._runner._session, []

    class Counting:
        def run(self, *args):
            runs.append(args)
            return session.run(*args)

    engine._runner._session = Counting()
    return runs


def test_one_run_for_what_was_looked_at_between_two_plans(checkpoint):
    engine, other = Engine.load(checkpoint), Engine.load(checkpoint, precision='float32')
    runs, recording = count_runs(engine), Recording()
    counts = []
    for step in range(8):
        before = len(runs)
        if step in (0, 4, 7):
            first, second = (e.plan(recording.observation(step)) for e in (engine, other))
            np.testing.assert_array_equal(first.codes, second.codes)
            np.testing.assert_allclose(first.actions, second.actions, rtol=1e-4, atol=1e-2)
        else:
            engine.look(recording.observation(step))
            engine.look(recording.observation(step))
        counts.append(len(runs) - before)
    assert counts == [1] * 8


def test_one_run_a_plan_once_the_history_is_known(checkpoint):
    engine, recording = Engine.load(checkpoint), Recording()
    runs = count_runs(engine)
    counts = []
    for step in (3, 4, 5, 5):
        before = len(runs)
        engine.plan(recording.observation(step))
        counts.append(len(runs) - before)
    assert counts == [HISTORY, 1, 1, 1]
    # A frame that stands for two steps, and a camera that is a frame behind.
    frames = (
        recording.frames(5),
        recording.frames(5),
        {**recording.frames(6), 'side': recording.frames(5)['side']},
    )
    state = recording.state[4:7]
    output = engine.plan(Observation(frames, state, np.ones(HISTORY, bool)))
    images = {
        'top': recording.images['top'][[5, 5, 6]],
        'side': recording.images['side'][[5, 5, 5]],
    }
    other = Engine.load(checkpoint, precision='float32')
    for _ in counts:
        other._noise(1)
    expected = other.decode(other.encode(images)[None], torch.from_numpy(state)[None], None)
    assert_same(output, expected)


def test_a_policy_without_cameras(tmp_path):
    config = replace(CONFIG, goal_steps=0, goal_state=False, temperature=1.0)
    policy = make_engine(config, KEYPOINTS).policy
    save_checkpoint(tmp_path, policy, card='', training={})
    export(policy, tmp_path / GRAPH, temperature=1.0, cases=2)
    engine, other = Engine.load(tmp_path), Engine.load(tmp_path, precision='float32')
    assert isinstance(engine._runner, OnnxRunner)
    engine.warm_up()
    rng = np.random.default_rng(0)
    for known in range(1, HISTORY + 1):
        state = rng.uniform(0, 512, (HISTORY, KEYPOINTS.state_dim)).astype(np.float32)
        valid = np.arange(HISTORY) >= HISTORY - known
        observation = Observation(tuple({} if v else None for v in valid), state, valid)
        first, second = (e.plan(observation, running=0, hysteresis=0.1) for e in (engine, other))
        np.testing.assert_array_equal(first.codes, second.codes)
        np.testing.assert_allclose(first.actions, second.actions, rtol=1e-4, atol=1e-2)


def test_a_graph_of_another_policy_is_not_used(checkpoint, tmp_path, caplog):
    torch.manual_seed(5)
    policy = make_engine(replace(CONFIG, temperature=1.0)).policy
    with torch.no_grad():
        policy.vqbet.position.add_(0.1)
    with pytest.raises(BadCheckpoint, match='was not exported from this checkpoint'):
        Engine(policy, graph=checkpoint / GRAPH)
    save_checkpoint(tmp_path / 'other', policy, card='', training={})
    shutil.copy(checkpoint / GRAPH, tmp_path / 'other')
    save_checkpoint(tmp_path / 'broken', policy, card='', training={})
    (tmp_path / 'broken' / GRAPH).write_bytes(b'no graph')
    wrong = ((tmp_path / 'other', None), (tmp_path / 'broken', None), (checkpoint, 0.5))
    for path, temperature in wrong:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            engine = Engine.load(path, temperature=temperature)
        assert not isinstance(engine._runner, OnnxRunner)
        assert 'policy.onnx is not used' in caplog.text


def test_a_graph_of_an_older_format_is_not_used(checkpoint, monkeypatch, caplog):
    monkeypatch.setattr(onnx_export, 'FORMAT', onnx_export.FORMAT + 1)
    with caplog.at_level(logging.WARNING):
        engine = Engine.load(checkpoint)
    assert engine.runtime == 'PyTorch'
    assert 'by another version of this package; run `vqbet export onnx` again' in caplog.text


def test_a_runtime_that_cannot_be_loaded_is_done_without(checkpoint, monkeypatch, caplog):
    def broken(*args, **settings):
        raise ImportError('libonnxruntime.so: cannot open shared object file')

    monkeypatch.setattr(engine_module, 'OnnxRunner', broken)
    with caplog.at_level(logging.WARNING):
        engine = Engine.load(checkpoint)
    assert engine.runtime == 'PyTorch'
    assert 'cannot open shared object file' in caplog.text
