"""The pictures of a dataset's report, as PNG and JPEG files in memory; needs matplotlib.

Legend: T steps of an episode, N steps of all, C channels.
"""

from collections.abc import Sequence

import cv2
from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray
from vqbet_ros.training.figures import BLACK, BLUE, ORANGE, png, WIDTH_IN

FRAMES = 8
STRIP_PX = 96
COLUMNS = 4
BINS = 50
JPEG_QUALITY = 80


def strip(images: NDArray[np.uint8]) -> bytes:
    """Join evenly spread frames of (T, H, W, 3) side by side, as a JPEG."""
    rows = np.linspace(0, len(images) - 1, FRAMES).round().astype(int)
    width = max(1, round(images.shape[2] * STRIP_PX / images.shape[1]))
    small = [
        cv2.resize(np.ascontiguousarray(images[row]), (width, STRIP_PX)) for row in rows.tolist()
    ]
    joined = np.concatenate(small, axis=1)[:, :, ::-1]
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return bytes(cv2.imencode('.jpg', np.ascontiguousarray(joined), quality)[1])


def traces(
    state: NDArray[np.float32], action: NDArray[np.float32], rate_hz: float, labels: Sequence[str]
) -> bytes:
    """Draw the (T, C) state and action of one episode over time.

    Args:
        state: Of one episode.
        action: Of one episode.
        rate_hz: Steps per second.
        labels: Of the two plots.
    """
    figure = Figure(figsize=(WIDTH_IN, 1.9), layout='constrained')
    seconds = np.arange(len(action)) / rate_hz
    for column, (values, label) in enumerate(zip((state, action), labels, strict=True)):
        axes = figure.add_subplot(1, 2, column + 1)
        if values.shape[1]:
            axes.plot(seconds, values, lw=0.9)
        axes.set_title(label, fontsize=9)
        axes.set_xlabel('s', fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    return png(figure)


def histograms(values: NDArray[np.float32], names: Sequence[str], unit: str) -> bytes:
    """Draw the distribution of each column of (N, C)."""
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(WIDTH_IN, 0.3 + 1.5 * rows), layout='constrained')
    grid = figure.subplots(rows, COLUMNS, squeeze=False).reshape(-1)
    for axes, name, column in zip(grid, names, values.T, strict=False):
        axes.hist(column, BINS, color=BLUE)
        axes.set_title(f'{name}, {unit}' if unit else name, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
    for axes in grid[len(names) :]:
        axes.remove()
    return png(figure)


def lengths(seconds: Sequence[float], outcomes: Sequence[str]) -> bytes:
    """Draw how long the episodes are, stacked by outcome."""
    figure = Figure(figsize=(WIDTH_IN, 2.2), layout='constrained')
    axes = figure.add_subplot()
    kinds = list(dict.fromkeys(outcomes))
    colours = {'success': BLUE, 'failure': ORANGE, 'unmarked': '0.6'}
    groups = [
        [s for s, outcome in zip(seconds, outcomes, strict=True) if outcome == kind]
        for kind in kinds
    ]
    colour = [colours.get(kind, BLACK) for kind in kinds]
    axes.hist(groups, min(BINS, 10 + len(seconds) // 5), stacked=True, color=colour, label=kinds)
    axes.set_xlabel('length of an episode, s')
    axes.set_ylabel('episodes')
    axes.legend(fontsize=8)
    return png(figure)
