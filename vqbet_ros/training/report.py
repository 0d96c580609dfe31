"""report.html of a run: what was learned and how well, in one file without outside parts.

Legend: M frames, h history, W chunk, A action channels, G code layers, C codes a layer, n cameras.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
import torch
from vqbet_ros.config import TrainConfig
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.windows import FrameTable, parts_of, windows
from vqbet_ros.policy.checkpoint import load_checkpoint
from vqbet_ros.policy.policy import Policy
from vqbet_ros.policy.tokenizer import code_usage
from vqbet_ros.structured import from_mapping, load_yaml, to_mapping
from vqbet_ros.training.data import load_data, TrainingData
from vqbet_ros.training.html import image, require_matplotlib, table, write_page
from vqbet_ros.training.journal import read_metrics
from vqbet_ros.training.resume import flattened

FRAMES = {True: 256, False: 2048}  # whose errors are measured; encoding pictures takes its time
SAMPLES = 6
ROWS_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class Measured:
    """What the report shows of a trained policy.

    Attributes:
        code_share: (G, C) share of the training chunks that use each code.
        usage: See `code_usage`.
        horizon_s: (W,) time of each action after the observation.
        tokenizer_error: (A,) mean absolute error of decoded true codes, in the robot's units.
        policy_error: (A,) likewise of the policy's most probable chunk.
        titles: (SAMPLES,) which frame each sample is.
        recorded: (SAMPLES, W, A) in the robot's units.
        predicted: (SAMPLES, W, A) likewise.
        frames: How many frames the errors are of.
        held_out: Whether they belong to episodes that were kept out of the training.
    """

    code_share: NDArray[np.float64]
    usage: dict[str, float]
    horizon_s: NDArray[np.float64]
    tokenizer_error: NDArray[np.float64]
    policy_error: NDArray[np.float64]
    titles: tuple[str, ...]
    recorded: NDArray[np.float32]
    predicted: NDArray[np.float32]
    frames: int
    held_out: bool


def write_report(run: Path, dataset: Dataset) -> Path:
    """Write RUN/report.html from the run's files, its checkpoint and the dataset.

    Args:
        run: A run directory that holds config.yaml, metrics.jsonl and checkpoints/last.
        dataset: What it was trained on.

    Returns:
        The file.

    Raises:
        VqbetError: A part is missing or broken, or matplotlib is absent.
    """
    require_matplotlib()
    from vqbet_ros.training import figures

    config = from_mapping(TrainConfig, load_yaml(run / 'config.yaml'), str(run / 'config.yaml'))
    checkpoint = load_checkpoint(run / 'checkpoints' / 'last')
    policy, spec = checkpoint.policy, checkpoint.policy.spec
    metrics = read_metrics(run / 'metrics.jsonl')
    found = measure(policy, load_data(dataset, config, torch.device('cpu')))
    unit, names = spec.action.unit, spec.action_names
    kept_out = 'held-out' if found.held_out else 'training'
    validation = checkpoint.training['validation']
    combinations = found.usage['combinations']
    parts = [
        f'<h1>VQ-BeT for {escape(spec.robot)}</h1>',
        f'<p>{_summary(policy, dataset)}</p>',
        '<h2>Losses</h2>',
        '<p>Of the batches in training, and on the episodes that were kept out.</p>',
        image(figures.losses(metrics), 'losses over steps, one plot for each phase'),
        '<h2>Use of the codebooks</h2>',
        f'<p>Share of the training chunks that use each code, most used first. '
        f'{combinations:.1%} of all combinations of codes occur.</p>',
        image(figures.codes(found), 'bars: share of chunks for each code, one plot a layer'),
        '<h2>Reconstruction</h2>',
        f'<p>Mean absolute error of a chunk over {found.frames} {kept_out} frames: of the '
        'tokenizer, which sees the chunk itself and is as coarse as its codes, and of the '
        'policy, which sees the observations alone, and corrects its codes by offsets.</p>',
        image(figures.errors(found, names, unit), 'bars: error of tokenizer and policy by joint'),
        table(
            ('joint', f'tokenizer, {unit}', f'policy, {unit}'),
            [(name, *(float(e[i]) for e in _errors(found))) for i, name in enumerate(names)],
        ),
        '<h2>Predicted and recorded chunks</h2>',
        f'<p>The most probable chunk at {len(found.titles)} {kept_out} frames, spread evenly '
        'over them. Where people could have gone on in several ways, a good policy may choose '
        'another one than the recorded.</p>',
        image(figures.chunks(found, names, unit), 'lines: predicted and recorded actions'),
        '<h2>Figures at the last validation</h2>',
        table(
            ('phase', 'figure', 'value'),
            [(phase, k, v) for phase, values in validation.items() for k, v in values.items()],
        ),
        '<h2>Configuration</h2>',
        '<details open><summary>Every value of this training</summary>',
        table(('key', 'value'), [(k, str(v)) for k, v in flattened(to_mapping(config)).items()]),
        '</details>',
    ]
    path = run / 'report.html'
    write_page(path, f'VQ-BeT for {spec.robot}', parts)
    return path


@torch.no_grad()
def measure(policy: Policy, data: TrainingData) -> Measured:
    """Measure a policy on a training's data; see `Measured`."""
    held_out = len(data.val) > 0
    chunk, tokenizer = policy.config.chunk, policy.vqbet.tokenizer
    train_rows, train_frames = whole_chunks(data.train, chunk)
    chunks = policy.to_model(data.action[train_rows], data.state[train_frames.at])  # (M, W, A)
    codes = tokenizer.encode(chunks)  # (M, G)
    counts = torch.stack(
        [torch.bincount(layer, minlength=tokenizer.codebook_size) for layer in codes.T]
    )  # (G, C)
    rows, frames = whole_chunks(data.val if held_out else data.train, chunk)
    if len(frames) == 0:  # no held-out episode is as long as a chunk
        held_out = False
        rows, frames = whole_chunks(data.train, chunk)
    taken = np.linspace(0, len(frames) - 1, min(FRAMES[bool(data.cameras)], len(frames)))
    index = taken.astype(np.int64)
    rows, frames = rows[index], frames.take(index)
    recorded, state = data.action[rows], data.state[frames.at]  # (M, W, A), (M, S)
    decoded = tokenizer.decode(tokenizer.encode(policy.to_model(recorded, state)))
    predicted = predict(policy, data, frames)  # (M, W, A)
    errors = [
        (guess - recorded).abs().mean((0, 1)).double().cpu().numpy()
        for guess in (policy.to_robot(decoded, state), predicted)
    ]
    shown = np.linspace(0, len(frames) - 1, min(SAMPLES, len(frames))).astype(np.int64)
    step = frames.at - frames.start
    return Measured(
        code_share=(counts / counts.sum(1, keepdim=True)).double().cpu().numpy(),
        usage=code_usage(codes, tokenizer.codebook_size),
        horizon_s=np.arange(chunk) / policy.spec.rate_hz,
        tokenizer_error=errors[0],
        policy_error=errors[1],
        titles=tuple(f'episode {frames.episode[i]}, step {step[i]}' for i in shown),
        recorded=recorded[shown].cpu().numpy(),
        predicted=predicted[shown].cpu().numpy(),
        frames=len(frames),
        held_out=held_out,
    )


def whole_chunks(frames: FrameTable, chunk: int) -> tuple[NDArray[np.int64], FrameTable]:
    """Return the action rows (M, W) of the frames that have a whole chunk, and those frames."""
    found = windows(frames, 1, chunk)
    whole = np.flatnonzero(found.mask[:, 0].all(1))
    return found.actions[whole, 0], frames.take(whole)


def predict(policy: Policy, data: TrainingData, frames: FrameTable) -> torch.Tensor:
    """Return the most probable chunks (M, W, A) in the robot's units."""
    parts = []
    for part in parts_of(frames, ROWS_AT_ONCE):
        rows = windows(part, policy.config.history, policy.config.chunk)
        features = policy.encode(data.images(rows.observed)) if data.cameras else None
        state = data.state[data.upload(rows.observed)]
        parts.append(policy.act(features, state, data.upload(rows.present)).actions)
    return torch.cat(parts)


def _errors(found: Measured) -> tuple[NDArray[np.float64], ...]:
    return found.tokenizer_error, found.policy_error


def _summary(policy: Policy, dataset: Dataset) -> str:
    millions = sum(p.numel() for p in policy.parameters()) / 1e6
    model = policy.config
    return (
        f'{millions:.2f} M parameters, history {model.history}, chunks of {model.chunk} steps at '
        f'{policy.spec.rate_hz:g} Hz. Trained on {dataset.num_episodes} episodes '
        f'({dataset.num_frames} frames) of {escape(dataset.source)}.'
    )
