"""The engine stays with the primary code that is being executed, as `choose_primary` says."""

from dataclasses import replace

from engine_parts import CONFIG, make_engine, Recording
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import torch
from vqbet_ros.policy.heads import CodeHead, gumbel_noise, Stay
from vqbet_ros.runtime.blending import choose_primary

CODES = 5


def stay(running, hysteresis):
    return Stay(torch.tensor(running), torch.tensor(hysteresis, dtype=torch.float32))


def rule(probabilities, running, hysteresis):
    """Ask the oracle with the threshold that the tensors hold."""
    return choose_primary(probabilities, running, float(np.float32(hysteresis)))


@given(
    # Multiples of 1/64, and thresholds too: their differences are exact, so that ties are ties.
    st.lists(st.integers(0, 64), min_size=CODES, max_size=CODES),
    st.integers(0, CODES - 1),
    st.integers(0, 64),
)
def test_the_rule_is_that_of_choose_primary(parts, running, threshold):
    probabilities = np.array(parts, np.float32) / 64
    taken = stay([running], threshold / 64).decide(
        torch.from_numpy(probabilities)[None], torch.tensor([0])
    )
    assert int(taken) == choose_primary(probabilities, running, threshold / 64)


def test_where_nothing_is_running_the_choice_stays():
    probabilities = torch.rand(4, CODES)
    chosen = torch.tensor([3, 1, 4, 0])
    taken = stay([-1, 2, -1, 2], 1.0).decide(probabilities, chosen)
    assert taken.tolist() == [3, 2, 4, 2]


@pytest.mark.parametrize('mode', ['joint', 'sequential'])
@pytest.mark.parametrize('temperature', [0.0, 2.0])
def test_secondary_codes_follow_the_primary_one_that_was_taken(mode, temperature):
    torch.manual_seed(1)
    head = CodeHead(width=6, layers=3, codebook_size=CODES, mode=mode)
    x = 3 * torch.randn(40, 6)
    noise = gumbel_noise((40, 3, CODES))
    running = torch.arange(40) % CODES
    codes, probabilities = head.choose(x, temperature, noise, stay(running.tolist(), 0.3))
    taken = [
        rule(p.detach(), int(r), 0.3) for p, r in zip(probabilities[:, 0], running, strict=True)
    ]
    assert codes[:, 0].tolist() == taken
    assert (
        0 < sum(t == int(r) for t, r in zip(taken, running, strict=True)) < 40
    )  # both cases occur
    logits = head(x, codes)  # in sequential mode: given the codes that were taken
    scores = logits if temperature == 0.0 else logits / temperature + noise
    assert torch.equal(codes[:, 1:], scores.argmax(-1)[:, 1:])
    torch.testing.assert_close(probabilities, logits.softmax(-1))


@pytest.mark.parametrize('mode', ['joint', 'sequential'])
@pytest.mark.parametrize('temperature', [0.0, 2.0])
def test_the_engine_decodes_the_code_that_the_rule_takes(mode, temperature):
    engine = make_engine(replace(CONFIG, code_mode=mode), temperature=temperature)
    recording = Recording()
    left = 0
    for step in range(2, 8):
        for running in range(4):
            for hysteresis in (0.0, 0.1, 0.4, 1.0):
                output = engine.plan(
                    recording.observation(step), running=running, hysteresis=hysteresis
                )
                assert output.codes[0] == rule(output.probabilities, running, hysteresis)
                left += output.codes[0] != running
    assert 0 < left < 6 * 4 * 4


def test_probabilities_are_those_of_the_primary_codes():
    engine = make_engine()
    output = engine.plan(Recording().observation(3))
    assert output.probabilities.shape == (4,)
    assert output.probabilities.dtype == np.float32
    assert output.probabilities.sum() == pytest.approx(1.0, abs=1e-6)
    assert output.confidence == output.probabilities.max()
    assert output.codes[0] == output.probabilities.argmax()  # the temperature is 0


def test_nothing_running_leaves_the_draws_as_they_are():
    recording = Recording()
    one, other = (make_engine(temperature=2.0) for _ in range(2))
    for _ in range(10):
        expected = one.plan(recording.observation(3))
        output = other.plan(recording.observation(3), running=None, hysteresis=0.7)
        assert np.array_equal(output.codes, expected.codes)
        assert np.array_equal(output.actions, expected.actions)


@pytest.mark.parametrize('running', [-1, 4])
def test_a_code_that_there_is_not_is_refused(running):
    with pytest.raises(ValueError, match=rf'running: got {running}, expected a code from 0 to 3'):
        make_engine().plan(Recording().observation(3), running=running)
