"""How smooth the commands are under each way of blending, on recorded demonstrations.

    python benchmarks/blending.py models/pusht_state datasets/pusht_keypoints

The policy sees the recorded observations of the last episodes of a dataset, one after the other,
and decides at each second step; its chunks go through the running node's plan, which is asked for
a command at the control rate. Nothing is fed back: what differs between two rows is the blending.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.cli.figures import write_json
from vqbet_ros.data.store import Dataset
from vqbet_ros.policy.engine import Engine
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime.interpolation import Start
from vqbet_ros.runtime.monitors import Monitors
from vqbet_ros.runtime.plan import Plan
from vqbet_ros.runtime_spec import BlendSettings, MonitorSettings

KINDS = ('replace', 'cross_fade', 'ensemble', 'mode')


@dataclass(frozen=True)
class Frame:
    """One picture of the dataset."""

    stamp_ns: int
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Observation:
    """What the engine reads; see vqbet_ros.policy.engine.Observation."""

    frames: list[dict[str, Frame] | None]
    state: NDArray[np.float32]
    valid: NDArray[np.bool_]


def main() -> None:
    """Print a row for each way of blending."""
    parser = argparse.ArgumentParser(description='Measure the ways of blending.')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', type=Path)
    parser.add_argument('dataset', metavar='DATASET', type=Path)
    parser.add_argument('--episodes', type=int, default=10, help='the last N of the dataset')
    parser.add_argument('--every', type=int, default=2, help='steps between two decisions')
    parser.add_argument('--control-hz', type=float, default=100.0, help='rate of the commands')
    parser.add_argument('--seed', type=int, default=0, help='of the draws')
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the figures here')
    args = parser.parse_args()
    dataset = Dataset.open(args.dataset)
    rows = {}
    print(f'{"":12}{"reversals/s":>12}{"rms jerk/s^3":>14}{"mean seam":>11}{"error":>9}')
    for kind in KINDS:
        engine = Engine.load(args.checkpoint, threads=1, seed=args.seed)
        engine.spec.require_equal(dataset.spec, theirs='dataset')
        rows[kind] = measure(engine, dataset, BlendSettings(kind=kind), args)
        reversals, jerk, seam, error = rows[kind].values()
        print(f'{kind:12}{reversals:12.2f}{jerk:14.4g}{seam:11.4g}{error:9.4g}', flush=True)
    write_json(rows, args.json)


def measure(
    engine: Engine, dataset: Dataset, blend: BlendSettings, args: argparse.Namespace
) -> dict[str, float]:
    """Return means over episodes, joints and time."""
    period_ns = dataset.spec.period_ns
    tick_ns = round(1e9 / args.control_hz)
    per_episode = []
    for index in range(dataset.num_episodes - args.episodes, dataset.num_episodes):
        rows = dataset.episode(index)
        length = rows.stop - rows.start
        seconds = length * period_ns / 1e9
        monitors = Monitors(dataset.spec.action_names, MonitorSettings(window_s=seconds + 1))
        plan = Plan('linear', blend)
        seams, errors = [], []
        start: Start | None = None
        engine.reset()
        for step, chunk in decisions(engine, dataset, rows, blend, plan, args.every):
            if plan.replace(chunk, start) and plan.seam is not None:
                seams.append(plan.seam)
            for k in range(round(args.every * period_ns / tick_ns)):
                now_ns = step * period_ns + (k + 1) * tick_ns
                found = plan.command(now_ns)
                if found is None:
                    continue
                values = np.asarray(found.values, dtype=np.float64)
                before = values if start is None else start.values
                start = Start(now_ns, values, (values - before) / (tick_ns / 1e9))
                monitors.command(now_ns + 1, values)
                if now_ns % period_ns == 0 and now_ns // period_ns <= length:
                    recorded = dataset.action[rows.start + now_ns // period_ns - 1]
                    errors.append(np.abs(values - recorded))
        figures = monitors.figures(length * period_ns)
        reversals = figures.reversals_hz.mean() * (seconds + 1) / seconds
        per_episode.append((reversals, figures.jerk.mean(), np.mean(seams), np.mean(errors)))
    names = ('reversals_hz', 'jerk', 'seam', 'error')
    return dict(zip(names, np.mean(per_episode, axis=0).tolist(), strict=True))


def decisions(
    engine: Engine, dataset: Dataset, rows: slice, blend: BlendSettings, plan: Plan, every: int
) -> Iterator[tuple[int, Chunk]]:
    """Yield the steps of an episode at which the policy decides, and what it decides."""
    period_ns = dataset.spec.period_ns
    for step in range(0, rows.stop - rows.start, every):
        more: dict[str, Any] = {}
        if blend.kind == 'mode' and plan.chunk is not None:
            more = {'running': plan.chunk.primary, 'hysteresis': blend.hysteresis}
        output = engine.plan(observation(dataset, rows.start, step, engine.history), **more)
        codes = tuple(int(code) for code in output.codes)
        yield step, Chunk(step * period_ns, output.actions, period_ns, 1.0, 0, codes)


def observation(dataset: Dataset, first: int, step: int, history: int) -> Observation:
    """Return what the policy sees at a step of an episode."""
    steps = [step - k for k in reversed(range(history))]
    valid = np.array([at >= 0 for at in steps])
    state = np.stack([dataset.state[first + max(at, 0)] for at in steps]).astype(np.float32)
    frames: list[dict[str, Frame] | None] = [
        {
            camera.name: Frame(at, np.array(dataset.images[camera.name][first + at]))
            for camera in dataset.spec.cameras
        }
        if at >= 0
        else None
        for at in steps
    ]
    return Observation(frames, state, valid)


if __name__ == '__main__':
    main()
