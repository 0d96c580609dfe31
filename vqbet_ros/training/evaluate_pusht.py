"""Runs a policy on PushT: episodes side by side on one model, judged by the block's coverage.

Legend: B episodes, h history steps, n cameras, F features, S state channels, W chunk.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from vqbet_ros.errors import listed, SpecMismatch
from vqbet_ros.policy.engine import Engine
from vqbet_ros.sim.pusht import KEYPOINT_NAMES, PushTWorld, STATE_NAMES, SUCCESS_COVERAGE

STEPS = 300
RATE_HZ = 10.0
PICTURE_PX = 384
Track = Callable[[Iterable[int], int, str], Iterator[int]]
Watch = Callable[[int, NDArray[np.uint8]], None]


@dataclass
class Episode:
    """One episode as it went: the coverage after each step, and the targets sent."""

    seed: int
    coverage: list[float] = field(default_factory=list)
    targets: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def max_overlap(self) -> float:
        """Highest coverage, 0 to 1."""
        return max(self.coverage)

    @property
    def success(self) -> bool:
        """Whether the block covered more than 95 % of the goal, as gym-pusht asks."""
        return self.max_overlap > SUCCESS_COVERAGE

    @property
    def jerk_rms(self) -> float:
        """Root mean square of the targets' third difference, px per step^3."""
        third = np.diff(np.array(self.targets), n=3, axis=0)
        return float(np.sqrt(np.square(third).sum(-1).mean())) if len(third) else 0.0

    def result(self) -> dict[str, Any]:
        """Return the figures of the episode."""
        return {
            'seed': self.seed,
            'max_overlap': self.max_overlap,
            'final_overlap': self.coverage[-1],
            'success': self.success,
            'steps': len(self.coverage),
            'jerk_rms': self.jerk_rms,
        }


class _Batch:
    """Worlds that run side by side, and the history that the policy sees of them."""

    def __init__(self, engine: Engine, seeds: range, watch: Watch | None) -> None:
        self.engine = engine
        self.watch = watch
        self.worlds = [PushTWorld(seed) for seed in seeds]
        self.episodes = [Episode(seed) for seed in seeds]
        self.features: list[Tensor] = []  # (B, n, F) a step, oldest first
        self.states: list[NDArray[np.float32]] = []  # (B, S) a step
        self.running = np.ones(len(seeds), dtype=bool)

    def observe(self) -> None:
        """Read all worlds' sensors as the next step of the history."""
        names = self.engine.spec.state_names
        wants_keypoints = len(names) > len(STATE_NAMES)
        rows = []
        for world in self.worlds:
            parts = [world.pusher(), world.keypoints()] if wants_keypoints else [world.pusher()]
            rows.append(np.concatenate(parts))
        self.states = [*self.states, np.stack(rows)][-self.engine.history :]
        if self.engine.spec.cameras:
            name = self.engine.spec.cameras[0].name
            images = np.stack([world.image() for world in self.worlds])
            encoded = self.engine.encode({name: images})
            self.features = [*self.features, encoded][-self.engine.history :]

    def decide(self) -> NDArray[np.float32]:
        """Return the chunks (B, W, 2) for the newest step."""
        # At the start there are fewer than h steps; the policy takes what there is.
        state = torch.from_numpy(np.stack(self.states, axis=1))  # (B, h, S)
        features = torch.stack(self.features, dim=1) if self.features else None  # (B, h, n, F)
        return self.engine.decode(features, state, None).actions.cpu().numpy()

    def step(self, targets: NDArray[np.float32]) -> None:
        """Move all running worlds one step towards their targets (B, 2)."""
        for index in np.flatnonzero(self.running):
            world, episode = self.worlds[index], self.episodes[index]
            world.step(targets[index])
            episode.targets.append(targets[index])
            episode.coverage.append(world.coverage())
            if self.watch is not None:
                self.watch(episode.seed, world.frame(PICTURE_PX, targets[index]))
            self.running[index] = not episode.success


def check_robot(engine: Engine) -> None:
    """Refuse a policy that is not for PushT's sensors.

    Raises:
        SpecMismatch: Says what the policy wants.
    """
    spec = engine.spec
    state = tuple(name.removesuffix('/position') for name in spec.state_names)
    sizes = [f'{camera.height}x{camera.width}' for camera in spec.cameras]
    problems = []
    if state not in (STATE_NAMES, STATE_NAMES + KEYPOINT_NAMES):
        problems.append(f'state: {", ".join(state) or "none"}')
    if sizes not in ([], ['96x96']):
        problems.append(f'cameras: {", ".join(sizes)}, expected none or one of 96x96')
    if spec.action_names != STATE_NAMES or spec.action.reference != 'absolute':
        problems.append(f'action: {spec.action.reference} {", ".join(spec.action_names)}')
    if spec.rate_hz != RATE_HZ:
        problems.append(f'rate: {spec.rate_hz:g} Hz, expected {RATE_HZ:g} Hz')
    if problems:
        raise SpecMismatch(
            listed(
                f'the policy is for robot {spec.robot}, not for PushT as in '
                'config/robots/pusht.yaml or config/robots/pusht_keypoints.yaml',
                problems,
            )
        )


def evaluate(
    engine: Engine,
    *,
    episodes: int,
    seed: int,
    batch: int = 50,
    execute: int | None = None,
    watch: Watch | None = None,
    track: Track = lambda items, total, what: iter(items),
) -> tuple[dict[str, Any], list[Episode]]:
    """Run episodes with seeds seed, seed + 1, …, each until success or 300 steps.

    Args:
        engine: The policy.
        episodes: How many.
        seed: The first one's.
        batch: How many run side by side.
        execute: Steps of each chunk that are executed before the next; None for the whole chunk.
        watch: Is given the seed and a picture (384, 384, 3) uint8 RGB of each step.
        track: Shows the progress.

    Returns:
        The figures, and the episodes.

    Raises:
        SpecMismatch: The policy is not for PushT.
    """
    check_robot(engine)
    execute = engine.chunk if execute is None else min(execute, engine.chunk)
    starts = list(range(0, episodes, batch))
    finished: list[Episode] = []
    began, steps = time.monotonic(), 0
    for start in track(starts, len(starts), 'batches'):
        seeds = range(seed + start, seed + min(start + batch, episodes))
        group = _Batch(engine, seeds, watch)
        for step in range(STEPS):
            group.observe()
            if step % execute == 0:
                chunks = group.decide()  # (B, W, 2)
            steps += int(group.running.sum())
            group.step(chunks[:, step % execute])
            if not group.running.any():
                break
        finished += group.episodes
    elapsed_s = time.monotonic() - began
    results = [episode.result() for episode in finished]
    overlaps = np.array([result['max_overlap'] for result in results])
    successes = sum(result['success'] for result in results)
    figures = {
        'episodes': episodes,
        'seed': seed,
        'execute': execute,
        'temperature': engine.temperature,
        'mean_max_overlap': float(overlaps.mean()),
        'mean_max_overlap_ci95': list(mean_interval(overlaps)),
        'mean_final_overlap': float(np.mean([r['final_overlap'] for r in results])),
        'success_rate': successes / episodes,
        'success_ci95': list(wilson_interval(successes, episodes)),
        'jerk_rms': float(np.mean([r['jerk_rms'] for r in results])),
        'steps_per_s': steps / elapsed_s,
        'per_episode': results,
    }
    return figures, finished


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson 1927)."""
    z = 1.959964
    rate = successes / trials
    middle = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def mean_interval(values: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean (percentiles, fixed seed)."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(draws, len(values))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
