"""How long a training waits for its pictures."""

from dataclasses import replace
import time
from typing import Any

from torch import device, get_num_threads, Tensor
from vqbet_ros.config import ModelConfig, PolicyPhase, TrainConfig, VisionConfig
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.windows import Rows
from vqbet_ros.policy.policy import Policy
from vqbet_ros.training.data import load_data
from vqbet_ros.training.phases.policy import PolicyTraining
from vqbet_ros.training.pictures import Pictures
from vqbet_ros.training.step import Stepper

WARM_UP = 2
CPU = device('cpu')


class _Timed(Pictures):
    """Sums up how long whoever asks for pictures waits for them."""

    waited_s = 0.0

    def read(self, rows: Rows) -> Tensor:
        started_s = time.perf_counter()
        pictures = super().read(rows)
        self.waited_s += time.perf_counter() - started_s
        return pictures


def training_figures(dataset: Dataset, history: int, batch: int, steps: int) -> dict[str, Any]:
    """Measure steps of a small policy that learns to see: the less it computes, the more it waits.

    Args:
        dataset: With a camera.
        history: Frames of a sample.
        batch: Samples of a step.
        steps: How many steps are measured.
    """
    vision = VisionConfig(backbone='resnet18', stages=2, features=128, crop=84, train='full')
    config = TrainConfig(
        model=ModelConfig(history=history, width=128, layers=4, heads=4, vision=vision),
        policy=PolicyPhase(steps=WARM_UP + steps, batch=batch),
    )
    pictures = _Timed(dataset, CPU)
    data = replace(load_data(dataset, config, CPU), pictures=pictures)
    stats = {key: data.stats[key] for key in ('state', 'action')}
    policy = Policy(config.model, dataset.spec, stats)
    stepper = Stepper(policy, PolicyTraining(policy, data, config), config, 0)
    for step in range(WARM_UP):
        stepper.step(step)
    pictures.waited_s, started_s = 0.0, time.perf_counter()
    for step in range(WARM_UP, WARM_UP + steps):
        stepper.step(step)
    took_s = time.perf_counter() - started_s
    return {
        'training_threads': get_num_threads(),
        'training_step_ms': took_s / steps * 1e3,
        'training_wait_ms': pictures.waited_s / steps * 1e3,
        'training_wait_share': pictures.waited_s / took_s,
    }
