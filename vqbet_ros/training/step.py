"""One step of a phase. Nothing in it waits for the device: figures stay there until asked for.

The exceptions are a phase's first step, which makes the codebooks, and memory that is short.
"""

import math

import torch
from torch import Tensor
from vqbet_ros.config import TrainConfig
from vqbet_ros.policy.policy import Policy
from vqbet_ros.training.optimizer import learning_rate_factor, set_learning_rate
from vqbet_ros.training.phases.common import Phase
from vqbet_ros.training.processes import ALONE, Processes
from vqbet_ros.training.resume import step_seed


class Stepper:
    """Takes the steps of one phase and adds up their figures."""

    def __init__(
        self,
        policy: Policy,
        phase: Phase,
        config: TrainConfig,
        index: int,
        processes: Processes = ALONE,
    ) -> None:
        """Prepare the steps.

        Args:
            policy: What is trained.
            phase: What its steps learn.
            config: Of the whole training.
            index: The phase's place among all, part of its steps' random numbers.
            processes: Those that share the phase's batches.
        """
        self.policy, self.phase, self.config, self.index = policy, phase, config, index
        self.processes = processes if phase.shared else ALONE
        groups = phase.optimizer.param_groups
        self.parameters: list[Tensor] = [p for group in groups for p in group['params']]
        self.names: list[str] = []  # of the figures
        self.counted = 0  # steps in the sums
        self._sums: Tensor | None = None  # (figures,) float64
        # (3,) the first step that went wrong: its number, its loss, the norm of its gradient.
        self._bad: Tensor | None = None
        frozen = config.model.vision.train == 'frozen' and phase.name == 'policy'
        self._frozen = policy.encoder if frozen else None

    @property
    def sums(self) -> dict[str, float]:
        """The figures' sums over `counted` steps; all processes have to ask for them."""
        if self._sums is None:
            return {}
        sums = self._sums.clone()
        self.processes.add_up([sums])
        return dict(zip(self.names, sums.tolist(), strict=True))

    def restore(self, sums: dict[str, float], counted: int) -> None:
        """Go on from sums that were saved."""
        self.names, self.counted = list(sums), counted
        self._sums = None
        if sums:
            saved = torch.tensor(list(sums.values()), dtype=torch.float64)
            if not self.processes.main:
                saved.zero_()  # they are in the main one's already
            self._sums = saved.to(self.policy.device)

    def clear(self) -> dict[str, float]:
        """Return the figures' means since the last time, and begin anew."""
        means = {key: value / self.counted for key, value in self.sums.items()}
        self._sums, self.counted = None, 0
        return means

    def bad_step(self) -> tuple[int, float, float] | None:
        """Return the first step whose loss or gradient was not finite, if there was one.

        All processes have to ask.

        Returns:
            The step, its loss and the norm of its gradient.
        """
        if self._bad is None:
            return None
        step, loss, norm = self._bad.tolist()
        first = self.processes.lowest(step if step >= 0 else math.inf)
        if first == math.inf:
            return None
        return (int(first), loss, norm) if first == step else (int(first), math.nan, math.nan)

    def step(self, step: int) -> float:
        """Take one step; returns the factor of its learning rates."""
        policy, phase = self.policy, self.phase
        rank = self.processes.rank
        torch.manual_seed(step_seed(self.config.seed, self.index, step, rank))
        policy.train()
        if self._frozen is not None:
            self._frozen.eval()
        phase.module.train()
        factor = learning_rate_factor(step, phase.steps, phase.warmup)
        set_learning_rate(phase.optimizer, factor)
        loss, metrics = phase.loss(step)
        phase.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.processes.add_up([p.grad for p in self.parameters if p.grad is not None])
        # An infinite bound clips nothing: the norm alone is wanted.
        bound = math.inf if phase.clip is None else phase.clip
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, bound)
        self._watch(step, loss.detach(), norm)
        phase.optimizer.step()
        if phase.average is not None:
            phase.average.update(policy)
        values = [
            value.detach().float()
            if isinstance(value, Tensor)
            else torch.full((), value, device=loss.device)
            for value in metrics.values()
        ]
        row = torch.stack(values).double()
        self._sums = row if self._sums is None else self._sums + row
        self.names = list(metrics)
        self.counted += 1
        return factor

    def _watch(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Note the first step that is not finite, without asking for its values."""
        now = torch.stack([torch.full_like(loss, step), loss, norm]).double()
        if self._bad is None:
            self._bad = torch.full_like(now, -1.0)
        first = (self._bad[0] < 0) & ~torch.isfinite(now).all()
        self._bad = torch.where(first, now, self._bad)
