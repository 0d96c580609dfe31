"""The pictures of a run's report, as PNG files in memory; needs matplotlib (extra `train`).

Legend: W chunk, A action channels, G code layers, C codes a layer.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, TYPE_CHECKING

from matplotlib.figure import Figure
import numpy as np

if TYPE_CHECKING:
    from vqbet_ros.training.report import Measured

# Okabe and Ito's colours, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, BLACK = '#0072b2', '#d55e00', '#009e73', '#000000'
WIDTH_IN = 9.6
DPI = 100
JOINTS_SHOWN = 8


def losses(metrics: Sequence[dict[str, Any]]) -> bytes:
    """Draw the loss of each phase over its steps; `metrics` are the lines of metrics.jsonl."""
    phases = list(dict.fromkeys(record['phase'] for record in metrics))
    figure = Figure(figsize=(WIDTH_IN, 3.2), layout='constrained')
    for column, phase in enumerate(phases):
        axes = figure.add_subplot(1, len(phases), column + 1)
        for kind, key, colour, label in (
            ('train', 'loss', BLUE, 'training'),
            ('val', 'loss', ORANGE, 'held out'),
            ('val', 'l1', GREEN, 'held out, L1 of the labels'),
        ):
            points = [
                (r['step'], r[key])
                for r in metrics
                if r['phase'] == phase and r['kind'] == kind and r.get(key) is not None
            ]
            if points:
                steps, values = zip(*points, strict=True)
                marker = 'o' if kind == 'val' or len(points) == 1 else ''
                axes.plot(steps, values, colour, lw=1.2, marker=marker, markersize=3, label=label)
                if min(values) > 0:
                    axes.set_yscale('log')
        axes.set_title(phase)
        axes.set_xlabel('step')
        if column == 0:
            axes.set_ylabel('loss')
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return png(figure)


def codes(found: 'Measured') -> bytes:
    """Draw the share of chunks of each code, one plot a layer."""
    layers = len(found.code_share)
    figure = Figure(figsize=(WIDTH_IN, 2.8), layout='constrained')
    for layer, share in enumerate(found.code_share):
        axes = figure.add_subplot(1, layers, layer + 1)
        order = np.argsort(-share, kind='stable')
        axes.bar(np.arange(len(share)), share[order], color=BLUE)
        if len(share) <= 32:
            axes.set_xticks(np.arange(len(share)), [str(code) for code in order], fontsize=7)
        usage = found.usage[f'usage_{layer + 1}']
        perplexity = found.usage[f'perplexity_{layer + 1}']
        axes.set_title(
            f'layer {layer + 1}: {usage:.0%} used, perplexity {perplexity:.1f} of {len(share)}',
            fontsize=10,
        )
        axes.set_xlabel('code')
        if layer == 0:
            axes.set_ylabel('share of chunks')
        axes.grid(axis='y', alpha=0.3)
    return png(figure)


def errors(found: 'Measured', names: Sequence[str], unit: str) -> bytes:
    """Draw the mean absolute error of tokenizer and policy, side by side for each joint."""
    figure = Figure(figsize=(WIDTH_IN, 2.8), layout='constrained')
    axes = figure.add_subplot()
    at = np.arange(len(names))
    for shift, values, colour, label in (
        (-0.2, found.tokenizer_error, BLUE, 'tokenizer'),
        (0.2, found.policy_error, ORANGE, 'policy'),
    ):
        bars = axes.bar(at + shift, values, 0.36, color=colour, label=label)
        if len(names) <= JOINTS_SHOWN:
            axes.bar_label(bars, fmt='%.3g', fontsize=8)
    axes.set_xticks(at, names)
    axes.set_ylabel(f'mean absolute error, {unit}')
    axes.margins(y=0.15)
    axes.grid(axis='y', alpha=0.3)
    figure.legend(loc='outside right upper', fontsize=8)
    return png(figure)


def chunks(found: 'Measured', names: Sequence[str], unit: str) -> bytes:
    """Draw predicted and recorded chunks: a column for each sample, a row for each joint."""
    names = names[:JOINTS_SHOWN]
    rows, columns = len(names), len(found.titles)
    figure = Figure(figsize=(WIDTH_IN, 0.6 + 1.5 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, sharex=True, sharey='row', squeeze=False)
    for column, title in enumerate(found.titles):
        grid[0, column].set_title(title, fontsize=8)
        grid[-1, column].set_xlabel('s', fontsize=8)
        for row in range(rows):
            axes = grid[row, column]
            for values, colour, marker, label in (
                (found.recorded, BLACK, 'o', 'recorded'),
                (found.predicted, ORANGE, 'x', 'predicted'),
            ):
                line = values[column, :, row]
                axes.plot(
                    found.horizon_s, line, colour, lw=1.2, marker=marker, markersize=4, label=label
                )
            axes.grid(alpha=0.3)
            axes.tick_params(labelsize=7)
    for row, name in enumerate(names):
        grid[row, 0].set_ylabel(f'{name}, {unit}', fontsize=8)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc='outside lower right', ncols=2)
    return png(figure)


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    # Figure alone, without pyplot, draws with Agg and keeps no state that would need a display.
    buffer = BytesIO()
    figure.savefig(buffer, format='png', dpi=DPI)
    return buffer.getvalue()
