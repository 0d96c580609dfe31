"""What decides a training: frozen dataclasses, read strictly from YAML, every default here.

A training YAML holds any of `TrainConfig`'s keys, and under `budgets` overrides that a device
brings along (`cpu` or `cuda`), since what a GPU trains in an hour a CPU does not.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vqbet_ros.errors import ConfigError
from vqbet_ros.structured import from_mapping, load_yaml, merged, nested

Outcome = Literal['success', 'failure', 'unmarked', 'incomplete']
"""How a demonstration ended; `incomplete` where the recorder was killed before it could say."""


def _at_least(low: float, **values: float) -> None:
    _within(low, float('inf'), **values)


def _within(low: float, high: float, **values: float) -> None:
    bound = f'at least {low}' if high == float('inf') else f'from {low} to {high}'
    # Written so that a NaN fails too.
    bad = [f'{k} must be {bound}, got {v}' for k, v in values.items() if not low <= v <= high]
    if bad:
        raise ValueError('; '.join(bad))


@dataclass(frozen=True)
class VisionConfig:
    """How camera frames become features; see `policy.vision.ImageEncoder`.

    Attributes:
        crop: Side in pixels of the square that is cut out: at random in training, from the middle
            in use; null for the whole image.
        train: `full` learns the encoder with the policy, at `encoder_lr_scale` times its rate;
            `frozen` keeps it as it is and computes all features once.
        colour_jitter: Largest relative change of brightness and contrast in training.
    """

    backbone: Literal['resnet18', 'resnet34', 'resnet50'] = 'resnet18'
    weights: str = 'none'
    stages: int = 4
    pool: Literal['average', 'spatial_softmax'] = 'spatial_softmax'
    keypoints: int = 32
    norm: Literal['batch', 'group'] = 'batch'
    normalisation: Literal['imagenet', 'unit'] = 'imagenet'
    features: int = 64
    crop: int | None = None
    train: Literal['full', 'frozen'] = 'full'
    colour_jitter: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        _at_least(1, stages=self.stages, keypoints=self.keypoints, features=self.features)
        _at_least(0, colour_jitter=self.colour_jitter)
        if self.crop is not None:
            _at_least(1, crop=self.crop)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the policy's shape; it is saved in the checkpoint.

    Attributes:
        history: Observation steps that the policy sees.
        chunk: Action steps that it predicts.
        state: Whether the state is an input.
        goal_steps: Future frames given as goal, 0 for none.
        goal_state: Whether a goal frame has a state token beside its cameras.
        code_layers, codebook_size, latent, tokenizer_hidden: The action tokenizer.
        codebook_decay, revive_below: Its moving average and its revival of dead codes.
        layers, heads, width, dropout: The transformer.
        query_token: A learned token at the end of each step, where the output is read.
        head_hidden: Hidden width of the heads; null for linear heads.
        code_mode: `joint`, or `sequential`: the secondary code given the primary one.
        normalisation: Of states and actions.
        relative_actions: Whether chunks are learned relative to the measured positions at the time
            of the observation. The policy still takes and gives what the spec says.
        temperature: Of drawing codes in use; 0 takes the most probable ones. It decides nothing in
            training.
    """

    history: int = 5
    chunk: int = 5
    state: bool = True
    goal_steps: int = 0
    goal_state: bool = False
    code_layers: int = 2
    codebook_size: int = 16
    latent: int = 256
    tokenizer_hidden: int = 128
    codebook_decay: float = 0.8
    revive_below: float = 1.0
    layers: int = 8
    heads: int = 8
    width: int = 512
    dropout: float = 0.1
    query_token: bool = True
    head_hidden: int | None = None
    code_mode: Literal['joint', 'sequential'] = 'joint'
    normalisation: Literal['min_max', 'mean_std'] = 'min_max'
    relative_actions: bool = False
    temperature: float = 0.0
    vision: VisionConfig = field(default_factory=VisionConfig)

    def __post_init__(self) -> None:
        """Check the ranges."""
        _at_least(
            1,
            history=self.history,
            chunk=self.chunk,
            code_layers=self.code_layers,
            codebook_size=self.codebook_size,
            latent=self.latent,
            layers=self.layers,
            heads=self.heads,
            width=self.width,
        )
        _at_least(0, goal_steps=self.goal_steps, temperature=self.temperature)
        _within(0, 1, dropout=self.dropout)
        if self.relative_actions and not self.state:
            raise ValueError('relative_actions: true needs state: true')
        if self.width % self.heads:
            raise ValueError(f'width {self.width} is no multiple of heads {self.heads}')


@dataclass(frozen=True)
class EncoderPhase:
    """Optional first phase: the image encoder learns to tell what the dataset knows of a frame.

    It regresses the dataset's targets (labels of each frame, where there are any) and the state.

    Attributes:
        steps: 0 leaves the phase out.
    """

    steps: int = 0
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 100

    def __post_init__(self) -> None:
        """Check the ranges."""
        _at_least(1, batch=self.batch)
        _at_least(
            0, steps=self.steps, lr=self.lr, weight_decay=self.weight_decay, warmup=self.warmup
        )


@dataclass(frozen=True)
class TokenizerPhase:
    """Phase 1: action chunks to codes."""

    steps: int = 20_000
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    commitment_weight: float = 5.0
    reconstruction: Literal['l1', 'l2'] = 'l1'

    def __post_init__(self) -> None:
        """Check the ranges."""
        _at_least(1, steps=self.steps, batch=self.batch)
        _at_least(
            0,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            commitment_weight=self.commitment_weight,
        )


@dataclass(frozen=True)
class PolicyPhase:
    """Phase 2: trunk and heads, and the encoder where it is not frozen.

    Attributes:
        clip: Largest norm of the gradient; null leaves it as it is.
        state_noise: Deviation of the noise on normalised states in training.
        goal_dropout: Share of samples whose goal is left out.
        feature_copies: Random crops of each frame whose features are kept with a frozen encoder.
    """

    steps: int = 250_000
    batch: int = 64
    lr: float = 1e-4
    encoder_lr_scale: float = 1.0
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 500
    clip: float | None = 10.0
    ema_decay: float = 0.999
    gamma: float = 2.0
    primary_weight: float = 5.0
    secondary_weight: float = 0.5
    offset_weight: float = 100.0
    offset_codes: Literal['sampled', 'true'] = 'sampled'
    temperature: float = 1.0
    state_noise: float = 0.0
    goal_dropout: float = 0.5
    feature_copies: int = 4

    def __post_init__(self) -> None:
        """Check the ranges."""
        _at_least(1, steps=self.steps, batch=self.batch)
        _at_least(0, lr=self.lr, encoder_lr_scale=self.encoder_lr_scale, warmup=self.warmup)
        _at_least(0, weight_decay=self.weight_decay, gamma=self.gamma)
        _at_least(0, primary_weight=self.primary_weight, secondary_weight=self.secondary_weight)
        _at_least(0, offset_weight=self.offset_weight, temperature=self.temperature)
        _at_least(0, state_noise=self.state_noise, feature_copies=self.feature_copies)
        _within(0, 1, ema_decay=self.ema_decay, goal_dropout=self.goal_dropout)
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f'clip must be more than 0, or null to clip nothing, got {self.clip}')
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f'betas must be in [0, 1), got {list(self.betas)}')


@dataclass(frozen=True)
class TrainConfig:
    """A whole training.

    Attributes:
        seed: Of weights, batches, noise and augmentation.
        outcomes: Which demonstrations are used.
        val_fraction: Share of the episodes kept out for validation, chosen by `split_seed`.
        bf16: Mixed precision in bfloat16 in phase `policy`, on CUDA alone.
        log_every, val_every, save_every: In steps of the current phase.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: EncoderPhase = field(default_factory=EncoderPhase)
    tokenizer: TokenizerPhase = field(default_factory=TokenizerPhase)
    policy: PolicyPhase = field(default_factory=PolicyPhase)
    seed: int = 0
    outcomes: tuple[Outcome, ...] = ('success', 'unmarked')
    val_fraction: float = 0.1
    split_seed: int = 0
    bf16: bool = True
    log_every: int = 100
    val_every: int = 2_000
    save_every: int = 2_000

    def __post_init__(self) -> None:
        """Check the ranges."""
        _at_least(1, log_every=self.log_every, val_every=self.val_every)
        _at_least(1, save_every=self.save_every)
        if not 0.0 <= self.val_fraction < 1.0:
            raise ValueError(f'val_fraction must be in [0, 1), got {self.val_fraction}')

    @classmethod
    def from_yaml(
        cls, path: str | Path, device: Literal['cpu', 'cuda'], overrides: tuple[str, ...] = ()
    ) -> 'TrainConfig':
        """Read a YAML file, the device's budget over it, and `key=value` overrides over both.

        Raises:
            ConfigError: Unknown keys, wrong types, contradictions: all of them at once.
        """
        mapping = load_yaml(path)
        budgets = _budgets(mapping.pop('budgets', {}), path)
        own = merged(mapping, budgets.get(device, {}))
        for override in overrides:
            own = merged(own, nested(override))
        config = from_mapping(cls, own, ' --set '.join([str(path), *overrides]))
        for other, budget in budgets.items():
            # A slip in another device's budget is told here, not where that device is at hand.
            if other != device:
                from_mapping(cls, merged(mapping, budget), f'{path} with the budget of {other}')
        return config


def _budgets(value: Any, path: str | Path) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not set(value) <= {'cpu', 'cuda'}:
        raise ConfigError(f'{path}: budgets must be a mapping of cpu and cuda, got {value!r}')
    for device, budget in value.items():
        if not isinstance(budget, dict):
            raise ConfigError(f'{path}: budgets.{device} must be a mapping, got {budget!r}')
    return value
