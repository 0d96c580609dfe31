"""The whole policy in robot units: encoder, normalisation, VQ-BeT. What a checkpoint holds."""

from dataclasses import dataclass

import torch
from torch import nn, Tensor
from vqbet_ros.config import ModelConfig
from vqbet_ros.policy.heads import Stay
from vqbet_ros.policy.normalizer import Normalizer, Stats
from vqbet_ros.policy.tokenizer import ActionTokenizer
from vqbet_ros.policy.vision import centre_crop, ImageEncoder, to_float
from vqbet_ros.policy.vqbet import Decoded, Steps, VQBeT
from vqbet_ros.spec import RobotSpec


@dataclass(frozen=True)
class Goal:
    """Goal frames, oldest first: features (B, g, n, F) or None, state (B, g, S) raw or None."""

    features: Tensor | None
    state: Tensor | None
    present: Tensor | None = None


class Policy(nn.Module):
    """Images and states in the robot's units to action chunks in the robot's units."""

    measured: Tensor | None

    def __init__(
        self,
        config: ModelConfig,
        spec: RobotSpec,
        stats: dict[str, Stats],
        *,
        load_vision_weights: bool = True,
    ) -> None:
        """Assemble the modules that the configuration names.

        Args:
            config: The model's shape.
            spec: Cameras, state and action channels.
            stats: Statistics of `state` (unless the policy takes none) and `action`.
            load_vision_weights: False where a checkpoint is loaded over them anyway.

        Raises:
            ValueError: The configuration contradicts itself or the spec.
            ConfigError: Vision weights that cannot be had.
        """
        super().__init__()
        self.config, self.spec, self.stats = config, spec, stats
        vision = config.vision
        self.encoder: ImageEncoder | None = None
        if spec.cameras:
            self.encoder = ImageEncoder(
                backbone=vision.backbone,
                weights=vision.weights if load_vision_weights else 'none',
                stages=vision.stages,
                pool=vision.pool,
                keypoints=vision.keypoints,
                norm=vision.norm,
                normalisation=vision.normalisation,
                features=vision.features,
            )
            for camera in spec.cameras:
                if vision.crop is not None and vision.crop > min(camera.height, camera.width):
                    raise ValueError(
                        f'vision.crop {vision.crop} is larger than camera {camera.name} '
                        f'({camera.height} x {camera.width})'
                    )
        state_dim = spec.state_dim if config.state else 0
        self.normalize_state = (
            Normalizer(stats['state'], config.normalisation) if state_dim else None
        )
        self.normalize_action = Normalizer(stats['action'], config.normalisation)
        # A buffer, because an index that is no tensor is uploaded anew each time it is used.
        measured = torch.tensor(measured_columns(spec)) if config.relative_actions else None
        self.register_buffer('measured', measured, persistent=False)
        self.vqbet = VQBeT(
            tokenizer=ActionTokenizer(
                chunk=config.chunk,
                action_dim=spec.action_dim,
                layers=config.code_layers,
                codebook_size=config.codebook_size,
                latent=config.latent,
                hidden=config.tokenizer_hidden,
                decay=config.codebook_decay,
                revive_below=config.revive_below,
            ),
            cameras=len(spec.cameras),
            feature_dim=vision.features,
            state_dim=state_dim,
            history=config.history,
            goal_steps=config.goal_steps,
            goal_state=config.goal_state,
            query_token=config.query_token,
            layers=config.layers,
            heads=config.heads,
            width=config.width,
            dropout=config.dropout,
            head_hidden=config.head_hidden,
            code_mode=config.code_mode,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.normalize_action.scale.device

    def encode(self, images: Tensor) -> Tensor:
        """Return the features (N…, F) of images (N…, H, W, 3) uint8 at the spec's size."""
        assert self.encoder is not None, 'the policy has no camera'
        lead = images.shape[:-3]
        pixels = centre_crop(to_float(images.flatten(0, -4)), self.config.vision.crop)
        return self.encoder(pixels).reshape(*lead, -1)  # type: ignore[no-any-return]

    def steps(
        self, features: Tensor | None, state: Tensor | None, present: Tensor | None
    ) -> Steps:
        """Normalise raw states (B, steps, S) and bundle them with features (B, steps, n, F)."""
        if self.normalize_state is None:
            state = None
        elif state is not None:
            state = self.normalize_state(state)
        return Steps(features, state, present)

    def to_model(self, actions: Tensor, state: Tensor) -> Tensor:
        """Turn chunks (..., W, A) in the robot's units into what the tokenizer takes.

        Args:
            actions: The chunks.
            state: (..., S) in the robot's units, at each chunk's observation.
        """
        if self.measured is not None:
            actions = actions - state[..., None, self.measured]
        normal: Tensor = self.normalize_action(actions)
        return normal

    def to_robot(self, chunks: Tensor, state: Tensor | None) -> Tensor:
        """Undo `to_model`; the state may be None where actions are not relative to it."""
        actions = self.normalize_action.inverse(chunks)
        if self.measured is not None:
            assert state is not None, 'relative actions need the state'
            actions = actions + state[..., None, self.measured]
        return actions

    def act(
        self,
        features: Tensor | None,
        state: Tensor | None,
        present: Tensor | None = None,
        goal: Goal | None = None,
        *,
        temperature: float = 0.0,
        noise: Tensor | None = None,
        stay: Stay | None = None,
    ) -> Decoded:
        """Decide on a chunk.

        Args:
            features: (B, h, n, F), None without cameras.
            state: (B, h, S) in the robot's units, None without state.
            present: (B, h) bool, False for steps before the episode began; None when all are
                there.
            goal: Goal frames, None for none.
            temperature: See `CodeHead.choose`.
            noise: See `CodeHead.choose`.
            stay: See `CodeHead.choose`.

        Returns:
            The decision with its actions (B, W, A) in the robot's units.
        """
        target = None
        if goal is not None:
            target = self.steps(goal.features, goal.state, goal.present)
        hidden = self.vqbet(self.steps(features, state, present), target)[:, -1]  # (B, D)
        decoded = self.vqbet.decode(hidden, temperature, noise, stay)
        actions = self.to_robot(decoded.actions, None if state is None else state[:, -1])
        return Decoded(actions, decoded.codes, decoded.probabilities)


def measured_columns(spec: RobotSpec) -> list[int]:
    """Find the state channel that measures the position of each action channel.

    Raises:
        ValueError: An action is not absolute, or its position is not measured.
    """
    if spec.action.reference != 'absolute':
        raise ValueError(
            'relative_actions needs absolute actions in the spec, got reference '
            f'{spec.action.reference}'
        )
    wanted = [f'{name}/position' for name in spec.action_names]
    missing = [name for name in wanted if name not in spec.state_names]
    if missing:
        raise ValueError(
            f'relative_actions needs the state to hold {", ".join(missing)}; '
            f'it holds {", ".join(spec.state_names) or "nothing"}'
        )
    return [spec.state_names.index(name) for name in wanted]
