"""What the phases of a training have in common.

Every random number of a step (batch, noise, augmentation, dropout) follows from the seed, the
phase and the step alone, so that a resumed training repeats what an uninterrupted one does.

Legend: B batch, n cameras, H x W_px an image.
"""

from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import nn, Tensor
from vqbet_ros.data.windows import batch_of, FrameTable, Rows
from vqbet_ros.errors import ConfigError
from vqbet_ros.policy.vision import colour_jitter, random_crop, to_float
from vqbet_ros.training.data import TrainingData
from vqbet_ros.training.optimizer import MovingAverage
from vqbet_ros.training.processes import ALONE, Processes

Metrics = dict[str, Tensor | float]
VAL_FRAMES = 2048


class Phase(Protocol):
    """One phase of the training, as the loop sees it."""

    name: str
    steps: int
    warmup: int
    clip: float | None
    module: nn.Module
    optimizer: torch.optim.AdamW
    average: MovingAverage | None
    shared: bool
    """Whether each process takes its share of a batch, not every one the whole."""

    def loss(self, step: int) -> tuple[Tensor, Metrics]:
        """Return the loss and the metrics of a step, which add up over the processes."""

    def validate(self) -> Metrics:
        """Return metrics on the episodes kept out, or on training ones where there are none."""

    def episodes(self, step: int) -> Rows:
        """Return the numbers of the episodes in a step's batch."""


class Batches:
    """Chooses the frames of each step.

    Raises:
        ConfigError: There are more processes than samples in a batch.
    """

    def __init__(
        self, frames: FrameTable, batch: int, seed: int, processes: Processes = ALONE
    ) -> None:
        if processes.count > min(batch, len(frames)):
            raise ConfigError(
                f'a batch of {min(batch, len(frames))} samples cannot be shared by '
                f'{processes.count} processes: raise it, or start fewer'
            )
        self.frames, self.batch, self.seed, self.processes = frames, batch, seed, processes
        self.indices = lru_cache(maxsize=2)(self._indices)

    def share(self, step: int) -> FrameTable:
        """Return this process's part of a step's frames."""
        return self.processes.share(self.indices(step))

    def _indices(self, step: int) -> FrameTable:
        return self.frames.take(batch_of(step, len(self.frames), self.batch, self.seed))


def channels_last(encoder: nn.Module) -> nn.Module:
    """Lay an encoder's weights out as its convolutions want them, rather than at each step."""
    return encoder.to(memory_format=torch.channels_last)


def augmented(images: Tensor, crop: int | None, jitter: float) -> Tensor:
    """Crop and jitter images (B, steps, n, H, W_px, 3) uint8 into (B, steps, n, 3, crop, crop).

    One draw for each sample, so that its frames stay consistent with each other.
    """
    # Cropped as bytes: what falls away need not become numbers first.
    cropped = random_crop(images.movedim(-1, -3), crop)  # (B, steps, n, 3, crop, crop)
    return colour_jitter(to_float(cropped.movedim(-3, -1)), jitter)


def val_frames(data: TrainingData) -> FrameTable:
    """Pick frames for validation, evenly; of training episodes where none are kept out."""
    frames = data.val if len(data.val) else data.train
    return frames.take(np.linspace(0, len(frames) - 1, min(VAL_FRAMES, len(frames))).astype(int))
