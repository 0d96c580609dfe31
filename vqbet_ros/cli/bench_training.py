"""A training that a bench can take step by step, on made-up demonstrations."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
import time
from typing import Any, Literal

import numpy as np
import torch
from vqbet_ros.cli.bench_policy import peer_spec, percentiles_ms, TABLE_PX
from vqbet_ros.config import TrainConfig
from vqbet_ros.data.episode import Episode
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.errors import ConfigError
from vqbet_ros.policy.policy import Policy
from vqbet_ros.training.data import load_data
from vqbet_ros.training.phases.common import Phase
from vqbet_ros.training.phases.policy import PolicyTraining
from vqbet_ros.training.phases.tokenizer import TokenizerTraining
from vqbet_ros.training.step import Stepper

EPISODES, STEPS = 4, 100
PhaseName = Literal['tokenizer', 'policy']
WARM_UP_STEPS = 3


def with_batch(config: TrainConfig, phase: PhaseName, batch: int) -> TrainConfig:
    """Return a configuration with another batch in one phase."""
    return replace(config, **{phase: replace(getattr(config, phase), batch=batch)})


def write_walks(path: Path, cameras: int, size: int, seed: int) -> Dataset:
    """Write demonstrations of a point that walks about, with pictures of noise."""
    spec = peer_spec(cameras, size)
    rng = np.random.default_rng(seed)
    with DatasetWriter(path, spec, 'made up') as writer:
        for _ in range(EPISODES):
            walk: Any = TABLE_PX / 2 + np.cumsum(rng.normal(0, 10, (STEPS + 1, 2)), axis=0)
            walk = walk.clip(0, TABLE_PX).astype(np.float32)
            images = {
                camera.name: rng.integers(0, 256, (STEPS, size, size, 3), dtype=np.uint8)
                for camera in spec.cameras
            }
            writer.add(Episode(state=walk[:-1], action=walk[1:], images=images))
    return Dataset.open(path)


def durations_of(call: Callable[[], Any], calls: int, device: torch.device) -> list[float]:
    """Time calls in s, each from the end of the one before it to its own.

    On a GPU by the GPU's clock, and without waiting for it in between, as a training does not.
    """
    if device.type == 'cpu':
        times_s = [time.perf_counter()]
        for _ in range(calls):
            call()
            times_s.append(time.perf_counter())
        return [after - before for before, after in pairwise(times_s)]
    torch.cuda.synchronize(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]


class TrainingTimer:
    """Times the steps of one phase: reading the batch, loss, gradient, optimiser, average."""

    def __init__(
        self,
        dataset: Dataset,
        config: TrainConfig,
        device: Literal['cpu', 'cuda'],
        phase: PhaseName = 'policy',
    ) -> None:
        """Build the policy and the phase; for phase `policy` codes are made from one batch.

        Raises:
            ConfigError: The configuration does not fit the dataset.
        """
        self.config, self.device = config, torch.device(device)
        self.durations_s: list[float] = []
        self._at = 0
        torch.manual_seed(config.seed)
        data = load_data(dataset, config, self.device)
        stats = {key: data.stats[key] for key in ('state', 'action')}
        try:
            self.policy = Policy(config.model, dataset.spec, stats).to(self.device)
        except ValueError as error:
            raise ConfigError(f'model: {error}') from error
        tokenizer: Phase = TokenizerTraining(self.policy, data, config)
        taken = tokenizer
        if phase == 'policy':
            Stepper(self.policy, tokenizer, config, 0).step(0)
            taken = PolicyTraining(self.policy, data, config)
        self._stepper = Stepper(self.policy, taken, config, 1)
        batch, most = getattr(config, phase).batch, len(taken.episodes(0))
        if batch > most:
            raise ConfigError(
                f'batch: got {batch}, expected at most {most}, which is how many samples the '
                'made-up demonstrations have'
            )

    def warm_up(self) -> None:
        """Take a few steps that do not count."""
        self.run(WARM_UP_STEPS)
        self.durations_s.clear()

    def run(self, steps: int) -> None:
        """Time so many steps more."""
        self.durations_s += durations_of(self._step, steps, self.device)

    def figures(self) -> dict[str, Any]:
        """Describe training and durations; keys as `vqbet bench train` has them."""
        phase, model = self._stepper.phase, self.config.model
        batch = getattr(self.config, phase.name).batch
        return {
            'device': self.device.type,
            'threads': torch.get_num_threads(),
            'phase': phase.name,
            'batch': batch,
            'steps_per_s': round(len(self.durations_s) / sum(self.durations_s), 3),
            'peak_memory_mb': round(self._peak_mb(), 1),
            **percentiles_ms(self.durations_s),
            'steps': len(self.durations_s),
            'warm_up_steps': WARM_UP_STEPS,
            'parameters': sum(p.numel() for p in self._stepper.parameters),
            'bf16': self.config.bf16 and self.device.type == 'cuda',
            'cameras': [[c.height, c.width] for c in self.policy.spec.cameras],
            'history': model.history,
            'width': model.width,
            'layers': model.layers,
        }

    def _step(self) -> None:
        self._stepper.step(self._at)
        self._at += 1

    def _peak_mb(self) -> float:
        if self.device.type == 'cuda':
            return torch.cuda.max_memory_allocated() / 1e6
        # Not getrusage: that would count what the process was before it became this program.
        status = Path('/proc/self/status').read_text(encoding='utf-8')
        return int(status.partition('VmHWM:')[2].split()[0]) * 1024 / 1e6
