"""The action tokenizer: padding, metrics, and that it learns."""

import pytest
import torch
from vqbet_ros.policy.tokenizer import ActionTokenizer, code_usage, mlp

CHUNK, CHANNELS = 4, 2


def small(**settings):
    torch.manual_seed(0)
    sizes = {'codebook_size': 4, 'latent': 8, 'hidden': 16}
    return ActionTokenizer(chunk=CHUNK, action_dim=CHANNELS, **{**sizes, **settings})


def ready(**settings):
    """Return a tokenizer whose codebooks are filled, in evaluation mode."""
    tokenizer = small(**settings)
    tokenizer.loss(chunks(32), torch.ones(32, CHUNK, dtype=torch.bool))
    return tokenizer.eval()


def chunks(count, seed=0):
    return torch.randn(count, CHUNK, CHANNELS, generator=torch.Generator().manual_seed(seed))


def test_layers_of_the_perceptron():
    kinds = [type(layer).__name__ for layer in mlp(3, 4, 5, 6)]
    assert kinds == ['Linear', 'ReLU', 'Linear', 'ReLU', 'Linear']


@pytest.mark.parametrize('kind', ['l1', 'l2'])
def test_reconstruction_counts_real_steps_only(kind):
    tokenizer = ready()
    actions = chunks(6)
    mask = torch.ones(6, CHUNK, dtype=torch.bool)
    mask[2, 1:] = False
    mask[5, 3:] = False
    _, metrics = tokenizer.loss(actions, mask, reconstruction=kind)
    restored = tokenizer.decode(tokenizer.encode(actions))
    errors = []
    for row in range(6):
        for step in range(CHUNK):
            if mask[row, step]:
                error = restored[row, step] - actions[row, step]
                errors.append((error.abs() if kind == 'l1' else error**2).mean())
    torch.testing.assert_close(metrics['reconstruction'], torch.stack(errors).mean())


def test_codes_and_chunks_are_the_same_under_autocast():
    tokenizer = ready()
    codes = tokenizer.encode(chunks(64))
    actions = tokenizer.decode(codes)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(tokenizer.encode(chunks(64)), codes)
        assert torch.equal(tokenizer.decode(codes), actions)


@pytest.mark.parametrize('kind', ['l1', 'l2'])
def test_masked_steps_change_neither_loss_nor_gradient(kind):
    # The encoder sees the whole chunk; what is wanted of a masked step must not matter. A first
    # layer that does not look at the last step leaves only the reconstruction to see it.
    tokenizer = ready()
    mask = torch.ones(6, CHUNK, dtype=torch.bool)
    mask[:, -1] = False
    with torch.no_grad():
        tokenizer.encoder[0].weight[:, -CHANNELS:] = 0
    results = []
    for filling in (0.0, 100.0):
        actions = chunks(6)
        actions[:, -1] = filling
        tokenizer.zero_grad()
        loss, _ = tokenizer.loss(actions, mask, reconstruction=kind)
        loss.backward()
        gradients = [
            p.grad.clone() for n, p in tokenizer.named_parameters() if n != 'encoder.0.weight'
        ]
        gradients.append(tokenizer.encoder[0].weight.grad[:, :-CHANNELS].clone())
        results.append([loss.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    # Nothing is taught about the masked step itself either.
    assert not tokenizer.decoder[-1].weight.grad[-CHANNELS:].any()
    assert tokenizer.decoder[-1].weight.grad[:-CHANNELS].any()


def test_a_batch_of_nothing_but_padding_gives_no_nan():
    tokenizer = ready()
    loss, metrics = tokenizer.loss(chunks(3), torch.zeros(3, CHUNK, dtype=torch.bool))
    assert torch.isfinite(loss)
    assert metrics['reconstruction'] == 0


def test_the_loss_is_reconstruction_plus_weighted_commitment():
    tokenizer = ready()
    mask = torch.ones(5, CHUNK, dtype=torch.bool)
    loss, metrics = tokenizer.loss(chunks(5), mask, commitment_weight=3.0)
    torch.testing.assert_close(
        loss.detach(), metrics['reconstruction'] + 3.0 * metrics['commitment']
    )
    assert torch.equal(metrics['codes'], tokenizer.encode(chunks(5)))


def test_leading_dimensions_are_kept():
    tokenizer = ready(layers=3)
    actions = chunks(12)
    codes = tokenizer.encode(actions.reshape(3, 4, CHUNK, CHANNELS))
    assert codes.shape == (3, 4, 3)
    assert torch.equal(codes.flatten(0, 1), tokenizer.encode(actions))
    assert tokenizer.decode(codes).shape == (3, 4, CHUNK, CHANNELS)
    torch.testing.assert_close(tokenizer.decode(codes)[1, 2], tokenizer.decode(codes[1, 2]))
    assert (tokenizer.layers, tokenizer.codebook_size) == (3, 4)


def test_a_short_training_brings_chunks_back():
    tokenizer = small(codebook_size=8, latent=16, hidden=64)
    known = chunks(8, seed=5).clamp(-1, 1)
    mask = torch.ones(64, CHUNK, dtype=torch.bool)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(250):
        loss, _ = tokenizer.loss(known.repeat(8, 1, 1), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokenizer.eval()
    codes = tokenizer.encode(known)
    assert len(torch.unique(codes, dim=0)) == 8
    assert (tokenizer.decode(codes) - known).abs().mean() < 0.05


def test_code_usage_of_hand_made_codes():
    codes = torch.tensor([[0, 0], [0, 0], [1, 0], [1, 0]])
    usage = code_usage(codes, codebook_size=4)
    assert usage == {
        'usage_1': 0.5,
        'perplexity_1': pytest.approx(2.0),
        'usage_2': 0.25,
        'perplexity_2': pytest.approx(1.0),
        'combinations': 2 / 16,
    }
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    assert code_usage(every, 3) == {
        'usage_1': 1.0,
        'perplexity_1': pytest.approx(3.0),
        'usage_2': 1.0,
        'perplexity_2': pytest.approx(3.0),
        'combinations': 1.0,
    }
