"""Residual vector quantisation, against a published implementation and a naive loop."""

import pytest
import torch
from torch.nn import functional as F
from vqbet_ros.policy.rvq import kmeans, nearest, ResidualVQ

LAYERS, CODES, WIDTH = 3, 8, 5


def random_rvq(seed=0, **settings):
    """Return a quantiser in training mode with random codebooks instead of k-means ones."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {'layers': LAYERS, 'codebook_size': CODES, 'width': WIDTH}
    rvq = ResidualVQ(**{**sizes, 'revive_below': 0.0, **settings})
    rvq.codebooks.normal_(generator=generator)
    rvq.assigned_sum.copy_(rvq.codebooks)
    rvq.initialised.fill_(True)
    return rvq


def latents(count=64, seed=1):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def published(rvq):
    """Return vector-quantize-pytorch's quantiser with the same codebooks."""
    module = pytest.importorskip('vector_quantize_pytorch')
    other = module.ResidualVQ(
        dim=WIDTH,
        num_quantizers=LAYERS,
        codebook_size=CODES,
        decay=rvq.decay,
        kmeans_init=False,
        threshold_ema_dead_code=0,
        rotation_trick=False,
        commitment_weight=1.0,
    )
    for layer, codebook in zip(other.layers, rvq.codebooks, strict=True):
        layer._codebook.embed.data.copy_(codebook[None])
        layer._codebook.embed_avg.data.copy_(codebook[None])
        layer._codebook.cluster_size.data.fill_(1.0)
        layer._codebook.initted.data.fill_(True)
    return other.train()


def test_agrees_with_vector_quantize_pytorch_over_ema_steps():
    rvq = random_rvq()
    other = published(rvq)
    for step in range(4):
        x = latents(seed=step)
        quantised, codes, commitment = rvq(x)
        other_quantised, other_codes, other_commitment = other(x[None])
        torch.testing.assert_close(quantised, other_quantised[0])
        torch.testing.assert_close(codes, other_codes[0])
        torch.testing.assert_close(commitment, other_commitment.sum())
        for layer in range(LAYERS):
            other_codebook = other.layers[layer]._codebook
            torch.testing.assert_close(rvq.codebooks[layer], other_codebook.embed[0])
            torch.testing.assert_close(rvq.assigned[layer], other_codebook.cluster_size[0])


def test_agrees_with_a_naive_loop():
    rvq = random_rvq().eval()
    x = latents()
    quantised, codes, commitment = rvq(x)
    expected_loss = torch.zeros(LAYERS)
    for row in range(len(x)):
        rest = x[row].clone()
        for layer in range(LAYERS):
            gaps = [float((rest - code).square().sum()) for code in rvq.codebooks[layer]]
            best = gaps.index(min(gaps))
            assert codes[row, layer] == best
            rest = rest - rvq.codebooks[layer, best]
            expected_loss[layer] += min(gaps) / x.numel()
        torch.testing.assert_close(quantised[row], x[row] - rest)
    torch.testing.assert_close(commitment, expected_loss.sum())


def test_encode_and_decode_are_the_parts_of_forward():
    rvq = random_rvq().eval()
    x = latents()
    quantised, codes, _ = rvq(x)
    assert torch.equal(rvq.encode(x), codes)
    torch.testing.assert_close(rvq.decode(codes), quantised)
    assert rvq.decode(codes.reshape(4, 16, LAYERS)).shape == (4, 16, WIDTH)


def test_sums_of_far_apart_codes_come_back_as_their_codes():
    # Each layer is finer than the one before by far, so that the greedy choice is the right one.
    rvq = random_rvq(layers=2).eval()
    rvq.codebooks[1] *= 1e-3
    codes = torch.cartesian_prod(torch.arange(CODES), torch.arange(CODES))
    assert torch.equal(rvq.encode(rvq.decode(codes)), codes)


@pytest.mark.parametrize('scale', [1e-20, 1.0, 1e8])
def test_a_latent_that_equals_a_code_gives_no_nan(scale):
    rvq = random_rvq()
    rvq.codebooks *= scale
    rvq.assigned_sum *= scale
    x = rvq.codebooks[0].clone().requires_grad_()
    quantised, _, commitment = rvq(x)
    (quantised.sum() + commitment).backward()
    assert torch.isfinite(quantised).all()
    assert torch.isfinite(commitment)
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(rvq.codebooks).all()


def test_the_gradient_goes_straight_through():
    rvq = random_rvq()
    x = latents().requires_grad_()
    weights = latents(seed=2)
    quantised, _, _ = rvq(x)
    (quantised * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights, rtol=0, atol=0)


def test_the_commitment_pulls_latents_to_their_codes():
    rvq = random_rvq(layers=1).eval()
    x = latents().requires_grad_()
    quantised, _, commitment = rvq(x)
    commitment.backward()
    torch.testing.assert_close(x.grad, 2 * (x - quantised).detach() / x.numel())


def test_kmeans_finds_distinct_clusters():
    centres = 10.0 * torch.eye(CODES, WIDTH + 3)
    noise = torch.randn(20, CODES, WIDTH + 3, generator=torch.Generator().manual_seed(0))
    points = (centres + 0.05 * noise).flatten(0, 1)
    torch.manual_seed(0)
    means, counts = kmeans(points, CODES, iterations=10)
    assert sorted(nearest(centres, means).tolist()) == list(range(CODES))
    assert counts.tolist() == [20.0] * CODES
    torch.testing.assert_close(
        means[nearest(centres, means)], points.reshape(20, CODES, -1).mean(0)
    )


def test_kmeans_of_fewer_points_than_clusters_gives_those_points():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    torch.manual_seed(0)
    means, counts = kmeans(points.repeat(2, 1), 5, iterations=3)
    assert torch.isfinite(means).all()
    assert counts.sum() == 6
    assert torch.equal(means[nearest(points, means)], points)


def test_the_first_batch_fills_the_codebooks():
    rvq = ResidualVQ(layers=2, codebook_size=4, width=2, revive_below=0.0)
    centres = torch.tensor([[5.0, 5.0], [5.0, -5.0], [-5.0, 5.0], [-5.0, -5.0]])
    torch.manual_seed(0)
    _, codes, commitment = rvq(centres.repeat(8, 1))
    assert bool(rvq.initialised)
    assert len(set(codes[:4, 0].tolist())) == 4
    assert commitment < 1e-9


def test_a_dead_code_comes_back_from_the_batch():
    rvq = random_rvq(layers=1, revive_below=0.5, decay=0.5)
    rvq.codebooks[0, 3] = 1e4  # nothing is near
    rvq.assigned_sum[0, 3] = 1e4
    batches = [latents(seed=seed) for seed in range(4)]
    for batch in batches:
        rvq(batch)
    assert rvq.codebooks[0, 3].abs().max() < 10.0
    used = torch.bincount(rvq.eval().encode(torch.cat(batches))[:, 0], minlength=CODES)
    assert (used > 0).all()


def test_without_revival_a_dead_code_stays():
    rvq = random_rvq(layers=1, revive_below=0.0)
    rvq.codebooks[0, 3] = 1e4
    rvq.assigned_sum[0, 3] = 1e4
    for seed in range(4):
        rvq(latents(seed=seed))
    assert rvq.codebooks[0, 3].min() > 1e3


def test_evaluation_changes_nothing():
    rvq = random_rvq().eval()
    before = {key: value.clone() for key, value in rvq.state_dict().items()}
    x = latents()
    rvq(x)
    rvq.encode(x)
    fresh = ResidualVQ(layers=1, codebook_size=2, width=WIDTH).eval()
    fresh(x)
    assert not fresh.initialised
    for key, value in rvq.state_dict().items():
        assert torch.equal(value, before[key])


def test_distances_are_float32_under_autocast():
    rvq = random_rvq(layers=1).eval()
    # In bfloat16 most of these are the same number, and one would be taken for another.
    rvq.codebooks[0] = 4.0
    rvq.codebooks[0, :, 0] += torch.arange(CODES) * 0.01
    x = rvq.codebooks[0].clone()
    plain = rvq(x)
    assert plain[1][:, 0].tolist() == list(range(CODES))
    with torch.autocast('cpu', torch.bfloat16):
        mixed = rvq(x)
        codes = rvq.encode(x)
        trained = random_rvq()
        trained(latents())
    assert torch.equal(codes, plain[1])
    for ours, theirs in zip(mixed, plain, strict=True):
        assert torch.equal(ours, theirs)
    again = random_rvq()
    again(latents())
    assert torch.equal(trained.codebooks, again.codebooks)


def test_half_precision_latents_give_float32():
    rvq = random_rvq().eval()
    x = latents().bfloat16()
    quantised, codes, commitment = rvq(x)
    assert quantised.dtype == commitment.dtype == torch.float32
    assert torch.equal(codes, rvq.encode(x.float()))


def test_nearest_agrees_with_cdist():
    x, codebook = latents(200), latents(CODES, seed=3)
    assert torch.equal(nearest(x, codebook), torch.cdist(x, codebook).argmin(1))


@pytest.mark.parametrize(
    'settings',
    [{'layers': 0}, {'codebook_size': 0}, {'width': 0}, {'decay': 1.0}, {'decay': -0.1}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match='must be'):
        ResidualVQ(**{'layers': 1, 'codebook_size': 2, 'width': 3, **settings})


def test_a_quantiser_learns_what_it_is_given():
    # Follows vectors that drift: the moving average goes after them.
    rvq = random_rvq(layers=1, codebook_size=2)
    targets = torch.tensor([[3.0], [-3.0]]) * torch.ones(2, WIDTH)
    rvq.codebooks[0] = targets * 0.1
    rvq.assigned_sum[0] = targets * 0.1
    for _ in range(60):
        rvq(targets.repeat(10, 1))
    torch.testing.assert_close(rvq.codebooks[0], targets, rtol=1e-3, atol=1e-3)
    assert F.mse_loss(rvq.eval()(targets)[0], targets) < 1e-4
