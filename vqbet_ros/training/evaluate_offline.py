"""How far a policy is from demonstrations that it did not learn from.

Legend: M frames, W chunk, A action channels.
"""

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from vqbet_ros.config import TrainConfig
from vqbet_ros.data.layout import OUTCOMES
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.windows import FrameTable
from vqbet_ros.errors import BadDataset
from vqbet_ros.policy.checkpoint import Checkpoint
from vqbet_ros.structured import from_mapping
from vqbet_ros.training.data import load_data, TrainingData
from vqbet_ros.training.report import predict, whole_chunks

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Offline:
    """The errors of a policy's most probable chunks.

    Attributes:
        held_out: Whether these are the episodes that the training had kept out; else all.
        frames: (M,) their rows.
        episode: (M,) their episodes.
        predicted: (M, W, A) in the robot's units.
        recorded: (M, W, A) likewise.
        last: (M, A) the action before; NaN at an episode's first step.
    """

    held_out: bool
    frames: NDArray[np.int64]
    episode: NDArray[np.int64]
    predicted: Floats
    recorded: Floats
    last: Floats

    @property
    def error(self) -> Floats:
        """(W, A) mean absolute error."""
        mean: Floats = np.abs(self.predicted - self.recorded).mean(axis=0)
        return mean

    @property
    def held_error(self) -> Floats:
        """(W, A) the same for a policy that repeats the action before."""
        known = ~np.isnan(self.last[:, 0])
        shape = self.recorded.shape[1:]
        if not known.any():
            return np.full(shape, np.nan)
        mean: Floats = np.abs(self.last[known, None] - self.recorded[known]).mean(axis=0)
        return mean


@torch.no_grad()
def evaluate(checkpoint: Checkpoint, dataset: Dataset) -> Offline:
    """Measure a policy on the episodes of a dataset that its training kept out.

    If it was trained on another dataset, that is on all of them, whatever their outcome.

    Raises:
        SpecMismatch: The dataset is of another robot.
        BadDataset: No episode is as long as a chunk.
    """
    policy = checkpoint.policy
    policy.spec.require_equal(dataset.spec, theirs='dataset')
    held_out = _trained_on(dataset, checkpoint.training)
    if held_out:
        data = load_data(dataset, _config(checkpoint), policy.device)
        held_out = len(data.val) > 0
    if not held_out:
        config = TrainConfig(model=policy.config, outcomes=OUTCOMES, val_fraction=0.0)
        data = load_data(dataset, config, policy.device)
    table = data.val if held_out else data.train
    rows, frames = whole_chunks(table, policy.config.chunk)
    if len(frames) == 0:
        raise BadDataset(
            f'{dataset.path}: no episode to evaluate is as long as one chunk of '
            f'{policy.config.chunk} steps'
        )
    predicted = _predict(checkpoint, data, frames)
    action = dataset.action.astype(np.float64)
    first = frames.at == frames.start
    last = np.where(first[:, None], np.nan, action[np.maximum(frames.at - 1, 0)])
    return Offline(
        held_out=held_out,
        frames=frames.at,
        episode=frames.episode,
        predicted=predicted,
        recorded=action[rows],
        last=last,
    )


def figures(found: Offline, dataset: Dataset) -> dict[str, Any]:
    """Return the errors for JSON."""
    names = dataset.spec.action_names
    numbers = np.unique(found.episode)
    return {
        'robot': dataset.spec.robot,
        'unit': dataset.spec.action.unit,
        'held_out': found.held_out,
        'episodes': len(numbers),
        'frames': len(found.frames),
        'error': dict(zip(names, found.error.mean(axis=0).tolist(), strict=True)),
        'error_by_horizon': {n: found.error[:, i].tolist() for i, n in enumerate(names)},
        'error_if_held_by_horizon': {
            name: [None if np.isnan(v) else float(v) for v in found.held_error[:, index]]
            for index, name in enumerate(names)
        },
        'per_episode': [
            {
                'episode': int(number),
                'outcome': dataset.outcomes[number],
                'frames': int((found.episode == number).sum()),
                'error': dict(zip(names, _episode_error(found, number).tolist(), strict=True)),
            }
            for number in numbers
        ],
    }


def _episode_error(found: Offline, number: int) -> Floats:
    here = found.episode == number
    mean: Floats = np.abs(found.predicted[here] - found.recorded[here]).mean(axis=(0, 1))
    return mean


def _predict(checkpoint: Checkpoint, data: TrainingData, frames: FrameTable) -> Floats:
    found: Floats = predict(checkpoint.policy, data, frames).double().cpu().numpy()
    return found


def _config(checkpoint: Checkpoint) -> TrainConfig:
    config = from_mapping(TrainConfig, checkpoint.training['config'], "the checkpoint's config")
    return dataclasses.replace(config, model=checkpoint.policy.config)


def _trained_on(dataset: Dataset, training: Mapping[str, Any]) -> bool:
    """Tell whether it is the dataset of the training, by its size and its origin."""
    there = {
        'source': dataset.source,
        'episodes': dataset.num_episodes,
        'frames': dataset.num_frames,
    }
    return training.get('dataset') == there and 'config' in training
