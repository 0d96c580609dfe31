"""Action chunks to discrete codes and back (VQ-BeT, Lee et al. 2024, section 3.2).

Legend: W steps of a chunk, A action channels, G code layers, C codes a layer, D latent width.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import nn, Tensor
from vqbet_ros.policy.rvq import in_float32, ResidualVQ


def mlp(*widths: int) -> nn.Sequential:
    """Build linear layers of the given widths with a ReLU between each two."""
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ActionTokenizer(nn.Module):
    """An autoencoder of action chunks with a residual vector-quantised bottleneck."""

    def __init__(
        self,
        *,
        chunk: int,
        action_dim: int,
        layers: int = 2,
        codebook_size: int = 16,
        latent: int = 256,
        hidden: int = 128,
        decay: float = 0.8,
        revive_below: float = 1.0,
    ) -> None:
        """Build encoder, quantiser and decoder; see `ResidualVQ` for its arguments."""
        super().__init__()
        self.chunk, self.action_dim = chunk, action_dim
        flat = chunk * action_dim
        self.encoder = mlp(flat, hidden, hidden, latent)
        self.decoder = mlp(latent, hidden, hidden, flat)
        self.rvq = ResidualVQ(
            layers=layers,
            codebook_size=codebook_size,
            width=latent,
            decay=decay,
            revive_below=revive_below,
        )

    @property
    def layers(self) -> int:
        """Number of code layers G."""
        return self.rvq.codebooks.shape[0]

    @property
    def codebook_size(self) -> int:
        """Number of codes C in each layer."""
        return self.rvq.codebooks.shape[1]

    @torch.no_grad()
    def encode(self, actions: Tensor) -> Tensor:
        """Return the codes (..., G) int64 of normalised chunks (..., W, A)."""
        lead = actions.shape[:-2]
        with in_float32(actions):
            latent = self.encoder(actions.reshape(-1, self.chunk * self.action_dim))  # (N, D)
        return self.rvq.encode(latent).reshape(*lead, -1)  # (..., G)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the normalised chunks (..., W, A) of codes (..., G)."""
        with in_float32(codes):
            flat: Tensor = self.decoder(self.rvq.decode(codes))  # (..., W*A)
        return flat.reshape(*codes.shape[:-1], self.chunk, self.action_dim)

    def loss(
        self,
        actions: Tensor,
        mask: Tensor,
        *,
        commitment_weight: float = 5.0,
        reconstruction: Literal['l1', 'l2'] = 'l1',
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the autoencoder's loss on normalised chunks; moves the codebooks in training.

        Args:
            actions: (N, W, A), padded steps hold the last real action.
            mask: (N, W) bool, True for real steps; only they count in the reconstruction.
            commitment_weight: Weight of the pull of latents towards their codes.
            reconstruction: Mean absolute or mean squared error.

        Returns:
            The scalar loss, and metrics: `reconstruction`, `commitment`, and the codes (N, G) as
            `codes`.
        """
        latent = self.encoder(actions.flatten(1))  # (N, D)
        quantised, codes, commitment = self.rvq(latent)
        restored = self.decoder(quantised).unflatten(1, (self.chunk, self.action_dim))
        error = restored - actions
        error = error.abs() if reconstruction == 'l1' else error.square()
        missed = (error.mean(-1) * mask).sum() / mask.sum().clamp(min=1)
        loss = missed + commitment_weight * commitment
        return loss, {
            'reconstruction': missed.detach(),
            'commitment': commitment.detach(),
            'codes': codes,
        }


def code_usage(codes: Tensor, codebook_size: int) -> dict[str, float]:
    """Say how much of the codebooks a data set uses.

    Args:
        codes: (N, G) int64.
        codebook_size: Codes in each layer.

    Returns:
        For layer i (from 1) `usage_i`, the share of its codes that occur, and `perplexity_i`, the
        exponential of the codes' entropy (at most the codebook size); and `combinations`, the
        share of all codebook_size^G combinations that occur.
    """
    result: dict[str, float] = {}
    for layer in range(codes.shape[1]):
        counts = torch.bincount(codes[:, layer], minlength=codebook_size).double()
        share = counts / counts.sum()
        entropy = -(share * share.clamp(min=1e-12).log()).sum()
        result[f'usage_{layer + 1}'] = float((counts > 0).double().mean())
        result[f'perplexity_{layer + 1}'] = float(entropy.exp())
    distinct = len(torch.unique(codes, dim=0))
    result['combinations'] = distinct / codebook_size ** codes.shape[1]
    return result
