import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.runtime.blending import blend, choose_primary, sample, seam
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime.interpolation import Start
from vqbet_ros.runtime.plan import Plan
from vqbet_ros.runtime_spec import BlendSettings

MS = 1_000_000
PERIOD_NS = 100 * MS


def chunk(t_obs_ms, values, code=None):
    actions = np.array(values, dtype=float)[:, None]
    return Chunk(t_obs_ms * MS, actions, PERIOD_NS, 1.0, 0, None if code is None else (code, 3))


def blended(kind, newest, *earlier, running=None, now_ms=0, **options):
    running = running or (earlier[-1] if earlier else None)
    return blend(BlendSettings(kind, **options), newest, earlier, running, now_ms * MS)[:, 0]


def test_a_chunk_is_sampled_between_its_actions_and_nowhere_else():
    values, covered = sample(
        chunk(0, [1, 3, 5]), [50 * MS, 100 * MS, 150 * MS, 300 * MS, 301 * MS]
    )
    assert covered.tolist() == [False, True, True, True, False]
    np.testing.assert_allclose(values[1:4, 0], [1, 2, 5])


def test_replace_takes_the_newest_alone():
    old, new = chunk(0, [0, 0, 0]), chunk(100, [8, 8, 8])
    np.testing.assert_array_equal(blended('replace', new, old, now_ms=100), [8, 8, 8])


def test_a_cross_fade_goes_from_the_running_plan_to_the_newest_chunk():
    old, new = chunk(0, [0] * 6), chunk(100, [8] * 6)
    fade = blended('cross_fade', new, old, now_ms=100, steps=3)
    np.testing.assert_allclose(fade, [2, 4, 6, 8, 8, 8])
    # What is late is left alone and does not count; after the old plan's end there is no fade.
    fade = blended('cross_fade', new, old, now_ms=250, steps=3)
    np.testing.assert_allclose(fade, [8, 2, 4, 6, 8, 8])
    fade = blended('cross_fade', new, chunk(0, [0] * 3), now_ms=100, steps=7)
    np.testing.assert_allclose(fade, [1, 2, 8, 8, 8, 8])
    np.testing.assert_allclose(blended('cross_fade', new), [8] * 6)


def test_an_ensemble_weighs_as_in_its_paper():
    """Against the loop that the paper's program runs at every step."""
    rng = np.random.default_rng(0)
    window, decay = 5, 0.3
    chunks = [chunk(100 * k, rng.normal(0, 1, window)) for k in range(6)]
    for k, newest in enumerate(chunks):
        executed = blended('ensemble', newest, *chunks[:k], decay=decay, now_ms=100 * k)[0]
        said = [  # all that was ever said about this step, oldest first
            float(earlier.actions[k - i, 0])
            for i, earlier in enumerate(chunks[: k + 1])
            if k - i < window
        ]
        weights = np.exp(-decay * np.arange(len(said)))
        assert executed == pytest.approx(np.sum(weights * said) / weights.sum())


def test_only_chunks_of_one_mode_are_averaged():
    left, right = chunk(0, [-1] * 4, code=7), chunk(50, [1] * 4, code=2)
    newest = chunk(100, [3] * 4, code=2)
    mean = blended('mode', newest, left, right, decay=0.0, now_ms=100)
    np.testing.assert_allclose(mean, [2, 2, 2, 3])
    everything = blended('ensemble', newest, left, right, decay=0.0, now_ms=100)
    np.testing.assert_allclose(everything, [1, 1, 1, 3])
    nameless = dataclasses.replace(newest, codes=None)
    unknown = dataclasses.replace(right, codes=None)
    np.testing.assert_allclose(blended('mode', nameless, unknown, now_ms=100), [3] * 4)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(['replace', 'cross_fade', 'ensemble', 'mode']),
    chunks=st.lists(
        st.tuples(
            st.integers(1, 250),
            st.lists(st.floats(-5, 5), min_size=1, max_size=6),
            st.sampled_from([None, 0, 1]),
        ),
        min_size=1,
        max_size=6,
    ),
    decay=st.floats(-1, 1),
)
def test_no_blend_leaves_the_range_of_what_was_planned(kind, chunks, decay):
    plan, now, seen = Plan(blending=BlendSettings(kind, decay=decay)), 0, []
    for later_ms, values, code in chunks:
        now += later_ms
        seen += values
        assert plan.replace(chunk(now, values, code), Start(now * MS, np.zeros(1), np.zeros(1)))
        assert plan.chunk is not None
        assert plan.chunk.actions.min() >= min(seen) - 1e-9
        assert plan.chunk.actions.max() <= max(seen) + 1e-9
        if kind == 'replace':
            np.testing.assert_array_equal(plan.chunk.actions[:, 0], values)


def test_the_seam_is_the_change_of_plan_at_the_first_action_that_is_not_late():
    old, new = chunk(0, [0, 1, 2, 3]), chunk(100, [5, 5, 5])
    assert seam(np.asarray(new.actions), new, old, 100 * MS) == pytest.approx(4)
    assert seam(np.asarray(new.actions), new, old, 250 * MS) == pytest.approx(3)
    assert seam(np.asarray(new.actions), new, chunk(0, [0]), 100 * MS) is None
    plan = Plan()
    plan.replace(old)
    assert plan.seam is None
    plan.replace(new, Start(100 * MS, np.ones(1), np.zeros(1)))
    assert plan.seam == pytest.approx(4)


def test_a_smooth_seam_is_what_blending_is_for():
    """Two ways that are told apart late: the mean of both is neither."""
    ways = [chunk(100 * k, [(-1) ** k] * 8, code=k % 2) for k in range(6)]
    jumps = {}
    for kind in ('replace', 'cross_fade', 'mode'):
        plan, last, jumps[kind] = Plan(blending=BlendSettings(kind)), 1.0, 0.0
        for k, way in enumerate(ways):
            plan.replace(way, Start(100 * k * MS, np.array([last]), np.zeros(1)))
            step = plan.command(100 * (k + 1) * MS)
            assert step is not None
            jumps[kind] = max(jumps[kind], abs(step.values[0] - last))
            last = step.values[0]
    assert jumps['cross_fade'] < jumps['replace']
    assert jumps['mode'] == jumps['replace']  # it does not mix; choose_primary stays with one


def test_the_running_code_is_kept_unless_another_is_clearly_likelier():
    probabilities = np.array([0.3, 0.45, 0.25])
    assert choose_primary(probabilities, None, 0.2) is None
    assert choose_primary(probabilities, 0, 0.2) == 0
    assert choose_primary(probabilities, 0, 0.1) == 1
    assert choose_primary(probabilities, 2, 0.1) == 1
    assert choose_primary(probabilities, 1, 0.0) == 1
    assert choose_primary(np.array([0.5, 0.5]), 1, 0.0) == 1
    for wrong in (np.array([[1.0]]), np.array([np.nan, 1.0]), np.array([])):
        with pytest.raises(ValueError, match='probabilities'):
            choose_primary(wrong, 0, 0.1)
    with pytest.raises(ValueError, match='running: got 3'):
        choose_primary(probabilities, 3, 0.1)


def test_the_chosen_code_does_not_flicker():
    rng = np.random.default_rng(0)
    switches = {0.0: 0, 0.3: 0}
    for threshold in switches:
        code = 0
        for noise in rng.normal(0, 0.1, 300):
            kept = choose_primary(np.array([0.5 + noise, 0.5 - noise]), code, threshold)
            assert kept is not None
            switches[threshold] += kept != code
            code = kept
    assert switches[0.3] < switches[0.0] / 3


@pytest.mark.parametrize(
    ('name', 'value'), [('steps', 0), ('decay', float('nan')), ('hysteresis', 1.5)]
)
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f'{name}: got'):
        BlendSettings(**{name: value})
