"""Phase 1: the action tokenizer.

Legend: B batch, W chunk, A action channels.
"""

import numpy as np
import torch
from torch import nn, Tensor
from vqbet_ros.config import TrainConfig
from vqbet_ros.data.windows import FrameTable, Rows, windows
from vqbet_ros.policy.policy import Policy
from vqbet_ros.policy.tokenizer import code_usage
from vqbet_ros.training.data import TrainingData
from vqbet_ros.training.optimizer import adamw, MovingAverage
from vqbet_ros.training.phases.common import Batches, Metrics, val_frames


class TokenizerTraining:
    """Phase 1: the action tokenizer."""

    name = 'tokenizer'
    clip: float | None = None
    average: MovingAverage | None = None
    shared = False  # it is small: to exchange its gradients would take longer

    def __init__(self, policy: Policy, data: TrainingData, config: TrainConfig) -> None:
        """Take the chunks that start at the training frames, as far as they are whole."""
        self.settings = settings = config.tokenizer
        self.data, self.policy, self.chunk = data, policy, config.model.chunk
        self.steps, self.warmup = settings.steps, settings.warmup
        self.tokenizer = policy.vqbet.tokenizer
        self.module: nn.Module = self.tokenizer
        self.optimizer = adamw(
            [(self.module, 1.0)], lr=settings.lr, weight_decay=settings.weight_decay
        )
        # A chunk filled up at its episode's end is nobody's action: it must not become a code.
        whole = windows(data.train, 1, self.chunk).mask[:, 0].all(axis=1)
        frames = data.train.take(np.flatnonzero(whole))
        self._batches = Batches(frames, settings.batch, config.seed + 1)

    def episodes(self, step: int) -> Rows:
        """Return the numbers of the episodes in a step's batch."""
        return self._batches.indices(step).episode

    def loss(self, step: int) -> tuple[Tensor, Metrics]:
        """Return the autoencoder's loss."""
        actions, mask = self._chunks(self._batches.indices(step))
        loss, metrics = self.tokenizer.loss(
            actions,
            mask,
            commitment_weight=self.settings.commitment_weight,
            reconstruction=self.settings.reconstruction,
        )
        shown = {key: metrics[key] for key in ('reconstruction', 'commitment')}
        return loss, {'loss': loss.detach(), **shown}

    @torch.no_grad()
    def validate(self) -> Metrics:
        """Return the reconstruction error in the robot's units, and the use of the codebooks."""
        actions, mask = self._chunks(val_frames(self.data))
        codes = self.tokenizer.encode(actions)
        inverse = self.policy.normalize_action.inverse
        error = (inverse(self.tokenizer.decode(codes)) - inverse(actions)).abs()  # (B, W, A)
        whole = error[mask].mean(0)  # (A,)
        names = self.policy.spec.action_names
        per_channel = {f'error_{name}': whole[i] for i, name in enumerate(names)}
        train_actions, train_mask = self._chunks(self.data.train)
        train_codes = self.tokenizer.encode(train_actions[train_mask.all(1)])
        return {**per_channel, **code_usage(train_codes, self.tokenizer.codebook_size)}

    def _chunks(self, frames: FrameTable) -> tuple[Tensor, Tensor]:
        rows = windows(frames, 1, self.chunk)
        upload = self.data.upload
        actions = self.data.action[upload(rows.actions[:, 0])]  # (B, W, A)
        actions = self.policy.to_model(actions, self.data.state[upload(rows.observed[:, 0])])
        return actions, upload(rows.mask[:, 0])
