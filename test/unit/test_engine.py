"""The engine: cached features, goals, draws, and decisions one by one as in a batch."""

from dataclasses import replace
import warnings

from engine_parts import (
    assert_same,
    CONFIG,
    GOALS,
    HISTORY,
    KEYPOINTS,
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
from vqbet_ros.errors import ConfigError
from vqbet_ros.policy.checkpoint import save_checkpoint
from vqbet_ros.policy.engine import Engine


@pytest.fixture
def engine():
    return make_engine()


@pytest.fixture
def encoded(engine):
    """Count the images that the encoder sees."""
    seen = []
    engine._runner.program.encoder.register_forward_hook(
        lambda module, args, out: seen.append(len(args[0]))
    )
    return seen


def test_kept_features_give_what_a_plain_pass_gives(engine):
    recording = Recording()
    for step in range(8):
        output = engine.plan(recording.observation(step))
        assert output.actions.shape == (4, 2)
        assert output.actions.dtype == np.float32
        assert output.codes.shape == (2,)
        assert 0.0 < output.confidence <= 1.0
        assert_same(output, plain(engine, recording, step))


def test_what_was_looked_at_is_not_encoded_again(engine, encoded):
    recording = Recording()
    for step in (0, 1, 2, 3):
        engine.look(recording.observation(step))
    assert sum(encoded) == 4 * len(SPEC.cameras)
    expected = plain(engine, recording, 4)
    encoded.clear()
    assert_same(engine.plan(recording.observation(4)), expected)
    assert sum(encoded) == len(SPEC.cameras)


def test_a_dropped_frame_is_left_out(engine):
    recording = Recording()
    whole = engine.plan(recording.observation(5)).actions
    for step in range(5, 8):
        output = engine.plan(recording.observation(step, missing=(4,)))
        assert_same(output, plain(engine, recording, step, missing=(4,)))
        if step == 5:
            assert not np.allclose(output.actions, whole, atol=1e-2)


def test_nothing_is_left_after_a_reset(engine):
    one, other = Recording(seed=0), Recording(seed=1)  # with the same stamps
    for step in range(4):
        engine.plan(one.observation(step))
    engine.reset()
    for step in range(3, 6):
        assert_same(
            engine.plan(other.observation(step, start=3)), plain(engine, other, step, start=3)
        )


def test_each_frame_is_encoded_once(engine, encoded):
    recording = Recording()
    for step in range(8):
        engine.plan(recording.observation(step))
        assert sum(encoded) == 2 * (step + 1)
    engine.plan(recording.observation(7))
    assert sum(encoded) == 16
    engine.reset()
    engine.plan(recording.observation(7))
    assert sum(encoded) == 16 + 2 * HISTORY


def test_frames_between_those_of_an_observation_are_kept(engine, encoded):
    # The camera is twice as fast as the policy's steps: observations take every other frame.
    recording = Recording(length=12)
    for newest in range(4, 12):
        frames = tuple(recording.frames(newest - 2 * back) for back in (2, 1, 0))
        state = recording.state[[newest - 4, newest - 2, newest]]
        engine.plan(Observation(frames, state, np.ones(HISTORY, bool)))
    assert sum(encoded) == 2 * 12
    assert len(engine._rows) == 2 * 5  # and no more than the observation spans


def test_a_frame_that_stands_for_two_steps_is_encoded_once(engine, encoded):
    recording = Recording()
    frames = (recording.frames(0), recording.frames(0), recording.frames(1))
    engine.plan(Observation(frames, recording.state[:3], np.ones(HISTORY, bool)))
    assert sum(encoded) == 4


def test_a_batch_decides_as_its_rows(engine):
    recording = Recording()
    state = torch.from_numpy(np.stack([recording.state[i : i + 3] for i in range(4)]))
    every = engine.encode(recording.images)
    features = torch.stack([every[i : i + 3] for i in range(4)])
    goal = {name: images[6:8] for name, images in recording.images.items()}
    engine.set_goal(goal, recording.state[6:8])
    together = engine.decode(features, state, None)
    for row in range(4):
        alone = engine.decode(features[row : row + 1], state[row : row + 1], None)
        torch.testing.assert_close(together.actions[row], alone.actions[0], rtol=1e-4, atol=1e-2)


def test_the_newest_step_must_be_there(engine):
    observation = Recording().observation(5, missing=(5,))
    with pytest.raises(ValueError, match='newest step'):
        engine.plan(observation)


def test_a_goal_changes_decisions_until_it_is_taken_away(engine):
    recording = Recording()
    observation = recording.observation(3)
    without = engine.plan(observation).actions
    goal = {name: images[6:8] for name, images in recording.images.items()}
    engine.set_goal(goal, recording.state[6:8])
    output = engine.plan(observation)
    assert not np.allclose(output.actions, without, atol=1e-2)
    assert_same(output, plain(engine, recording, 3))
    engine.reset()  # of the history, not of the goal
    np.testing.assert_allclose(engine.plan(observation).actions, output.actions, atol=1e-2)
    engine.set_goal(None)
    np.testing.assert_allclose(engine.plan(observation).actions, without, atol=1e-2)


def test_a_goal_that_does_not_fit_is_refused_and_the_old_one_stays(engine):
    recording = Recording()
    goal = {name: images[6:8] for name, images in recording.images.items()}
    state = recording.state[6:8]
    engine.set_goal(goal, state)
    before = engine.plan(recording.observation(3)).actions
    wrong = [
        ({'top': goal['top']}, state, 'camera side: got nothing'),
        ({**goal, 'top': goal['top'][:1]}, state, r'camera top: got \(1, 32, 32, 3\) uint8'),
        ({**goal, 'top': goal['top'].astype(np.float32)}, state, 'float32, expected .* uint8'),
        (goal, None, r'state: got nothing, expected \(2, 2\)'),
        (goal, state[:1], r'state: got \(1, 2\)'),
        (goal, np.full((2, 2), np.nan, np.float32), 'not finite'),
    ]
    for images, states, message in wrong:
        with pytest.raises(ConfigError, match=message):
            engine.set_goal(images, states)
        assert np.array_equal(engine.plan(recording.observation(3)).actions, before)
    with pytest.raises(ConfigError, match=r'camera top.*camera side.*state'):  # all at once
        engine.set_goal({})


def test_a_policy_without_goals_refuses_one():
    engine = make_engine(replace(CONFIG, goal_steps=0, goal_state=False))
    with pytest.raises(ConfigError, match='trained without goals'):
        engine.set_goal({}, None)
    engine.set_goal(None)
    assert engine.goal_steps == 0


def test_a_goal_is_a_copy(engine):
    recording = Recording()
    goal = {name: images[6:8].copy() for name, images in recording.images.items()}
    state = recording.state[6:8].copy()
    engine.set_goal(goal, state)
    before = engine.plan(recording.observation(3)).actions
    state[:] = 0.0
    goal['top'][:] = 0
    assert np.array_equal(engine.plan(recording.observation(3)).actions, before)


def test_a_goal_without_a_state_needs_none():
    engine = make_engine(replace(CONFIG, goal_state=False))
    recording = Recording()
    engine.set_goal({name: images[6:8] for name, images in recording.images.items()})
    assert_same(engine.plan(recording.observation(3)), plain(engine, recording, 3))


def test_a_policy_without_cameras():
    engine = make_engine(spec=KEYPOINTS)
    state = 512 * torch.rand(HISTORY, 18, generator=torch.Generator().manual_seed(0))
    valid = np.array([False, True, True])
    engine.warm_up()
    engine.set_goal({}, state[:GOALS].numpy())
    output = engine.plan(Observation((None,) * HISTORY, state.numpy(), valid))
    assert_same(output, engine.decode(None, state[None], torch.from_numpy(valid)[None]))
    # What stands at steps that are not there does not matter.
    state[0] = 1e4
    again = engine.plan(Observation((None,) * HISTORY, state.numpy(), valid))
    np.testing.assert_allclose(again.actions, output.actions, rtol=1e-5, atol=1e-3)


def test_a_policy_without_state():
    engine = make_engine(replace(CONFIG, state=False, goal_state=False))
    recording = Recording()
    observation = recording.observation(3)
    output = engine.plan(observation)
    assert_same(output, plain(engine, recording, 3))
    other = engine.plan(replace(observation, state=observation.state + 50.0))
    assert np.array_equal(other.actions, output.actions)


def test_draws_follow_the_seed():
    recording = Recording()
    runs = []
    for seed in (0, 0, 1):
        engine = make_engine(temperature=2.0, seed=seed)
        runs.append([engine.plan(recording.observation(3)).codes.tolist() for _ in range(20)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert len({tuple(codes) for codes in runs[0]}) > 1


@pytest.mark.parametrize('temperature', [0.0, 2.0])
def test_a_warm_up_leaves_no_trace(temperature):
    recording = Recording()
    cold, warm = (make_engine(temperature=temperature) for _ in range(2))
    warm.warm_up()
    for step in range(8):
        if step == 4:
            warm.warm_up()
        one, other = (e.plan(recording.observation(step)) for e in (cold, warm))
        assert np.array_equal(one.actions, other.actions)
        assert np.array_equal(one.codes, other.codes)
        assert one.confidence == other.confidence


def test_a_loaded_engine_decides_the_same(engine, tmp_path):
    save_checkpoint(tmp_path / 'checkpoint', engine.policy, card='', training={})
    loaded = Engine.load(
        tmp_path / 'checkpoint', threads=torch.get_num_threads(), precision='float32'
    )
    assert (loaded.history, loaded.chunk, loaded.goal_steps) == (HISTORY, 4, GOALS)
    assert loaded.spec == SPEC
    observation = Recording().observation(3)
    assert np.array_equal(loaded.plan(observation).actions, engine.plan(observation).actions)


def test_read_only_arrays_are_taken_without_a_warning(engine):
    recording = Recording()
    before = engine.plan(recording.observation(3)).actions
    engine.reset()
    for images in recording.images.values():
        images.flags.writeable = False
    observation = recording.observation(3)
    observation.state.flags.writeable = observation.valid.flags.writeable = False
    torch.set_warn_always(True)  # torch says it once, and an earlier test may have heard it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            after = engine.plan(observation).actions
    finally:
        torch.set_warn_always(False)
    np.testing.assert_array_equal(after, before)


def test_an_engine_made_in_inference_mode_decides_outside_of_it():
    recording = Recording()
    with torch.inference_mode():
        engine = make_engine(temperature=1.0)
        engine.warm_up()
    goal = {name: images[:GOALS] for name, images in recording.images.items()}
    engine.set_goal(goal, recording.state[:GOALS])
    outside = engine.plan(recording.observation(3))
    assert np.isfinite(outside.actions).all()


def test_making_an_engine_leaves_the_callers_draws():
    policy = make_engine().policy
    before = torch.get_rng_state()
    for precision in ('float16', 'bfloat16', 'float32'):
        Engine(policy, precision=precision)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_warm_up_that_fails_leaves_no_trace(engine, monkeypatch):
    recording = Recording()
    engine.set_goal({n: i[:GOALS] for n, i in recording.images.items()}, recording.state[:GOALS])
    before, draws = engine.plan(recording.observation(3)), engine._generator.get_state()

    def failing(question):
        raise RuntimeError('no memory')

    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, 'decide', failing)
        with pytest.raises(RuntimeError, match='no memory'):
            engine.warm_up()
    assert torch.equal(engine._generator.get_state(), draws)
    np.testing.assert_array_equal(engine.plan(recording.observation(3)).actions, before.actions)


def test_a_warm_up_encodes_a_goal_as_a_goal_is_encoded(engine, monkeypatch):
    sizes, encode = set(), engine.policy.encode

    def counted(images):
        sizes.add(tuple(images.shape))
        return encode(images)

    monkeypatch.setattr(engine.policy, 'encode', counted)
    engine.warm_up()
    assert sizes == {(GOALS, camera.height, camera.width, 3) for camera in SPEC.cameras}


def test_a_crop_larger_than_the_image_is_refused():
    config = replace(CONFIG, vision=replace(VISION, crop=33))
    with pytest.raises(ValueError, match=r'vision.crop 33 is larger than camera top \(32 x 32\)'):
        make_engine(config)
