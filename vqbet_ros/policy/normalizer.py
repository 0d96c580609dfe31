"""Per-channel affine normalisation of states and actions, fitted on training episodes only."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn, Tensor
from vqbet_ros.errors import BadCheckpoint, listed
from vqbet_ros.structured import to_mapping

Mode = Literal['min_max', 'mean_std']
# A channel that moves less than this share of its own size (or this much, near zero) is constant.
CONSTANT = 1e-6


@dataclass(frozen=True)
class Stats:
    """What is known of each channel of one feature, in the channel's own unit."""

    min: tuple[float, ...]
    max: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse unequal lengths and numbers that cannot be."""
        lengths = {len(self.min), len(self.max), len(self.mean), len(self.std)}
        if len(lengths) != 1:
            raise ValueError('min, max, mean and std must have the same length')
        if not np.isfinite([self.min, self.max, self.mean, self.std]).all():
            raise ValueError('statistics must be finite')
        if (np.array(self.min) > self.max).any() or (np.array(self.std) < 0).any():
            raise ValueError('expected min <= max and std >= 0')

    @classmethod
    def of(cls, rows: np.ndarray) -> 'Stats':
        """Compute the statistics of rows (N, K)."""
        rows = np.asarray(rows, dtype=np.float64)
        columns = (rows.min(0), rows.max(0), rows.mean(0), rows.std(0))
        return cls(*(tuple(float(x) for x in column) for column in columns))

    def to_mapping(self) -> dict[str, list[float]]:
        """Return plain lists for JSON."""
        return dict(to_mapping(self))


class Normalizer(nn.Module):
    """Map channels to about [-1, 1] (min_max) or zero mean and unit variance (mean_std).

    A constant channel maps to 0 and comes back as its constant.
    """

    scale: Tensor  # (K,)
    offset: Tensor  # (K,)

    def __init__(self, stats: Stats, mode: Mode = 'min_max') -> None:
        """Derive scale and offset, in float64, from the statistics."""
        super().__init__()
        low, high, mean, std = (np.array(x) for x in (stats.min, stats.max, stats.mean, stats.std))
        if mode == 'min_max':
            offset, spread = (low + high) / 2, (high - low) / 2
        else:
            offset, spread = mean, std
        constant = high - low <= CONSTANT * np.maximum(1.0, np.abs(offset))
        scale = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, spread))
        # Not persistent: stats.json is the one place where they are kept.
        self.register_buffer('scale', torch.tensor(scale, dtype=torch.float32), persistent=False)
        self.register_buffer('offset', torch.tensor(offset, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., K)."""
        return (x - self.offset) * self.scale

    def inverse(self, y: Tensor) -> Tensor:
        """Undo `forward`; constant channels give their constant whatever `y` is."""
        inverse_scale = torch.where(self.scale == 0, 0.0, 1.0 / self.scale)
        return y * inverse_scale + self.offset


def stats_from_mapping(mapping: object, where: str, dims: dict[str, int]) -> dict[str, Stats]:
    """Read the statistics of a checkpoint.

    Args:
        mapping: The content of stats.json.
        where: Names the file in errors.
        dims: Expected number of channels of each feature.

    Raises:
        BadCheckpoint: Lists every missing feature, wrong length and bad number.
    """
    problems: list[str] = []
    stats: dict[str, Stats] = {}
    entries = mapping if isinstance(mapping, dict) else {}
    for feature, dim in dims.items():
        entry = entries.get(feature)
        if not isinstance(entry, dict) or set(entry) != {'min', 'max', 'mean', 'std'}:
            problems.append(f'{feature}: expected min, max, mean and std, got {entry!r:.80}')
            continue
        try:
            stats[feature] = Stats(**{key: tuple(map(float, entry[key])) for key in entry})
        except (TypeError, ValueError) as error:
            problems.append(f'{feature}: {error}')
            continue
        if len(stats[feature].min) != dim:
            problems.append(f'{feature}: {len(stats[feature].min)} channels, expected {dim}')
    if problems:
        raise BadCheckpoint(listed(f'{where} does not hold the statistics', problems))
    return stats
