"""AdamW with parameter groups, the learning-rate schedule, and the moving average of weights."""

from collections.abc import Iterable
import math

import torch
from torch import nn, Tensor


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Return the share of the base rate at a step: linear warm-up, then cosine.

    The factor of the last step (steps - 1) is exactly 0, unless it is the only one. Warm-up takes
    at most half of the steps.
    """
    warmup = min(warmup, max(0, steps - 1) // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    span = max(1, steps - 1 - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / span))))


def adamw(
    modules: Iterable[tuple[nn.Module, float]],
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.AdamW:
    """Build AdamW: matrices decay; biases, norms, positions and single vectors do not.

    Its fused kernel reads and writes weights and moments once a step.

    Args:
        modules: Each with the scale of its learning rate.
        lr: Base rate, kept in each group as `base_lr` for the schedule.
        weight_decay: Of weights with two or more dimensions in linear and convolution layers.
        betas: Of the moments.
    """
    groups = []
    for module, scale in modules:
        decay = {id(m.weight) for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
        for decays in (True, False):
            parameters = [
                p for p in module.parameters() if p.requires_grad and (id(p) in decay) == decays
            ]
            if parameters:
                groups.append(
                    {
                        'params': parameters,
                        'weight_decay': weight_decay if decays else 0.0,
                        'base_lr': lr * scale,
                    }
                )
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to its base rate times the factor."""
    for group in optimizer.param_groups:
        group['lr'] = group['base_lr'] * factor


class MovingAverage:
    """Exponential moving average of a module's floating-point state.

    The decay after n updates is (1 + n) / (10 + n), at most its value, so that early weights are
    forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start from the module's present state."""
        self.decay = decay
        self.updates = 0
        self.state = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's state; integers and flags are copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                averages.append(self.state[key])
                values.append(value)
            else:
                self.state[key].copy_(value)
        torch._foreach_lerp_(averages, values, 1.0 - decay)
