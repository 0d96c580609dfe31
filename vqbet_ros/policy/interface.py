"""What a policy sees and what it decides; without torch, for those who only carry it on.

Legend: h history steps, S state channels, W chunk, A action channels, G code layers, C codes a
layer, H x W_px an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Frame(Protocol):
    """One camera image; `stamp_ns` and the camera's name identify it."""

    @property
    def stamp_ns(self) -> int:
        """Time of exposure."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """(H, W_px, 3) uint8 RGB of the spec's size."""


class Observation(Protocol):
    """What the engine reads of an observation; see `runtime.observation.Observation`."""

    @property
    def frames(self) -> Sequence[Mapping[str, Frame] | None]:
        """H steps, oldest first: frames by camera name, None where the step is not valid."""

    @property
    def state(self) -> NDArray[np.float32]:
        """(h, S) in the robot's units."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(h,), False for steps before the episode began."""


@dataclass(frozen=True)
class PolicyOutput:
    """A decision.

    Attributes:
        actions: (W, A) float32 in the robot's units, the first for the observation's own step.
        codes: (G,) int64, the primary code first.
        probabilities: (C,) float32 of the primary codes, at temperature 1.
        confidence: The largest of them.
    """

    actions: NDArray[np.float32]
    codes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    confidence: float
