"""What the benches of the policy share: the configuration `peer`, its inputs, its figures.

`peer` is what LeRobot's VQBeTConfig holds by default, which is its configuration for PushT: one
96x96 camera cropped to 84, a state of two numbers, 5 observation steps, chunks of 5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
import time
from typing import Any

import numpy as np
import torch
from vqbet_ros.cli.bench_options import PEER_CROP_PX, PEER_SIDE_PX
from vqbet_ros.config import ModelConfig, TrainConfig, VisionConfig
from vqbet_ros.errors import ConfigError
from vqbet_ros.policy.engine import Engine
from vqbet_ros.policy.normalizer import Stats
from vqbet_ros.policy.policy import Policy
from vqbet_ros.resources import resource
from vqbet_ros.runtime.observation import Frame, Observation
from vqbet_ros.spec import RobotSpec
from vqbet_ros.structured import from_mapping, merged, nested, to_mapping

TABLE_PX = 512.0  # positions in PushT lie in [0, 512] px
WARM_UP_CALLS = 50
PICTURES = 16  # that are made once and then shown in turns


def peer_spec(cameras: int = 1, size: int = PEER_SIDE_PX) -> RobotSpec:
    """Return PushT's spec with so many cameras of size x size px."""
    spec = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
    camera = replace(spec.cameras[0], height=size, width=size)
    named = (
        replace(camera, name=f'camera_{i}', topic=f'/camera_{i}/image_raw') for i in range(cameras)
    )
    return replace(spec, cameras=tuple(named))


def peer_config(size: int, overrides: Sequence[str] = (), seed: int = 0) -> TrainConfig:
    """Return the configuration for pictures of size x size px, with what the user set otherwise.

    Raises:
        ConfigError: There is no such key, or it takes no such value.
    """
    crop = PEER_CROP_PX if size == PEER_SIDE_PX else None
    vision = VisionConfig(norm='group', normalisation='unit', crop=crop)
    mapping = to_mapping(TrainConfig(model=ModelConfig(temperature=0.1, vision=vision), seed=seed))
    for override in overrides:
        mapping = merged(mapping, nested(override))
    return from_mapping(TrainConfig, mapping, ' '.join(('peer', *overrides)))


def random_policy(model: ModelConfig, spec: RobotSpec, seed: int) -> Policy:
    """Build a policy with random weights and random codes.

    Raises:
        ConfigError: The configuration does not fit the spec.
    """
    torch.manual_seed(seed)
    stats = {'state': _table(spec.state_dim), 'action': _table(spec.action_dim)}
    try:
        policy = Policy(model, spec, stats)
    except ValueError as error:
        raise ConfigError(f'model: {error}') from error
    rvq = policy.vqbet.tokenizer.rvq
    rvq.codebooks.normal_()
    rvq.initialised.fill_(True)
    return policy


def in_onnx_runtime(policy: Policy, folder: Path, seed: int) -> Engine:
    """Export a policy and return an engine that runs the graph."""
    from vqbet_ros.policy.onnx_export import export

    path = folder / 'policy.onnx'
    export(policy.eval(), path, temperature=policy.config.temperature)
    return Engine(policy, seed=seed, graph=path)


def observations(spec: RobotSpec, history: int, seed: int) -> Iterator[Observation]:
    """Yield what a robot would see, one step after the other without an end: random pictures."""
    rng = np.random.default_rng(seed)
    pictures = [
        [rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8) for c in spec.cameras]
        for _ in range(PICTURES)
    ]
    states = rng.uniform(0.0, TABLE_PX, (PICTURES, spec.state_dim)).astype(np.float32)

    def frames(step: int) -> dict[str, Frame]:
        shown = pictures[step % PICTURES]
        return {
            camera.name: Frame(step * spec.period_ns, shown[i])
            for i, camera in enumerate(spec.cameras)
        }

    step = history - 1
    seen = [frames(i) for i in range(history)]
    while True:
        rows = np.arange(step - history + 1, step + 1) % PICTURES
        yield Observation(
            stamp_ns=step * spec.period_ns,
            frames=tuple(seen),
            state=states[rows],
            valid=np.ones(history, bool),
            ages_ns={},
        )
        step += 1
        seen = [*seen[1:], frames(step)]


class EngineTimer:
    """Times an engine's decisions, each on an observation with one new frame a camera."""

    def __init__(self, engine: Engine, seed: int) -> None:
        """Set a goal where the policy takes one."""
        self.engine = engine
        self.durations_s: list[float] = []
        self._observations = observations(engine.spec, engine.history, seed)
        if engine.goal_steps:
            seen = next(observations(engine.spec, engine.goal_steps, seed + 1))
            images = {
                camera.name: np.stack([step[camera.name].image for step in seen.frames if step])
                for camera in engine.spec.cameras
            }
            engine.set_goal(images, seen.state)

    def warm_up(self) -> None:
        """Decide as often as it takes until all decisions are alike."""
        self.engine.warm_up()
        self.run(WARM_UP_CALLS)
        self.durations_s.clear()

    def run(self, calls: int, period_s: float = 0.0) -> None:
        """Time so many decisions more, begun a period after each other where they are shorter."""
        for observation in islice(self._observations, calls):
            started_s = time.perf_counter()
            self.engine.plan(observation)
            self.durations_s.append(time.perf_counter() - started_s)
            time.sleep(max(0.0, period_s - self.durations_s[-1]))

    def figures(self) -> dict[str, Any]:
        """Describe engine and durations; keys as `vqbet bench inference` has them."""
        engine = self.engine
        return {
            'device': engine.policy.device.type,
            'runtime': engine.runtime,
            'dtype': engine.numbers.name,
            'numbers': str(engine.numbers),
            'threads': torch.get_num_threads(),
            'parameters': sum(weight.numel() for weight in engine.policy.parameters()),
            **percentiles_ms(self.durations_s),
            'calls': len(self.durations_s),
            'warm_up_calls': WARM_UP_CALLS,
            'cameras': [[c.height, c.width] for c in engine.spec.cameras],
            'history': engine.history,
            'chunk': engine.chunk,
            'goal_steps': engine.goal_steps,
            'temperature': engine.temperature,
        }


def set_threads(threads: int) -> None:
    """Set torch's CPU threads; 0 leaves them."""
    if threads > 0:
        torch.set_num_threads(threads)


def percentiles_ms(durations_s: list[float]) -> dict[str, float]:
    """Return `p50_ms`, `p99_ms`, `mean_ms` and `max_ms`."""
    values = np.array(durations_s) * 1e3
    p50, p99 = np.percentile(values, [50, 99])
    figures = {'p50_ms': p50, 'p99_ms': p99, 'mean_ms': values.mean(), 'max_ms': values.max()}
    return {key: round(float(value), 3) for key, value in figures.items()}


def _table(channels: int) -> Stats:
    return Stats(
        min=(0.0,) * channels,
        max=(TABLE_PX,) * channels,
        mean=(TABLE_PX / 2,) * channels,
        std=(TABLE_PX / 4,) * channels,
    )
