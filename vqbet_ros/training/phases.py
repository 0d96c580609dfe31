"""The phases of a training: each knows its batches, its loss and how it is validated.

Every random number of a step (batch, noise, augmentation, dropout) follows from the seed, the
phase and the step alone, so that a resumed training repeats what an uninterrupted one does.

Legend: B batch, h history, W chunk, A action channels, g goal steps, n cameras, F features.
"""

from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import nn, Tensor
from torch.nn import functional as F
from vqbet_ros.config import TrainConfig
from vqbet_ros.data.windows import batch_of, FrameTable, goal_rows, Rows, windows
from vqbet_ros.errors import BadDataset
from vqbet_ros.policy.normalizer import Normalizer
from vqbet_ros.policy.policy import Policy
from vqbet_ros.policy.tokenizer import code_usage, mlp
from vqbet_ros.policy.vision import colour_jitter, random_crop, to_float
from vqbet_ros.policy.vqbet import Steps
from vqbet_ros.training.data import TrainingData
from vqbet_ros.training.optimizer import adamw, MovingAverage

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

    def loss(self, step: int) -> tuple[Tensor, Metrics]:
        """Return the loss and the metrics of a step."""

    def validate(self) -> Metrics:
        """Return metrics on the episodes kept out, or on training ones where there are none."""

    def episodes(self, step: int) -> Rows:
        """Return the numbers of the episodes in a step's batch."""


class _Batches:
    """Chooses the frames of each step."""

    def __init__(self, frames: FrameTable, batch: int, seed: int) -> None:
        self.frames, self.batch, self.seed = frames, batch, seed
        self.indices = lru_cache(maxsize=2)(self._indices)

    def _indices(self, step: int) -> FrameTable:
        return self.frames.take(batch_of(step, len(self.frames), self.batch, self.seed))


def augmented(images: Tensor, crop: int | None, jitter: float) -> Tensor:
    """Crop and jitter images (B, steps, n, H, W_px, 3) uint8 into (B, steps, n, 3, crop, crop).

    One draw for each sample, so that its frames stay consistent with each other.
    """
    return colour_jitter(random_crop(to_float(images), crop), jitter)


class EncoderTraining:
    """The encoder learns to regress the dataset's targets and the state from single frames."""

    name = 'encoder'
    clip = 10.0
    average = None

    def __init__(self, policy: Policy, data: TrainingData, config: TrainConfig) -> None:
        """Add a regression head that is thrown away after the phase."""
        settings = config.encoder
        if policy.encoder is None:
            raise BadDataset('encoder.steps is set, but the dataset has no camera')
        self.policy, self.data, self.vision = policy, data, config.model.vision
        self.steps, self.warmup = settings.steps, settings.warmup
        labels = ['targets', 'state'] if data.targets is not None else ['state']
        normalized = []
        for name in labels:
            values = getattr(data, name)
            normalized.append(Normalizer(data.stats[name]).to(data.device)(values))
        self.labels = torch.cat(normalized, dim=1)  # (N, K) in [-1, 1]
        self.head = mlp(
            len(data.cameras) * config.model.vision.features, 256, self.labels.shape[1]
        ).to(data.device)
        self.module = nn.ModuleList([policy.encoder, self.head])
        self.optimizer = adamw(
            [(self.module, 1.0)], lr=settings.lr, weight_decay=settings.weight_decay
        )
        self._batches = _Batches(data.train, settings.batch, config.seed)

    def episodes(self, step: int) -> Rows:
        """Return the numbers of the episodes in a step's batch."""
        return self._batches.indices(step).episode

    def loss(self, step: int) -> tuple[Tensor, Metrics]:
        """Return the smooth L1 of the normalised labels."""
        rows = self._batches.indices(step).at
        images = self.data.images(rows[:, None]).to(self.data.device)
        pixels = augmented(images, self.vision.crop, self.vision.colour_jitter)
        error = self._predict(pixels) - self.labels[rows]
        loss = F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.05)
        return loss, {'loss': loss.detach(), 'l1': error.detach().abs().mean()}

    @torch.no_grad()
    def validate(self) -> Metrics:
        """Return the mean absolute error of the normalised labels on centre crops."""
        frames = _val_frames(self.data)
        errors = []
        for rows in np.array_split(frames.at, max(1, len(frames) // 64)):
            assert self.policy.encoder is not None
            features = self.policy.encode(self.data.images(rows[:, None]).to(self.data.device))
            predicted = self.head(features.flatten(1))
            errors.append((predicted - self.labels[rows]).abs().mean())
        return {'l1': torch.stack(errors).mean()}

    def _predict(self, pixels: Tensor) -> Tensor:
        assert self.policy.encoder is not None
        features = self.policy.encoder(pixels.flatten(0, 2))  # (B*n, F)
        return self.head(features.reshape(len(pixels), -1))  # type: ignore[no-any-return]


class TokenizerTraining:
    """Phase 1: the action tokenizer."""

    name = 'tokenizer'
    clip = None
    average = None

    def __init__(self, policy: Policy, data: TrainingData, config: TrainConfig) -> None:
        """Take the chunks that start at the training frames."""
        self.settings = settings = config.tokenizer
        self.data, self.policy, self.chunk = data, policy, config.model.chunk
        self.steps, self.warmup = settings.steps, settings.warmup
        self.module = policy.vqbet.tokenizer
        self.optimizer = adamw(
            [(self.module, 1.0)], lr=settings.lr, weight_decay=settings.weight_decay
        )
        self._batches = _Batches(data.train, settings.batch, config.seed + 1)

    def episodes(self, step: int) -> Rows:
        """Return the numbers of the episodes in a step's batch."""
        return self._batches.indices(step).episode

    def loss(self, step: int) -> tuple[Tensor, Metrics]:
        """Return the autoencoder's loss."""
        actions, mask = self._chunks(self._batches.indices(step))
        loss, metrics = self.module.loss(
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
        actions, mask = self._chunks(_val_frames(self.data))
        codes = self.module.encode(actions)
        inverse = self.policy.normalize_action.inverse
        error = (inverse(self.module.decode(codes)) - inverse(actions)).abs()  # (B, W, A)
        whole = error[mask].mean(0)  # (A,)
        names = self.policy.spec.action_names
        per_channel = {f'error_{name}': whole[i] for i, name in enumerate(names)}
        train_actions, train_mask = self._chunks(self.data.train)
        train_codes = self.module.encode(train_actions[train_mask.all(1)])
        return {**per_channel, **code_usage(train_codes, self.module.codebook_size)}

    def _chunks(self, frames: FrameTable) -> tuple[Tensor, Tensor]:
        rows = windows(frames, 1, self.chunk)
        actions = self.policy.normalize_action(self.data.action[rows.actions[:, 0]])  # (B, W, A)
        return actions, torch.from_numpy(rows.mask[:, 0]).to(actions.device)


class PolicyTraining:
    """Phase 2: trunk and heads, and the encoder unless it is frozen."""

    name = 'policy'

    def __init__(self, policy: Policy, data: TrainingData, config: TrainConfig) -> None:
        """Compute the features of all frames once if the encoder is frozen."""
        self.settings = settings = config.policy
        self.model, self.vision = config.model, config.model.vision
        self.policy, self.data = policy, data
        self.steps, self.warmup, self.clip = settings.steps, settings.warmup, settings.clip
        policy.vqbet.tokenizer.requires_grad_(False)
        trained: list[tuple[nn.Module, float]] = [(policy.vqbet, 1.0)]
        self.features: Tensor | None = None  # (copies, N, n, F) with a frozen encoder
        modules: list[nn.Module] = [policy.vqbet]
        if policy.encoder is not None and self.vision.train == 'frozen':
            policy.encoder.requires_grad_(False)
            self.features = self._all_features(1 + settings.feature_copies)
        elif policy.encoder is not None:
            trained.append((policy.encoder, settings.encoder_lr_scale))
            modules.append(policy.encoder)
        self.module = nn.ModuleList(modules)
        self.optimizer = adamw(
            trained,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            fused=data.device.type == 'cuda',
        )
        self.average: MovingAverage | None = MovingAverage(policy, settings.ema_decay)
        self.bf16 = config.bf16 and data.device.type == 'cuda'
        self._batches = _Batches(data.train, settings.batch, config.seed + 2)
        self._seed = config.seed

    def episodes(self, step: int) -> Rows:
        """Return the numbers of the episodes in a step's batch."""
        return self._batches.indices(step).episode

    def loss(self, step: int) -> tuple[Tensor, Metrics]:
        """Return the policy's loss on a batch with augmentation and goal dropout."""
        frames = self._batches.indices(step)
        rng = np.random.default_rng((self._seed, step))
        loss, metrics = self._loss(frames, rng, training=True)
        return loss, {'loss': loss.detach(), **metrics}

    @torch.no_grad()
    def validate(self) -> Metrics:
        """Return the loss, and the error of the most probable chunk in the robot's units."""
        frames = _val_frames(self.data)
        sums: dict[str, float] = {}
        for part in np.array_split(np.arange(len(frames)), max(1, len(frames) // 256)):
            taken = frames.take(part)
            loss, metrics = self._loss(taken, np.random.default_rng(0), training=False)
            metrics = {'loss': loss, **metrics, **self._chunk_error(taken)}
            for key, value in metrics.items():
                sums[key] = sums.get(key, 0.0) + float(value) * len(part) / len(frames)
        return dict(sums)

    def _loss(
        self, frames: FrameTable, rng: np.random.Generator, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        settings, device = self.settings, self.data.device
        rows = windows(frames, self.model.history, self.model.chunk)
        present = torch.from_numpy(rows.present).to(device)
        actions = self.policy.normalize_action(self.data.action[rows.actions])  # (B, h, W, A)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            observed = self._steps(rows.observed, present, training)
            goal = None
            if self.model.goal_steps:
                goal_at = goal_rows(frames, self.model.goal_steps, rng)
                kept = torch.ones(len(goal_at), dtype=torch.bool)
                if training:
                    kept = torch.rand(len(goal_at)) >= settings.goal_dropout
                there = kept[:, None].expand(goal_at.shape).to(device)
                goal = self._steps(goal_at, there, training)
            return self.policy.vqbet.loss(
                observed,
                goal,
                actions,
                torch.from_numpy(rows.mask).to(device),
                gamma=settings.gamma,
                primary_weight=settings.primary_weight,
                secondary_weight=settings.secondary_weight,
                offset_weight=settings.offset_weight,
                offset_codes=settings.offset_codes,
                temperature=settings.temperature,
            )

    def _steps(self, rows: Rows, present: Tensor, training: bool) -> Steps:
        """Gather the observations at rows (B, steps), augmented in training."""
        features = self._features(rows, training)
        steps = self.policy.steps(features, self.data.state[rows], present)
        if training and steps.state is not None and self.settings.state_noise > 0.0:
            noisy = steps.state + self.settings.state_noise * torch.randn_like(steps.state)
            steps = Steps(steps.features, noisy, steps.present)
        return steps

    def _features(self, rows: Rows, training: bool) -> Tensor | None:
        if self.policy.encoder is None:
            return None
        if self.features is not None:
            copy = torch.zeros(rows.shape, dtype=torch.long)
            if training:
                # One crop for all frames of a sample, as `augmented` has it.
                copy = torch.randint(len(self.features), (len(rows), 1)).expand(rows.shape)
            return self.features[copy, torch.from_numpy(rows)]  # (B, steps, n, F)
        images = self.data.images(rows).to(self.data.device)  # (B, steps, n, H, W_px, 3)
        if not training:
            return self.policy.encode(images)
        pixels = augmented(images, self.vision.crop, self.vision.colour_jitter)
        flat: Tensor = self.policy.encoder(pixels.flatten(0, 2))
        return flat.unflatten(0, pixels.shape[:3])

    @torch.no_grad()
    def _all_features(self, copies: int) -> Tensor:
        """Encode every frame: copy 0 from the centre, the others from random crops."""
        assert self.policy.encoder is not None
        self.policy.eval()
        torch.manual_seed(0)
        result: list[Tensor] = []
        for copy in range(copies):
            parts = []
            for rows in np.array_split(
                np.arange(self.data.dataset.num_frames), self.data.dataset.num_frames // 64 + 1
            ):
                images = self.data.images(rows[:, None]).to(self.data.device)
                if copy == 0:
                    parts.append(self.policy.encode(images)[:, 0])  # (rows, n, F)
                else:
                    pixels = augmented(images, self.vision.crop, self.vision.colour_jitter)
                    flat = self.policy.encoder(pixels.flatten(0, 2))
                    parts.append(flat.unflatten(0, (len(rows), len(self.data.cameras))))
            result.append(torch.cat(parts))
        return torch.stack(result)

    def _chunk_error(self, frames: FrameTable) -> dict[str, Tensor]:
        rows = windows(frames, self.model.history, self.model.chunk)
        features = self._features(rows.observed, training=False)
        present = torch.from_numpy(rows.present).to(self.data.device)
        state = self.data.state[rows.observed]
        actions = self.policy.act(features, state, present).actions  # (B, W, A)
        error = (actions - self.data.action[rows.actions[:, -1]]).abs()
        mask = torch.from_numpy(rows.mask[:, -1]).to(error.device)
        per_channel = error[mask].mean(0)
        return {
            f'error_{name}': per_channel[i] for i, name in enumerate(self.policy.spec.action_names)
        }


def _val_frames(data: TrainingData) -> FrameTable:
    frames = data.val if len(data.val) else data.train
    return frames.take(np.linspace(0, len(frames) - 1, min(VAL_FRAMES, len(frames))).astype(int))
