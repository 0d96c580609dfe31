"""The transformer against a naive one, and who may look at whom."""

import math

import pytest
import torch
from torch.nn import functional as F
from vqbet_ros.policy.transformer import attention_mask, Transformer

WIDTH, HEADS, LAYERS, TOKENS = 12, 3, 2, 6


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    trunk = Transformer(layers=LAYERS, width=WIDTH, heads=HEADS, dropout=0.0).eval()
    with torch.no_grad():  # fresh ones are so small that mistakes would hide
        for parameter in trunk.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return trunk


def tokens(batch=2, seed=1):
    return torch.randn(batch, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


def naive_block(block, x, present):
    """One sample (T, D), token by token and head by head."""
    each = WIDTH // HEADS
    q, k, v = block.qkv(block.norm_1(x)).split(WIDTH, dim=-1)
    mixed = torch.zeros_like(x)
    for token in range(len(x)):
        seen = [other for other in range(token + 1) if present[other] or other == token]
        for head in range(HEADS):
            part = slice(head * each, (head + 1) * each)
            scores = torch.stack([q[token, part] @ k[s, part] / math.sqrt(each) for s in seen])
            for weight, s in zip(scores.softmax(0), seen, strict=True):
                mixed[token, part] += weight * v[s, part]
    x = x + block.project(mixed)
    return x + block.contract(F.gelu(block.expand(block.norm_2(x))))


@pytest.mark.parametrize('holes', [(), (0,), (0, 1), (2,), (0, 3, 5)])
def test_agrees_with_a_naive_transformer(trunk, holes):
    present = torch.ones(2, TOKENS, dtype=torch.bool)
    for hole in holes:
        present[1, hole] = False
    x = tokens()
    expected = []
    for row in range(2):
        y = x[row]
        for block in trunk.blocks:
            y = naive_block(block, y, present[row].tolist())
        expected.append(trunk.norm(y))
    torch.testing.assert_close(trunk(x, present), torch.stack(expected), rtol=1e-4, atol=1e-5)
    if not holes:
        torch.testing.assert_close(trunk(x), torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('masked', [False, True])
def test_future_tokens_never_change_past_outputs(trunk, masked):
    present = torch.ones(2, TOKENS, dtype=torch.bool) if masked else None
    before = trunk(tokens(), present)
    for first in range(1, TOKENS):
        x = tokens()
        x[:, first:] = 100 * tokens(seed=9)[:, first:]
        after = trunk(x, present)
        torch.testing.assert_close(after[:, :first], before[:, :first])
        assert not torch.allclose(after[:, first:], before[:, first:])


def test_no_gradient_flows_from_past_outputs_to_future_tokens(trunk):
    x = tokens().requires_grad_()
    trunk(x)[:, 2].sum().backward()
    assert x.grad[:, :3].abs().sum(-1).all()
    assert not x.grad[:, 3:].any()


def test_masked_equals_cropped(trunk):
    x = tokens()
    for absent in range(1, TOKENS):
        present = torch.arange(TOKENS).expand(2, -1) >= absent
        masked = trunk(x, present)[:, absent:]
        torch.testing.assert_close(masked, trunk(x[:, absent:]))


def test_absent_tokens_do_not_matter_and_give_no_nan(trunk):
    present = torch.ones(2, TOKENS, dtype=torch.bool)
    present[0] = False  # nobody is there at all
    present[1, [0, 3]] = False
    x = tokens().requires_grad_()
    out = trunk(x, present)
    assert torch.isfinite(out).all()
    out.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in trunk.parameters())
    changed = x.detach().clone()
    changed[~present] = 50.0
    torch.testing.assert_close(trunk(changed, present)[present], out[present])


def test_a_mask_looks_as_written():
    mask = attention_mask(torch.tensor([[False, True, True, False]]))
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert mask[0, 0].int().tolist() == expected


def test_a_batch_of_one_equals_the_row_of_a_batch(trunk):
    x = tokens(batch=4)
    torch.testing.assert_close(trunk(x)[2:3], trunk(x[2:3]))


def test_dropout_is_for_training_only():
    trunk = Transformer(layers=1, width=WIDTH, heads=HEADS, dropout=0.5)
    x = tokens()
    assert not torch.equal(trunk(x), trunk(x))
    trunk.eval()
    assert torch.equal(trunk(x), trunk(x))


def test_initialisation_is_gpt2s():
    torch.manual_seed(0)
    trunk = Transformer(layers=8, width=64, heads=4, dropout=0.0).requires_grad_(False)
    block = {name: value for name, value in trunk.named_parameters() if 'blocks.3.' in name}
    spread = {name.removeprefix('blocks.3.'): float(v.std()) for name, v in block.items()}
    assert spread['qkv.weight'] == pytest.approx(0.02, rel=0.1)
    assert spread['project.weight'] == pytest.approx(0.02 / 4, rel=0.1)
    assert spread['contract.weight'] == pytest.approx(0.02 / 4, rel=0.1)
    assert not block['blocks.3.qkv.bias'].any()
    assert block['blocks.3.norm_1.weight'].eq(1).all()


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match='width'):
        Transformer(layers=1, width=10, heads=3, dropout=0.0)
