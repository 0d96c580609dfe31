"""Residual vector quantisation with EMA codebooks.

Van den Oord et al. 2017, Zeghidour et al. 2021.

Legend: N samples, G layers, C codes a layer, D latent width.
"""

from typing import Any

import torch
from torch import nn, Tensor
from torch.nn import functional as F


class ResidualVQ(nn.Module):
    """Quantise a vector as a sum of codes, each layer quantising what the layers before left over.

    The codebooks are buffers: they follow the exponential moving average of the vectors assigned
    to each code (van den Oord et al. 2017, appendix A.1), not a gradient. They change only in
    training mode.
    """

    codebooks: Tensor  # (G, C, D)
    assigned: Tensor  # (G, C) moving average of the number of vectors a code gets in a batch
    assigned_sum: Tensor  # (G, C, D) moving average of the sum of those vectors
    initialised: Tensor  # () bool

    def __init__(
        self,
        *,
        layers: int,
        codebook_size: int,
        width: int,
        decay: float = 0.8,
        revive_below: float = 1.0,
        kmeans_iterations: int = 10,
    ) -> None:
        """Set up empty codebooks; the first training batch fills them by k-means.

        Args:
            layers: Number of residual layers, at least 1.
            codebook_size: Codes in each layer.
            width: Width of the latent vectors.
            decay: Share of the old average that an update keeps, in [0, 1).
            revive_below: A code whose moving average of assigned vectors falls below this is dead
                and takes the place of a random vector of the batch; 0 turns revival off.
            kmeans_iterations: Lloyd iterations of the first batch.

        Raises:
            ValueError: A size is below 1 or the decay lies outside [0, 1).
        """
        super().__init__()
        if min(layers, codebook_size, width) < 1:
            raise ValueError(f'sizes must be at least 1: {layers=}, {codebook_size=}, {width=}')
        if not 0.0 <= decay < 1.0:
            raise ValueError(f'decay must be in [0, 1), got {decay}')
        self.decay = decay
        self.revive_below = revive_below
        self.kmeans_iterations = kmeans_iterations
        self.register_buffer('codebooks', torch.zeros(layers, codebook_size, width))
        self.register_buffer('assigned', torch.ones(layers, codebook_size))
        self.register_buffer('assigned_sum', torch.zeros(layers, codebook_size, width))
        self.register_buffer('initialised', torch.tensor(False))
        self._ready = False  # that `initialised` was seen set

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise latents; in training mode also move the codebooks.

        Args:
            latent: (N, D) float.

        Returns:
            The quantised latents (N, D), whose gradient passes straight through to `latent`; the
            codes (N, G) int64; and the commitment loss, the mean over layers' elements of
            (residual - code)^2 summed over layers.
        """
        with in_float32(latent):
            return self._forward(latent.float())

    def _forward(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.training and not self._ready:
            if not self.initialised:  # which waits for a GPU: asked until it is, and never again
                self._initialise(latent.detach())
            self._ready = True
        residual = latent
        codes, commitment = [], latent.new_zeros(())
        for layer in range(len(self.codebooks)):
            code = nearest(residual.detach(), self.codebooks[layer])  # (N,)
            chosen = self.codebooks[layer][code]  # (N, D)
            commitment = commitment + F.mse_loss(residual, chosen)
            if self.training:
                self._follow(layer, residual.detach(), code)
            residual = residual - chosen
            codes.append(code)
        # What is left over is the difference between the latent and the sum of its codes.
        quantised = latent - residual.detach()
        return quantised, torch.stack(codes, dim=1), commitment

    def encode(self, latent: Tensor) -> Tensor:
        """Return the codes (N, G) int64 of latents (N, D); changes nothing."""
        residual, codes = latent.float(), []
        with in_float32(latent):
            for codebook in self.codebooks:
                code = nearest(residual, codebook)
                residual = residual - codebook[code]
                codes.append(code)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the sum of the chosen codes: (..., G) int64 to (..., D)."""
        layers = torch.arange(len(self.codebooks), device=codes.device)
        return self.codebooks[layers, codes].sum(dim=-2)  # (..., G, D) -> (..., D)

    def _load_from_state_dict(self, *args: Any, **settings: Any) -> None:
        super()._load_from_state_dict(*args, **settings)
        self._ready = False  # what was loaded decides

    @torch.no_grad()
    def _initialise(self, latent: Tensor) -> None:
        residual = latent
        for layer in range(len(self.codebooks)):
            means, counts = kmeans(residual, self.codebooks.shape[1], self.kmeans_iterations)
            self.codebooks[layer] = means
            self.assigned[layer] = counts
            self.assigned_sum[layer] = means * counts[:, None]
            residual = residual - means[nearest(residual, means)]
        self.initialised.fill_(True)

    @torch.no_grad()
    def _follow(self, layer: int, residual: Tensor, code: Tensor) -> None:
        size = self.codebooks.shape[1]
        one_hot = F.one_hot(code, size).to(residual.dtype)  # (N, C)
        self.assigned[layer].lerp_(one_hot.sum(0), 1 - self.decay)
        self.assigned_sum[layer].lerp_(one_hot.T @ residual, 1 - self.decay)
        # Laplace smoothing keeps the division safe for codes that get nothing.
        total, eps = self.assigned[layer].sum(), 1e-5
        smoothed = (self.assigned[layer] + eps) / (total + size * eps) * total
        self.codebooks[layer] = self.assigned_sum[layer] / smoothed[:, None]
        if self.revive_below > 0:
            dead = self.assigned[layer] < self.revive_below  # (C,)
            picked = torch.randint(len(residual), (size,), device=residual.device)
            # Written as a select, not an index, so that the step needs no host synchronisation.
            fresh = residual[picked]  # (C, D)
            self.codebooks[layer] = torch.where(dead[:, None], fresh, self.codebooks[layer])
            self.assigned[layer].masked_fill_(dead, self.revive_below)
            self.assigned_sum[layer] = torch.where(
                dead[:, None], fresh * self.revive_below, self.assigned_sum[layer]
            )


def in_float32(like: Tensor) -> torch.autocast:
    """Leave autocast on the tensor's device: distances in half precision would swap near codes."""
    return torch.autocast(like.device.type, enabled=False)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Return the index (N,) of the nearest code (C, D) to each vector (N, D), squared Euclidean.

    The squared distance is expanded without its square root, which would give NaN where rounding
    makes it slightly negative, as it does for a vector that equals a code.
    """
    distance = codebook.square().sum(1) - 2 * vectors @ codebook.T  # (N, C), less |vector|^2
    return distance.argmin(dim=1)


def kmeans(vectors: Tensor, clusters: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Cluster vectors by Lloyd's algorithm from randomly drawn, greedily spread seeds (k-means++).

    Args:
        vectors: (N, D).
        clusters: Number of means.
        iterations: Lloyd iterations; an empty cluster keeps its mean.

    Returns:
        Means (clusters, D) and the number of vectors of each (clusters,) as float.
    """
    means = vectors[torch.randint(len(vectors), (1,), device=vectors.device)]
    while len(means) < clusters:
        gap = torch.cdist(vectors, means).amin(1).square()  # (N,)
        # All vectors may already be covered (fewer distinct vectors than clusters).
        weights = torch.where(gap.sum() > 0, gap, torch.ones_like(gap))
        means = torch.cat([means, vectors[torch.multinomial(weights, 1)]])
    counts = vectors.new_zeros(clusters)
    for _ in range(iterations + 1):
        one_hot = F.one_hot(nearest(vectors, means), clusters).to(vectors.dtype)  # (N, C)
        counts = one_hot.sum(0)
        sums = one_hot.T @ vectors
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
    return means, counts
