"""A dataset as a training sees it: split by episode, statistics, gathered windows as tensors.

Legend: B batch, h history, W chunk, g goal steps, n cameras, H x W_px an image, N frames.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from vqbet_ros.config import TrainConfig
from vqbet_ros.data.manifest import demonstrations
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.windows import frame_table, FrameTable, Rows, split_episodes, windows
from vqbet_ros.errors import BadDataset, ConfigError
from vqbet_ros.policy.device import upload
from vqbet_ros.policy.normalizer import Stats
from vqbet_ros.policy.policy import measured_columns
from vqbet_ros.training.pictures import Pictures
from vqbet_ros.training.processes import ALONE, Processes


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Arrays and frame tables of one training.

    Attributes:
        dataset: Where images are read from.
        state: (N, S) on the device, in the spec's units.
        action: (N, A) likewise.
        targets: (N, K) likewise, or None.
        train: Frames of the training episodes.
        val: Frames of the episodes kept out.
        stats: Of `state`, `action` and `targets`, over training episodes only.
        device: torch device.
        pictures: The images on their way to it.
        processes: Those that share each batch.
    """

    dataset: Dataset
    state: Tensor
    action: Tensor
    targets: Tensor | None
    train: FrameTable
    val: FrameTable
    stats: dict[str, Stats]
    device: torch.device
    pictures: Pictures
    processes: Processes = ALONE

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera names in the spec's order."""
        return tuple(camera.name for camera in self.dataset.spec.cameras)

    def images(self, rows: Rows) -> Tensor:
        """Read images at rows (...) as (..., n, H, W_px, 3) uint8 on the device."""
        return self.pictures.read(rows)

    def upload(self, array: NDArray[Any]) -> Tensor:
        """Return rows or masks as a tensor on the device, without waiting for it."""
        return upload(array, self.device)


def load_data(
    dataset: Dataset, config: TrainConfig, device: torch.device, processes: Processes = ALONE
) -> TrainingData:
    """Split the demonstrations, fit the statistics on the training part, move the vectors.

    Raises:
        BadDataset: There is no episode, none with an outcome that the configuration takes, or
            none that is long enough for a chunk.
        ConfigError: The crop is larger than a picture.
    """
    _check_crop(config, dataset)
    if dataset.num_episodes == 0:
        raise BadDataset(f'{dataset.path} holds no episode: record or import some first')
    taken = np.flatnonzero([outcome in config.outcomes for outcome in dataset.outcomes])
    if len(taken) == 0:
        there = ', '.join(f'{n} {outcome}' for outcome, n in Counter(dataset.outcomes).items())
        raise BadDataset(
            f'{dataset.path}: no episode is {" or ".join(config.outcomes)} (there are: {there}): '
            'change `outcomes` of the configuration'
        )
    train_episodes, val_episodes = (
        taken[part]
        for part in split_episodes(
            demonstrations(dataset)[taken], config.val_fraction, config.split_seed
        )
    )
    train = frame_table(dataset.episode_ends, train_episodes)
    val = frame_table(dataset.episode_ends, val_episodes)
    if int((train.end - train.start).max()) < config.model.chunk:
        raise BadDataset(
            f'{dataset.path}: no training episode is as long as one chunk of {config.model.chunk} '
            'steps: lower model.chunk, or record longer episodes'
        )
    arrays = {'state': dataset.state, 'action': dataset.action}
    if dataset.targets is not None:
        arrays['targets'] = dataset.targets
    stats = {name: Stats.of(array[train.at]) for name, array in arrays.items()}
    if config.model.relative_actions:
        stats['action'] = _relative_stats(dataset, train, config.model.chunk)
    tensors = {name: torch.from_numpy(np.array(a)).to(device) for name, a in arrays.items()}
    return TrainingData(
        dataset=dataset,
        state=tensors['state'],
        action=tensors['action'],
        targets=tensors.get('targets'),
        train=train,
        val=val,
        stats=stats,
        device=device,
        pictures=Pictures(dataset, device),
        processes=processes,
    )


def _relative_stats(dataset: Dataset, frames: FrameTable, chunk: int) -> Stats:
    """Fit the statistics of whole chunks relative to the positions measured at their start."""
    rows = windows(frames, 1, chunk)
    whole = rows.mask[:, 0].all(axis=1)
    actions = dataset.action[rows.actions[whole, 0]]  # (M, W, A)
    measured = dataset.state[frames.at[whole]][:, measured_columns(dataset.spec)]  # (M, A)
    return Stats.of((actions - measured[:, None]).reshape(-1, actions.shape[-1]))  # (M*W, A)


def _check_crop(config: TrainConfig, dataset: Dataset) -> None:
    crop = config.model.vision.crop
    for camera in dataset.spec.cameras:
        if crop is not None and crop > min(camera.height, camera.width):
            raise ConfigError(
                f'model.vision.crop is {crop}, but the pictures of camera {camera.name} are '
                f'{camera.height}x{camera.width}: take a smaller crop, or null'
            )
