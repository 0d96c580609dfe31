"""The engine computes what a policy's own forward pass gives, for every kind of policy."""

from dataclasses import replace
import logging
from typing import Any

from engine_parts import (
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
from vqbet_ros.policy import packed
from vqbet_ros.policy.engine import KEPT
from vqbet_ros.policy.feature_rows import FeatureRows, NOTHING
from vqbet_ros.policy.packed import can_pack
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


@pytest.fixture(params=[True, False], ids=['packed', 'not packed'])
def pack(request, monkeypatch):
    if request.param and not can_pack(CPU, torch.float32):
        pytest.skip('this PyTorch has no packed layers for this CPU')
    monkeypatch.setattr('vqbet_ros.policy.program.can_pack', lambda *_: request.param)
    return request.param


def norms_of_use(engine):
    """Give batch norms statistics of their own: fresh ones do next to nothing."""
    generator = torch.Generator().manual_seed(3)
    for module in engine.policy.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.data.uniform_(0.5, 2.0, generator=generator)
            module.bias.data.normal_(generator=generator)
    return engine


def rebuilt(config, **settings):
    """Make an engine whose norms do something."""
    policy = norms_of_use(make_engine(config, **settings)).policy
    return type(make_engine(config))(policy, **settings)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_decides_as_the_plain_pass(layout, pack):
    engine = rebuilt(replace(CONFIG, **LAYOUTS[layout]))
    recording = Recording()
    for step in range(5):
        assert_same(engine.plan(recording.observation(step)), plain(engine, recording, step))
    # Begun in the middle, with a goal, a frame lost, another goal, none.
    engine.reset()
    for step, begin in ((5, 6), (6, 5), (7, None)):
        goal = None
        if begin is not None:
            goal = {
                name: images[begin : begin + GOALS] for name, images in recording.images.items()
            }
        engine.set_goal(goal, recording.state[6 : 6 + GOALS])
        for missing in ((), (step - 1,)):
            output = engine.plan(recording.observation(step, missing=missing, start=4))
            assert_same(output, plain(engine, recording, step, missing=missing, start=4))


def test_a_folded_encoder_gives_the_same_features(pack):
    for vision in (VISION, replace(VISION, stages=4), replace(VISION, norm='group')):
        policy = rebuilt(replace(CONFIG, vision=vision)).policy
        program = Program(policy, pack=pack)
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


@pytest.mark.parametrize(('precision', 'share'), [('bfloat16', 0.05), ('float16', 0.01)])
def test_half_precision_changes_decisions_little(precision, share):
    exact, half = make_engine(), make_engine(precision=precision)
    recording = Recording()
    same = 0
    for step in range(8):
        one, other = (e.plan(recording.observation(step)) for e in (exact, half))
        np.testing.assert_allclose(other.probabilities, one.probabilities, atol=0.05)
        if np.array_equal(one.codes, other.codes):
            same += 1
            np.testing.assert_allclose(other.actions, one.actions, atol=share * 512)
    assert same >= 6


def test_without_packed_layers_the_log_says_why(monkeypatch, caplog):
    def missing(dtype):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute 'this'")

    monkeypatch.setattr(packed, '_difference', missing)
    with caplog.at_level(logging.WARNING):
        assert not can_pack(CPU, torch.float32)
    assert 'packed layers are not used' in caplog.text
    assert 'no attribute' in caplog.text
    caplog.clear()
    monkeypatch.setattr(packed, '_difference', lambda dtype: 0.5)
    with caplog.at_level(logging.WARNING):
        assert not can_pack(CPU, torch.float32)
    assert 'they differ by 0.5' in caplog.text
