"""Code and offset heads against formulas, naive loops and frequencies."""

import pytest
import torch
from torch.nn import functional as F
from vqbet_ros.policy.heads import CodeHead, focal_loss, gumbel_noise, head, OffsetHead

WIDTH, LAYERS, CODES = 6, 3, 5


def features(count=7, seed=0):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def some_codes(count=7, seed=0):
    return torch.randint(CODES, (count, LAYERS), generator=torch.Generator().manual_seed(seed))


def code_head(mode, hidden=None):
    torch.manual_seed(0)
    made = CodeHead(width=WIDTH, layers=LAYERS, codebook_size=CODES, mode=mode, hidden=hidden)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3.0)  # far from uniform
    return made.requires_grad_(False)


@pytest.mark.parametrize('gamma', [0.0, 1.0, 2.0, 0.5])
def test_focal_loss_is_its_formula(gamma):
    logits = 3 * torch.randn(4, 6, CODES, generator=torch.Generator().manual_seed(0))
    target = torch.randint(CODES, (4, 6), generator=torch.Generator().manual_seed(1))
    losses = focal_loss(logits, target, gamma)
    for i in range(4):
        for j in range(6):
            p = logits[i, j].exp()[target[i, j]] / logits[i, j].exp().sum()
            torch.testing.assert_close(losses[i, j], -((1 - p) ** gamma) * p.log())


def test_gamma_zero_is_cross_entropy():
    logits, target = features(20)[:, :CODES].requires_grad_(), some_codes(20)[:, 0]
    loss = focal_loss(logits, target, 0.0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, target, reduction='none'))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, target, reduction='sum'), logits)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize('gamma', [0.0, 1.0, 2.0])
def test_certainty_gives_finite_losses_and_gradients(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    losses = focal_loss(logits, torch.tensor([0, 0]), gamma)
    losses.sum().backward()
    assert losses.tolist() == [0.0, 200.0]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(('hidden', 'linear'), [(None, 1), (8, 3)])
def test_heads_are_linear_or_perceptrons(hidden, linear):
    made = head(WIDTH, hidden, 4)
    assert sum(isinstance(m, torch.nn.Linear) for m in made.modules()) == linear
    assert made(features()).shape == (7, 4)


def test_joint_codes_do_not_depend_on_the_true_ones():
    made = code_head('joint')
    one, other = made(features(), some_codes()), made(features(), some_codes(seed=5))
    assert one.shape == (7, LAYERS, CODES)
    assert torch.equal(one, other)
    expected = made.joint(features()).reshape(7, LAYERS, CODES)
    assert torch.equal(one, expected)


@pytest.mark.parametrize('hidden', [None, 8])
def test_sequential_codes_are_taught_with_the_true_ones_before_them(hidden):
    made = code_head('sequential', hidden)
    x, codes = features(), some_codes()
    logits = made(x, codes)
    for row in range(7):
        for layer in range(LAYERS):
            inputs = [x[row]]
            for before in range(layer):
                one_hot = torch.zeros(CODES)
                one_hot[codes[row, before]] = 1.0
                inputs.append(one_hot)
            torch.testing.assert_close(logits[row, layer], made.steps[layer](torch.cat(inputs)))


def test_a_layers_logits_see_no_later_code():
    made = code_head('sequential')
    x, codes = features(), some_codes()
    before = made(x, codes)
    for layer in range(LAYERS):
        changed = codes.clone()
        changed[:, layer] = (changed[:, layer] + 1) % CODES
        after = made(x, changed)
        torch.testing.assert_close(after[:, : layer + 1], before[:, : layer + 1])
        if layer + 1 < LAYERS:
            assert not torch.allclose(after[:, layer + 1], before[:, layer + 1])


@pytest.mark.parametrize('mode', ['joint', 'sequential'])
def test_choose_agrees_with_forward_on_what_it_chose(mode):
    made = code_head(mode)
    x = features()
    codes, probabilities = made.choose(x, 0.0)
    logits = made(x, codes)
    assert torch.equal(codes, logits.argmax(-1))
    torch.testing.assert_close(probabilities, logits.softmax(-1))
    noise = gumbel_noise((7, LAYERS, CODES), torch.Generator().manual_seed(0))
    drawn, probabilities = made.choose(x, 0.7, noise)
    logits = made(x, drawn)
    assert torch.equal(drawn, (logits / 0.7 + noise).argmax(-1))
    torch.testing.assert_close(probabilities, logits.softmax(-1))
    assert not torch.equal(drawn, codes)


@pytest.mark.parametrize('temperature', [0.5, 1.0, 2.0])
def test_draws_are_as_frequent_as_softmax_says(temperature):
    made = code_head('sequential')
    x = features(1).expand(40_000, -1)
    noise = gumbel_noise((40_000, LAYERS, CODES), torch.Generator().manual_seed(0))
    codes, _ = made.choose(x, temperature, noise)
    first = (made(x[:1], codes[:1])[0, 0] / temperature).softmax(-1)
    share = torch.bincount(codes[:, 0], minlength=CODES) / len(codes)
    torch.testing.assert_close(share, first, rtol=0, atol=0.01)
    # The second code given the most frequent first one.
    given = codes[codes[:, 0] == share.argmax()]
    second = (made(x[:1], given[:1])[0, 1] / temperature).softmax(-1)
    share = torch.bincount(given[:, 1], minlength=CODES) / len(given)
    torch.testing.assert_close(share, second, rtol=0, atol=0.02)


def test_drawing_needs_noise():
    with pytest.raises(AssertionError, match='noise'):
        code_head('joint').choose(features(), 1.0)


def test_noise_follows_its_generator():
    one = gumbel_noise((50, 4), torch.Generator().manual_seed(3))
    other = gumbel_noise((50, 4), torch.Generator().manual_seed(3))
    assert torch.equal(one, other)
    many = gumbel_noise((200_000,), torch.Generator().manual_seed(0))
    assert torch.isfinite(many).all()
    assert float(many.mean()) == pytest.approx(0.5772, abs=0.01)  # Euler's constant


@pytest.mark.parametrize('hidden', [None, 8])
def test_offsets_are_gathered_as_a_loop_would(hidden):
    torch.manual_seed(0)
    chunk, channels = 4, 2
    offsets = OffsetHead(
        width=WIDTH,
        layers=LAYERS,
        codebook_size=CODES,
        chunk=chunk,
        action_dim=channels,
        hidden=hidden,
    )
    x, codes = features(), some_codes()
    result = offsets(x, codes)
    every = offsets.net(x).reshape(7, LAYERS, CODES, chunk, channels)
    for row in range(7):
        expected = sum(every[row, layer, codes[row, layer]] for layer in range(LAYERS))
        torch.testing.assert_close(result[row], expected)
