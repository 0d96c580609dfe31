"""Phase 2: the policy over the codes of a trained tokenizer.

Legend: B batch, h history, W chunk, A action channels, g goal steps, n cameras, F features,
N frames of the dataset, H x W_px an image.
"""

import numpy as np
import torch
from torch import nn, Tensor
from vqbet_ros.config import TrainConfig
from vqbet_ros.data.windows import FrameTable, goal_rows, parts_of, Rows, windows
from vqbet_ros.policy.policy import Policy
from vqbet_ros.policy.vqbet import Steps
from vqbet_ros.training.data import TrainingData
from vqbet_ros.training.optimizer import adamw, MovingAverage
from vqbet_ros.training.phases.common import augmented, Batches, channels_last, Metrics, val_frames


class PolicyTraining:
    """Phase 2: trunk and heads, and the encoder unless it is frozen."""

    name = 'policy'
    shared = True

    def __init__(self, policy: Policy, data: TrainingData, config: TrainConfig) -> None:
        """Compute the features of all frames once if the encoder is frozen."""
        self.settings = settings = config.policy
        self.model, self.vision = config.model, config.model.vision
        self.policy, self.data = policy, data
        self.steps, self.warmup = settings.steps, settings.warmup
        self.clip: float | None = settings.clip
        policy.vqbet.tokenizer.requires_grad_(False)
        trained: list[tuple[nn.Module, float]] = [(policy.vqbet, 1.0)]
        self.features: Tensor | None = None  # (copies, N, n, F) with a frozen encoder
        modules: list[nn.Module] = [policy.vqbet]
        if policy.encoder is not None and self.vision.train == 'frozen':
            policy.encoder.requires_grad_(False)
            self.features = self._all_features(1 + settings.feature_copies)
        elif policy.encoder is not None:
            channels_last(policy.encoder)
            trained.append((policy.encoder, settings.encoder_lr_scale))
            modules.append(policy.encoder)
        self.module: nn.Module = nn.ModuleList(modules)
        self.optimizer = adamw(
            trained,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
        )
        self.average: MovingAverage | None = MovingAverage(policy, settings.ema_decay)
        self.bf16 = config.bf16 and data.device.type == 'cuda'
        self._batches = Batches(data.train, settings.batch, config.seed + 2, data.processes)
        self._seed = config.seed

    def episodes(self, step: int) -> Rows:
        """Return the numbers of the episodes in a step's batch."""
        return self._batches.indices(step).episode

    def loss(self, step: int) -> tuple[Tensor, Metrics]:
        """Return the policy's loss on a batch with augmentation and goal dropout."""
        frames = self._batches.indices(step)
        rng = np.random.default_rng((self._seed, step))
        goal_at = goal_rows(frames, self.model.goal_steps, rng) if self.model.goal_steps else None
        if self.features is None and self.policy.encoder is not None and step + 1 < self.steps:
            following = self._batches.share(step + 1)
            rows = windows(following, self.model.history, self.model.chunk)
            self.data.pictures.read_ahead(rows.observed)
        processes = self.data.processes
        if processes.count == 1:
            loss, metrics = self._loss(frames, goal_at, training=True)
            return loss, {'loss': loss.detach(), **metrics}
        # A mean over a part, times the part's share of what it is a mean of, is a part of the
        # mean over the whole batch.
        share = processes.share(frames)
        goal_at = None if goal_at is None else goal_at[processes.rank :: processes.count]
        codes, steps = (
            part / max(1, whole)
            for part, whole in zip(self._counts(share), self._counts(frames), strict=True)
        )
        loss, metrics = self._loss(share, goal_at, True, codes, steps)
        shares = {
            'code_loss': 1.0,
            'offset_loss': steps,
        }  # the first one's weights hold it already
        parts = {key: value * shares.get(key, codes) for key, value in metrics.items()}
        return loss, {'loss': loss.detach(), **parts}

    def _counts(self, frames: FrameTable) -> tuple[int, int]:
        """Return how many whole chunks, and how many real steps, a batch has."""
        mask = windows(frames, self.model.history, self.model.chunk).mask  # (B, h, W)
        return int(mask.all(-1).sum()), int(mask.sum())

    @torch.no_grad()
    def validate(self) -> Metrics:
        """Return the loss, and the error of the most probable chunk in the robot's units."""
        frames = val_frames(self.data)
        sums: dict[str, float] = {}
        # In parts no larger than a batch, so that validation needs no more memory than a step.
        for taken in parts_of(frames, self.settings.batch):
            goal_at = None
            if self.model.goal_steps:
                goal_at = goal_rows(taken, self.model.goal_steps, np.random.default_rng(0))
            loss, metrics = self._loss(taken, goal_at, training=False)
            metrics = {'loss': loss, **metrics, **self._chunk_error(taken)}
            for key, value in metrics.items():
                sums[key] = sums.get(key, 0.0) + float(value) * len(taken) / len(frames)
        return dict(sums)

    def _loss(
        self,
        frames: FrameTable,
        goal_at: Rows | None,
        training: bool,
        codes: float = 1.0,
        steps: float = 1.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and metrics of a batch, or of a part that has these shares of the whole.

        Args:
            frames: The samples.
            goal_at: (B, g) rows of their goals, if the policy takes any.
            training: Whether to augment.
            codes: The part's share of the whole chunks, of which codes are learned.
            steps: Its share of the real steps, of which offsets are.
        """
        settings, device = self.settings, self.data.device
        rows = windows(frames, self.model.history, self.model.chunk)
        present, mask = self.data.upload(rows.present), self.data.upload(rows.mask)
        actions = self.data.action[self.data.upload(rows.actions)]  # (B, h, W, A)
        actions = self.policy.to_model(actions, self.data.state[self.data.upload(rows.observed)])
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            observed = self._steps(rows.observed, present, training)
            goal = None
            if goal_at is not None:
                kept = torch.ones(len(goal_at), dtype=torch.bool, device=device)
                if training:
                    kept = torch.rand(len(goal_at), device=device) >= settings.goal_dropout
                there = kept[:, None].expand(goal_at.shape)
                goal = self._steps(goal_at, there, training)
            return self.policy.vqbet.loss(
                observed,
                goal,
                actions,
                mask,
                gamma=settings.gamma,
                primary_weight=settings.primary_weight * codes,
                secondary_weight=settings.secondary_weight * codes,
                offset_weight=settings.offset_weight * steps,
                offset_codes=settings.offset_codes,
                temperature=settings.temperature,
            )

    def _steps(self, rows: Rows, present: Tensor, training: bool) -> Steps:
        """Gather the observations at rows (B, steps), augmented in training."""
        features = self._features(rows, training)
        steps = self.policy.steps(features, self.data.state[self.data.upload(rows)], present)
        if training and steps.state is not None and self.settings.state_noise > 0.0:
            noisy = steps.state + self.settings.state_noise * torch.randn_like(steps.state)
            steps = Steps(steps.features, noisy, steps.present)
        return steps

    def _features(self, rows: Rows, training: bool) -> Tensor | None:
        if self.policy.encoder is None:
            return None
        if self.features is not None:
            device, drawn = self.data.device, len(self.features) if training else 1
            # One crop for all frames of a sample, as `augmented` has it; 0 is the middle.
            copy = torch.randint(drawn, (len(rows), 1), device=device)
            kept: Tensor = self.features[copy, self.data.upload(rows)]  # (B, steps, n, F)
            return kept
        images = self.data.images(rows)  # (B, steps, n, H, W_px, 3)
        if not training:
            return self.policy.encode(images)
        pixels = augmented(images, self.vision.crop, self.vision.colour_jitter)
        flat: Tensor = self.policy.encoder(pixels.flatten(0, 2))
        return flat.reshape(*pixels.shape[:3], -1)

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
                images = self.data.images(rows[:, None])
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
        upload = self.data.upload
        state, present = self.data.state[upload(rows.observed)], upload(rows.present)
        actions = self.policy.act(features, state, present).actions  # (B, W, A)
        error = (actions - self.data.action[upload(rows.actions[:, -1])]).abs()
        mask = upload(rows.mask[:, -1])
        per_channel = error[mask].mean(0)
        return {
            f'error_{name}': per_channel[i] for i, name in enumerate(self.policy.spec.action_names)
        }
