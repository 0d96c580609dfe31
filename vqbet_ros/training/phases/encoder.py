"""The optional first phase: the image encoder learns from labels of single frames.

Legend: B batch, n cameras, F features, N frames, K labels.
"""

import torch
from torch import nn, Tensor
from torch.nn import functional as F
from vqbet_ros.config import TrainConfig
from vqbet_ros.data.windows import parts_of, Rows
from vqbet_ros.errors import BadDataset
from vqbet_ros.policy.normalizer import Normalizer
from vqbet_ros.policy.policy import Policy
from vqbet_ros.policy.tokenizer import mlp
from vqbet_ros.training.data import TrainingData
from vqbet_ros.training.optimizer import adamw, MovingAverage
from vqbet_ros.training.phases.common import augmented, Batches, channels_last, Metrics, val_frames


class EncoderTraining:
    """The encoder learns to regress the dataset's targets and the state from single frames."""

    name = 'encoder'
    clip: float | None = 10.0
    average: MovingAverage | None = None
    shared = True

    def __init__(self, policy: Policy, data: TrainingData, config: TrainConfig) -> None:
        """Add a regression head that is thrown away after the phase."""
        settings = config.encoder
        if policy.encoder is None:
            raise BadDataset('encoder.steps is set, but the dataset has no camera')
        self.policy, self.data, self.vision = policy, data, config.model.vision
        channels_last(policy.encoder)
        self.steps, self.warmup, self.batch = settings.steps, settings.warmup, settings.batch
        labels = ['targets', 'state'] if data.targets is not None else ['state']
        normalized = []
        for name in labels:
            values = getattr(data, name)
            normalized.append(Normalizer(data.stats[name]).to(data.device)(values))
        self.labels = torch.cat(normalized, dim=1)  # (N, K) in [-1, 1]
        self.head = mlp(
            len(data.cameras) * config.model.vision.features, 256, self.labels.shape[1]
        ).to(data.device)
        self.module: nn.Module = nn.ModuleList([policy.encoder, self.head])
        self.optimizer = adamw(
            [(self.module, 1.0)], lr=settings.lr, weight_decay=settings.weight_decay
        )
        self._batches = Batches(data.train, settings.batch, config.seed, data.processes)

    def episodes(self, step: int) -> Rows:
        """Return the numbers of the episodes in a step's batch."""
        return self._batches.indices(step).episode

    def loss(self, step: int) -> tuple[Tensor, Metrics]:
        """Return the smooth L1 of the normalised labels."""
        rows = self._batches.share(step).at
        if step + 1 < self.steps:
            self.data.pictures.read_ahead(self._batches.share(step + 1).at)
        images = self.data.images(rows[:, None])
        pixels = augmented(images, self.vision.crop, self.vision.colour_jitter)
        error = self._predict(pixels) - self.labels[self.data.upload(rows)]
        loss = F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.05)
        part = len(rows) / len(self._batches.indices(step))
        loss = loss * part
        return loss, {'loss': loss.detach(), 'l1': error.detach().abs().mean() * part}

    @torch.no_grad()
    def validate(self) -> Metrics:
        """Return the mean absolute error of the normalised labels on centre crops."""
        frames = val_frames(self.data)
        errors = []  # (rows, K) each
        for part in parts_of(frames, self.batch):
            features = self.policy.encode(self.data.images(part.at[:, None]))
            predicted = self.head(features.flatten(1))
            errors.append((predicted - self.labels[self.data.upload(part.at)]).abs())
        return {'l1': torch.cat(errors).mean()}

    def _predict(self, pixels: Tensor) -> Tensor:
        assert self.policy.encoder is not None
        features = self.policy.encoder(pixels.flatten(0, 2))  # (B*n, F)
        return self.head(features.reshape(len(pixels), -1))  # type: ignore[no-any-return]
