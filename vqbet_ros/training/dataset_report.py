"""report.html of a dataset: what was demonstrated, and what looks wrong with it.

Legend: N steps of all episodes, A action channels.
"""

from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.data.manifest import BagEntry, Manifest
from vqbet_ros.data.store import Dataset
from vqbet_ros.spec import JointLimits, RobotSpec
from vqbet_ros.training.html import image, require_matplotlib, table, write_page

REPORT = 'report.html'
EPISODES_SHOWN = 100
OUTLIER_SPREADS = 3.0
"""Beyond the quartiles by more than this many times their distance, a value is an outlier."""

_RATES = ('position', 'velocity', 'acceleration', 'jerk')


def write_dataset_report(path: Path) -> Path:
    """Write DATASET/report.html.

    Returns:
        The file.

    Raises:
        VqbetError: The dataset is broken or empty, or matplotlib is absent.
    """
    require_matplotlib()
    from vqbet_ros.training import dataset_figures

    dataset = Dataset.open(path)
    spec = dataset.spec
    manifest = Manifest.read(path, dataset.episode_ends.tolist())
    bags = {number: bag for bag in manifest.bags for number in bag.numbers} if manifest else {}
    steps = np.diff(dataset.episode_ends, prepend=0)
    parts = [
        f'<h1>Demonstrations of {escape(spec.robot)}</h1>',
        f'<p>{_summary(dataset)}</p>',
        '<h2>Lengths</h2>',
        image(
            dataset_figures.lengths((steps / spec.rate_hz).tolist(), dataset.outcomes),
            'bars: number of episodes over their length',
        ),
        *_bag_table(manifest),
        '<h2>Values</h2>',
        '<p>All steps of all episodes, a plot for each channel.</p>',
    ]
    for title, values, names, unit in _arrays(dataset):
        if names:
            figure = dataset_figures.histograms(values, names, unit)
            parts += [f'<h3>{title}</h3>', image(figure, f'histograms of the {title}')]
    parts += ['<h2>Outliers</h2>', *_outlier_table(dataset), '<h2>Limits of the spec</h2>']
    parts += [*_limit_table(dataset), '<h2>Episodes</h2>']
    shown = np.unique(
        np.linspace(0, len(steps) - 1, min(len(steps), EPISODES_SHOWN)).round().astype(int)
    )
    if len(shown) < len(steps):
        parts.append(f'<p>{len(shown)} of {len(steps)}, spread evenly over them.</p>')
    for number in shown.tolist():
        parts += _episode(dataset, number, bags.get(number))
    write_page(path / REPORT, f'Demonstrations of {spec.robot}', parts)
    return path / REPORT


def outliers(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mark the values of (N, C) that lie far beyond their column's quartiles."""
    low, high = np.percentile(values, [25, 75], axis=0)
    spread = OUTLIER_SPREADS * (high - low)
    marked: NDArray[np.bool_] = (values < low - spread) | (values > high + spread)
    return marked


def passed_limits(dataset: Dataset) -> list[tuple[str, str, float, float, int, float]]:
    """Count how often the recorded actions pass each limit of the spec.

    Rates are differences of consecutive actions of an episode.

    Returns:
        Channel, which limit, its value, the largest that was recorded, how often it is passed, and
        in which share of the steps. For a position, the value is the bound that is passed further.
    """
    spec, rows = dataset.spec, []
    for index, name in enumerate(spec.action_names):
        limits = _limits_of(spec, name)
        if limits is None:
            continue
        episodes = [
            dataset.action[dataset.episode(number), index].astype(np.float64)
            for number in range(dataset.num_episodes)
        ]
        low, high = limits.position
        values = np.concatenate(episodes)
        bound, worst = (
            (low, values.min())
            if low - values.min() > values.max() - high
            else (high, values.max())
        )
        beyond = int(((values < low) | (values > high)).sum())
        rows.append((name, 'position', bound, float(worst), beyond, beyond / len(values)))
        for order, kind in enumerate(_RATES[1:], start=1):
            limit = getattr(limits, kind)
            rates = np.abs(
                np.concatenate([np.diff(e, order) * spec.rate_hz**order for e in episodes])
            )
            if limit is None or len(rates) == 0:
                continue
            beyond = int((rates > limit).sum())
            rows.append((name, kind, limit, float(rates.max()), beyond, beyond / len(rates)))
    return rows


def _limits_of(spec: RobotSpec, channel: str) -> JointLimits | None:
    action = spec.action
    if action.gripper is not None and channel == action.gripper.name:
        return action.gripper.limits
    # A difference is not limited by the range of what it is added to.
    return None if action.reference == 'delta' else action.limits.get(channel)


def _arrays(dataset: Dataset) -> list[tuple[str, NDArray[np.float32], tuple[str, ...], str]]:
    spec = dataset.spec
    units = {part.unit for part in spec.state}
    return [
        ('state', dataset.state, spec.state_names, ' or '.join(sorted(units))),
        (
            'action',
            dataset.action,
            spec.action_names,
            '' if spec.action.gripper else spec.action.unit,
        ),
    ]


def _summary(dataset: Dataset) -> str:
    seconds = dataset.num_frames / dataset.spec.rate_hz
    outcomes = ', '.join(f'{n} {outcome}' for outcome, n in Counter(dataset.outcomes).items())
    return (
        f'{dataset.num_episodes} episodes ({outcomes}), {dataset.num_frames} steps at '
        f'{dataset.spec.rate_hz:g} Hz, {seconds / 60:.1f} min, from {escape(dataset.source)}.'
    )


def _bag_table(manifest: Manifest | None) -> list[str]:
    if manifest is None:
        return []
    rows = [
        (
            bag.name,
            ', '.join(map(str, bag.numbers)) or 'none',
            bag.outcome,
            bag.verdict or 'not audited',
            ', '.join(f'{stream} {rate:g}' for stream, rate in bag.rates_hz.items()),
            bag.task,
            '; '.join(bag.problems),
        )
        for bag in manifest.bags
    ]
    parameters = manifest.parameters
    return [
        '<h2>Bags</h2>',
        f'<p>{parameters.rate_hz:g} Hz; gaps: {parameters.gaps}; episodes of at least '
        f'{parameters.min_steps} steps; images: {escape(parameters.resize)}.</p>',
        table(('bag', 'episodes', 'outcome', 'verdict', 'rates, Hz', 'task', 'problems'), rows),
    ]


def _outlier_table(dataset: Dataset) -> list[str]:
    rows: list[tuple[Any, ...]] = []
    for title, values, names, _ in _arrays(dataset):
        marked = outliers(values)
        for index, name in enumerate(names):
            found = np.flatnonzero(marked[:, index])
            if len(found) == 0:
                continue
            middle = float(np.median(values[:, index]))
            worst = int(found[np.argmax(np.abs(values[found, index] - middle))])
            number = int(np.searchsorted(dataset.episode_ends, worst, side='right'))
            step = worst - dataset.episode(number).start
            where = f'episode {number}, step {step}'
            rows.append((title, name, len(found), middle, float(values[worst, index]), where))
    if not rows:
        return [f'<p>None is beyond them by {OUTLIER_SPREADS:g} times their distance.</p>']
    head = ('array', 'channel', 'outliers', 'median', 'furthest', 'there')
    return [
        f'<p>Values beyond their quartiles by more than {OUTLIER_SPREADS:g} times their distance.'
        '</p>',
        table(head, rows),
    ]


def _limit_table(dataset: Dataset) -> list[str]:
    rows = [
        (name, kind, limit, worst, count, f'{share:.2%}')
        for name, kind, limit, worst, count, share in passed_limits(dataset)
    ]
    return [
        '<p>How often the recorded actions are beyond what the spec allows the policy.</p>',
        table(('channel', 'limit', 'its value', 'furthest', 'passed', 'share'), rows),
    ]


def _episode(dataset: Dataset, number: int, bag: BagEntry | None) -> list[str]:
    from vqbet_ros.training import dataset_figures

    frames = dataset.episode(number)
    steps, spec = frames.stop - frames.start, dataset.spec
    words = [f'{steps / spec.rate_hz:.1f} s', dataset.outcomes[number]]
    notes = []
    if bag is not None:
        words += [bag.name, bag.verdict or 'not audited']
        entry = bag.episodes[number - bag.first_episode]
        notes = [
            f'<p>Age of the {what}, ms: '
            + '; '.join(
                f'{escape(name)} {age.p50_ms:.0f} (p99 {age.p99_ms:.0f}, max {age.max_ms:.0f})'
                for name, age in ages.items()
            )
            + '</p>'
            for what, ages in (('samples', entry.ages), ('commands', entry.command_ages))
            if ages
        ]
    units = sorted({part.unit for part in spec.state})
    labels = (f'state, {" or ".join(units)}' if units else 'no state', 'action')
    return [
        f'<h3>Episode {number}: {escape(", ".join(words))}</h3>',
        *(
            image(dataset_figures.strip(images[frames]), f'frames of {name}, episode {number}')
            for name, images in dataset.images.items()
        ),
        image(
            dataset_figures.traces(
                dataset.state[frames], dataset.action[frames], spec.rate_hz, labels
            ),
            f'state and action over time, episode {number}',
        ),
        *notes,
    ]
