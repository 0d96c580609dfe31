"""Code and offset heads of VQ-BeT (Lee et al. 2024, section 3.3).

Legend: N samples, D width, G code layers, C codes a layer, W chunk steps, A action channels.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn, Tensor
from torch.nn import functional as F


def head(into: int, hidden: int | None, out: int) -> nn.Module:
    """Build one linear layer, or with `hidden` a perceptron with two hidden layers."""
    if hidden is None:
        return nn.Linear(into, out)
    return nn.Sequential(
        nn.Linear(into, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
    )


def focal_loss(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Cross entropy that counts well-predicted samples less (Lin et al. 2017, equation 4).

    Args:
        logits: (..., C).
        target: (...) int64.
        gamma: Focusing exponent; 0 gives cross entropy.

    Returns:
        (...) one loss each.
    """
    log_p = logits.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    return -((1.0 - log_p.exp()) ** gamma) * log_p


@dataclass(frozen=True)
class Stay:
    """Staying with the primary code that is being executed, as tensors: a CUDA graph holds it.

    Attributes:
        running: (N,) int64, -1 where nothing is running.
        hysteresis: () float32, how much more probable another code has to be, 0 to 1.
    """

    running: Tensor
    hysteresis: Tensor

    def decide(self, probabilities: Tensor, chosen: Tensor) -> Tensor:
        """Return the codes to take (N,), given probabilities (N, C) and the policy's choice (N,).

        The rule is `runtime.blending.choose_primary`'s.
        """
        best, code = probabilities.max(-1)
        own = probabilities.gather(-1, self.running.clamp(min=0)[..., None]).squeeze(-1)
        stayed = torch.where(best - own > self.hysteresis, code, self.running)
        return torch.where(self.running >= 0, stayed, chosen)


class CodeHead(nn.Module):
    """Predicts the codes of all layers, jointly or each given the layers before it."""

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        codebook_size: int,
        mode: Literal['joint', 'sequential'] = 'joint',
        hidden: int | None = None,
    ) -> None:
        """Build the head: `joint` predicts layers independently of each other from one feature.

        In `sequential` mode layer g also sees the one-hot codes of layers 1 to g-1.
        """
        super().__init__()
        self.layers, self.codebook_size, self.mode = layers, codebook_size, mode
        if mode == 'joint':
            self.joint = head(width, hidden, layers * codebook_size)
        else:
            self.steps = nn.ModuleList(
                head(width + layer * codebook_size, hidden, codebook_size)
                for layer in range(layers)
            )

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return logits (N, G, C) given features (N, D) and the true codes (N, G).

        The true codes matter in sequential mode only: each layer is taught with the true codes of
        the layers before it (teacher forcing).
        """
        if self.mode == 'joint':
            return self.joint(x).unflatten(-1, (self.layers, self.codebook_size))  # type: ignore
        before = F.one_hot(codes, self.codebook_size).to(x.dtype).flatten(-2)  # (N, G*C)
        logits = [
            step(torch.cat([x, before[..., : layer * self.codebook_size]], dim=-1))
            for layer, step in enumerate(self.steps)
        ]
        return torch.stack(logits, dim=-2)

    def choose(
        self,
        x: Tensor,
        temperature: float,
        noise: Tensor | None = None,
        stay: Stay | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Choose codes for features (N, D).

        Args:
            x: Features.
            temperature: 0 takes the most probable code; otherwise codes are drawn from
                softmax(logits / temperature).
            noise: (N, G, C) standard Gumbel noise that makes the draw; needed unless temperature
                is 0. As an input it keeps the computation a pure function.
            stay: Decides on the primary code where one is running already; the others follow the
                one that was taken.

        Returns:
            Codes (N, G) int64 and the probabilities (N, G, C) at temperature 1.
        """
        logits: list[Tensor] = []
        codes: list[Tensor] = []
        joint = self.joint(x).unflatten(-1, (self.layers, -1)) if self.mode == 'joint' else None
        for layer in range(self.layers):
            if joint is not None:
                current = joint[..., layer, :]
            else:
                before = [F.one_hot(code, self.codebook_size).to(x.dtype) for code in codes]
                current = self.steps[layer](torch.cat([x, *before], dim=-1))
            current = current.float()
            score = current
            if temperature > 0.0:
                assert noise is not None, 'drawing codes needs noise'
                score = current / temperature + noise[..., layer, :]  # Gumbel-max trick
            code = score.argmax(-1)
            if layer == 0 and stay is not None:
                code = stay.decide(current.softmax(-1), code)
            logits.append(current)
            codes.append(code)
        return torch.stack(codes, dim=-1), torch.stack(logits, dim=-2).softmax(-1)


class OffsetHead(nn.Module):
    """Predicts, for each code of each layer, a correction of the whole chunk."""

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        codebook_size: int,
        chunk: int,
        action_dim: int,
        hidden: int | None = None,
    ) -> None:
        """Build the head; its output has layers * codebook_size * chunk * action_dim numbers."""
        super().__init__()
        self.shape = (layers, codebook_size, chunk, action_dim)
        self.net = head(width, hidden, layers * codebook_size * chunk * action_dim)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return the summed corrections (N, W, A) of codes (N, G) for features (N, D)."""
        layers, _, chunk, action_dim = self.shape
        every = self.net(x).unflatten(-1, self.shape)  # (N, G, C, W, A)
        index = codes[:, :, None, None, None].expand(-1, layers, 1, chunk, action_dim)
        return every.gather(2, index).sum(dim=(1, 2))  # type: ignore[no-any-return]

    def chosen(self, x: Tensor, codes: Tensor) -> Tensor:
        """Do as `forward` for N = 1, without computing the corrections of other codes."""
        layers, size, chunk, action_dim = self.shape
        *before, last = self.net if isinstance(self.net, nn.Sequential) else [self.net]
        for module in before:
            x = module(x)
        layer = torch.arange(layers, device=codes.device)
        assert isinstance(last, nn.Linear), 'a head ends with one'
        weight = last.weight.view(layers, size, chunk * action_dim, -1)[layer, codes[0]]
        bias = last.bias.view(layers, size, chunk * action_dim)[layer, codes[0]]
        every = weight @ x[0] + bias  # (G, W*A)
        return every.sum(0).view(1, chunk, action_dim)


def gumbel_noise(
    shape: tuple[int, ...],
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Draw standard Gumbel noise, on the CPU unless another device is given."""
    uniform = torch.rand(shape, generator=generator, device=device).clamp(1e-20, 1.0)
    return -(-uniform.log()).clamp(min=1e-20).log()
