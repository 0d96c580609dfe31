"""The engine computes what a policy's own forward pass gives, for every kind of policy."""

from dataclasses import replace
import logging
import subprocess
import sys
from typing import Any

from engine_parts import (
    assert_decides_as,
    assert_same,
    CONFIG,
    GOALS,
    HISTORY,
    make_engine,
    Observation,
    plain,
    Recording,
    SPEC,
    VISION,
)
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from vqbet_ros.policy import packed
from vqbet_ros.policy.engine import Engine, KEPT
from vqbet_ros.policy.feature_rows import FeatureRows, NOTHING
from vqbet_ros.policy.packed import Dense, Numbers
from vqbet_ros.policy.program import Program

CPU = torch.device('cpu')
LAYOUTS: dict[str, dict[str, Any]] = {
    'plain': {},
    'deep': {'layers': 3},
    'sequential': {'code_mode': 'sequential', 'head_hidden': 8, 'code_layers': 3},
    'no query token': {'query_token': False},
    'relative actions': {'relative_actions': True},
    'whole image': {'vision': replace(VISION, crop=None, stages=4)},
    'average pooling': {'vision': replace(VISION, pool='average', stages=2)},
    'group norm': {'vision': replace(VISION, norm='group', stages=2)},
    'bottlenecks': {'vision': replace(VISION, backbone='resnet50', stages=2)},
    'unit pixels': {'vision': replace(VISION, normalisation='unit')},
}


@pytest.fixture(params=['none', 'onednn', 'float16'])
def numbers(request, monkeypatch):
    """Let engines compute with each kind of layers in turn."""
    numbers = Numbers(packing=request.param)
    if request.param != 'none' and not numbers.work():
        pytest.skip('this PyTorch has no such layers for this CPU')
    monkeypatch.setattr(Numbers, 'best', lambda *_: numbers)
    return numbers


def prepared(engine):
    """Give batch norms something to do, and the trunk weights that float16 holds as they are."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in engine.policy.vqbet.trunk.named_parameters():
        if name.endswith('weight') and weight.ndim == 2:
            weight.data.copy_(weight.data.half())
    for module in engine.policy.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.data.uniform_(0.5, 2.0, generator=generator)
            module.bias.data.normal_(generator=generator)
    return engine


def rebuilt(config):
    return Engine(prepared(make_engine(config)).policy)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_decides_as_the_plain_pass(layout, numbers):
    engine = rebuilt(replace(CONFIG, **LAYOUTS[layout]))
    assert engine.numbers == numbers
    assert_decides_as(engine, engine)


def test_a_folded_encoder_gives_the_same_features(numbers):
    for vision in (VISION, replace(VISION, stages=4), replace(VISION, norm='group')):
        policy = rebuilt(replace(CONFIG, vision=vision)).policy
        program = Program(policy, numbers)
        images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
        with torch.inference_mode():
            expected = policy.encode(images)
            found = program.encode(images[:, 2:30, 2:30])
        assert expected.std() > 1e-3
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_cameras_with_stamps_of_their_own():
    engine = make_engine()
    recording = Recording()
    for step in range(3, 8):
        # The side camera is a frame behind, and stamped so.
        frames = tuple(
            {'top': recording.frames(s)['top'], 'side': recording.frames(s - 1)['side']}
            for s in range(step - HISTORY + 1, step + 1)
        )
        state = recording.state[step - HISTORY + 1 : step + 1]
        output = engine.plan(Observation(frames, state, np.ones(HISTORY, bool)))
        steps = np.arange(step - HISTORY + 1, step + 1)
        images = {
            'top': recording.images['top'][steps],
            'side': recording.images['side'][steps - 1],
        }
        expected = engine.decode(engine.encode(images)[None], torch.from_numpy(state)[None], None)
        assert_same(output, expected)


def test_draws_are_those_of_the_plain_pass():
    one, other = (make_engine(temperature=2.0) for _ in range(2))
    recording = Recording()
    for step in range(2, 8):
        output = one.plan(recording.observation(step))
        np.testing.assert_array_equal(output.codes, plain(other, recording, step).codes[0])


def test_a_warm_up_leaves_the_goal_as_it_is():
    engine, recording = make_engine(), Recording()
    observation = recording.observation(3)
    for goal in ({name: i[6 : 6 + GOALS] for name, i in recording.images.items()}, None):
        engine.set_goal(goal, recording.state[6 : 6 + GOALS])
        before = engine.plan(observation)
        engine.warm_up()
        engine.reset()
        after = engine.plan(observation)
        assert np.array_equal(before.actions, after.actions)


def test_what_is_kept_does_not_grow():
    engine = make_engine()
    recording = Recording(length=2)
    most = KEPT * HISTORY * len(SPEC.cameras)
    for number in range(200):
        # A camera of 30 Hz at a policy of 1 Hz: far more frames lie in between than there is room.
        stamps = [number + 30 * back for back in range(HISTORY)]
        frames = tuple(
            {name: replace(frame, stamp_ns=stamp) for name, frame in recording.frames(0).items()}
            for stamp in stamps
        )
        engine.plan(Observation(frames, recording.state[[0] * HISTORY], np.ones(HISTORY, bool)))
        assert len(engine._rows) <= most
    assert len(engine._rows) == most  # so that the bound has been reached
    assert engine._runner.ring.shape[0] == most + 1 + len(SPEC.cameras)


def test_rows_are_given_once_and_never_those_in_use():
    rows = FeatureRows(6)
    held = {}
    generator = np.random.default_rng(0)
    for now in range(200):
        wanted = [('a', now - int(back)) for back in generator.choice(9, 3, replace=False)]
        for key in rows.keep(wanted):
            assert key not in held
            row = rows.next_row()
            rows.take(key)
            assert row == rows[key]
        assert len({rows[key] for key in wanted}) == 3
        assert not {rows[key] for key in wanted} & {NOTHING, *rows.scratch}
        held = {key: rows[key] for key in wanted}
        assert len(rows) <= 6


def test_a_frame_that_cannot_be_encoded_is_tried_again(monkeypatch):
    engine, recording = make_engine(), Recording()
    expected = engine.plan(recording.observation(3))
    engine.reset()
    encode, calls = engine._runner.encode, []

    def failing(image, row):
        calls.append(row)
        if len(calls) == 3:
            raise RuntimeError('out of memory')
        encode(image, row)

    monkeypatch.setattr(engine._runner, 'encode', failing)
    with pytest.raises(RuntimeError, match='out of memory'):
        engine.plan(recording.observation(3))
    assert np.array_equal(engine.plan(recording.observation(3)).actions, expected.actions)


@pytest.mark.parametrize(
    ('precision', 'numbers', 'share'),
    [('bfloat16', 'bfloat16', 0.05), ('float16', 'float32, trunk weights float16', 0.01)],
)
def test_half_precision_changes_decisions_little(precision, numbers, share):
    exact, half = make_engine(), make_engine(precision=precision)
    if Numbers.best(CPU).packing == 'float16':
        assert str(half.numbers) == numbers
    recording = Recording()
    same = 0
    for step in range(8):
        one, other = (e.plan(recording.observation(step)) for e in (exact, half))
        np.testing.assert_allclose(other.probabilities, one.probabilities, atol=0.05)
        if np.array_equal(one.codes, other.codes):
            same += 1
            np.testing.assert_allclose(other.actions, one.actions, atol=share * 512)
    assert same >= 6


def test_half_weights_are_multiplied_in_float32():
    numbers = Numbers(packing='float16')
    if not numbers.work():
        pytest.skip('this PyTorch has no such layers for this CPU')
    linear, x = torch.nn.Linear(64, 96), torch.randn(7, 64)
    with torch.inference_mode():
        found = Dense(linear, rows=7, numbers=numbers)(x)
        rounded = F.linear(x, linear.weight.half().float(), linear.bias)
        everything = F.linear(x.half(), linear.weight.half(), linear.bias.half()).float()
    torch.testing.assert_close(found, rounded, rtol=1e-5, atol=1e-5)
    assert (found - everything).abs().max() > 1e-4  # it would have been seen


def missing(numbers):
    raise AttributeError(f"'_OpNamespace' object has nothing for {numbers.packing}")


@pytest.mark.parametrize(
    ('differs', 'left', 'logged'),
    [
        (lambda numbers: 0.0, 'float16', []),
        (
            lambda numbers: 0.5 * (numbers.packing == 'float16'),
            'onednn',
            ['packed as float16 are not used: they differ by 0.5'],
        ),
        (
            missing,
            'none',
            [f"packed as {p} are not used: '_OpNamespace' object" for p in ('float16', 'onednn')],
        ),
    ],
)
def test_the_next_best_runs_and_the_log_says_why(differs, left, logged, monkeypatch, caplog):
    monkeypatch.setattr(packed, '_difference', differs)
    with caplog.at_level(logging.WARNING):
        assert Numbers.best(CPU) == Numbers(packing=left)
    assert len(caplog.records) == len(logged)
    for record, text in zip(caplog.records, logged, strict=True):
        assert text in record.message
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        exact = Numbers.best(CPU, 'float32')
    assert exact.packing == ('none' if left == 'none' else 'onednn')
    assert 'float16' not in caplog.text


@pytest.mark.parametrize(('precision', 'packing'), [('bfloat16', 'onednn'), ('float32', 'none')])
def test_what_rounds_more_may_differ_more(precision, packing, monkeypatch):
    monkeypatch.setattr(packed, '_difference', lambda numbers: 0.03)
    assert Numbers.best(CPU, precision).packing == packing


def test_a_gpu_computes_in_float16():
    assert Numbers.best(torch.device('cuda')) == Numbers(torch.float16)
    assert Numbers.best(torch.device('cuda'), 'float32') == Numbers()


def test_making_an_engine_warns_of_nothing():
    program = (
        'import warnings\n'
        'warnings.simplefilter("error")\n'
        'import torch\n'
        'from vqbet_ros.policy.packed import Dense, Numbers\n'
        'numbers = Numbers.best(torch.device("cpu"))\n'
        'Dense(torch.nn.Linear(8, 8), rows=3, numbers=numbers)(torch.randn(3, 8))\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ''), done.stderr
    assert 'deprecated' not in done.stderr
