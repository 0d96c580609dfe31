"""One demonstration at a fixed rate: what the policy sees and what it must do, step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import BadDataset, listed
from vqbet_ros.spec import RobotSpec


@dataclass(frozen=True, eq=False)
class Episode:
    """One demonstration of T steps, checked when it is made.

    Row t holds the observation at time t and the action that was commanded from t to t + 1.

    Attributes:
        state: (T, S) float32, in the spec's units, one column per state channel.
        action: (T, A) float32, in the spec's units.
        images: Camera name to (T, H, W, 3) uint8 RGB.
        targets: (T, K) float32 labels for auxiliary losses, or None.

    Raises:
        BadDataset: Lists every wrong shape, dtype, length and value that is not finite.
    """

    state: NDArray[np.float32]
    action: NDArray[np.float32]
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    targets: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Check the arrays against each other."""
        problems = []
        floats: dict[str, NDArray[Any]] = {'state': self.state, 'action': self.action}
        if self.targets is not None:
            floats['targets'] = self.targets
        for name, array in floats.items():
            problems += _check(name, array, np.dtype(np.float32), 2)
            if np.issubdtype(array.dtype, np.floating):
                problems += not_finite(name, array)
        for name, array in self.images.items():
            problems += _check(f"images of '{name}'", array, np.dtype(np.uint8), 4)
            if array.ndim == 4 and array.shape[3] != 3:
                problems.append(f"images of '{name}': got {array.shape[3]} channels, expected 3")
        lengths = {name: len(array) for name, array in {**floats, **self.images}.items()}
        if len(set(lengths.values())) > 1:
            problems.append('lengths differ: ' + ', '.join(f'{k} {v}' for k, v in lengths.items()))
        elif self.length == 0:
            problems.append('no steps')
        if problems:
            raise BadDataset(listed(f'bad episode: {len(problems)} problem(s)', problems))

    @property
    def length(self) -> int:
        """The number of steps T."""
        return len(self.action)

    def misfits(self, spec: RobotSpec, target_names: Sequence[str] = ()) -> list[str]:
        """List every way in which the arrays' widths and cameras differ from a spec."""
        problems = []
        targets = 0 if self.targets is None else self.targets.shape[1]
        for name, got, expected in (
            ('state', self.state.shape[1], spec.state_dim),
            ('action', self.action.shape[1], spec.action_dim),
            ('targets', targets, len(target_names)),
        ):
            if got != expected:
                problems.append(f'{name}: got {got} columns, expected {expected}')
        known = {camera.name: camera for camera in spec.cameras}
        for name in sorted(known.keys() - self.images.keys()):
            problems.append(f"images of '{name}': missing")
        for name in sorted(self.images.keys() - known.keys()):
            problems.append(f"images of '{name}': the spec has no such camera")
        for name in sorted(self.images.keys() & known.keys()):
            expected_hw = (known[name].height, known[name].width)
            if self.images[name].shape[1:3] != expected_hw:
                problems.append(
                    f"images of '{name}': got {_size(self.images[name].shape[1:3])}, "
                    f'expected {_size(expected_hw)} (height x width)'
                )
        return problems


def not_finite(name: str, array: NDArray[Any], first_row: int = 0) -> list[str]:
    """Describe the values of `array` (N, C) that are NaN or infinite: none or one line."""
    bad = ~np.isfinite(array)
    if not bad.any():
        return []
    row, column = (int(i) for i in np.argwhere(bad.reshape(len(bad), -1))[0])
    return [
        f'{name}: {int(bad.sum())} value(s) are NaN or infinite, '
        f'the first in row {first_row + row}, column {column}'
    ]


def _check(name: str, array: NDArray[Any], dtype: np.dtype[Any], ndim: int) -> list[str]:
    problems = []
    if array.dtype != dtype:
        problems.append(f'{name}: got dtype {array.dtype}, expected {dtype}')
    if array.ndim != ndim:
        problems.append(f'{name}: got shape {array.shape}, expected {ndim} dimensions')
    return problems


def _size(height_width: tuple[int, ...]) -> str:
    return 'x'.join(map(str, height_width))
