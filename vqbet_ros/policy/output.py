"""What a policy decides; without torch, for those who only carry it on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PolicyOutput:
    """A decision.

    Legend: W chunk, A action channels, G code layers, C codes a layer.

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
