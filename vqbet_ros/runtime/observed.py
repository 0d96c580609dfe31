"""What the policy sees of the robot and of the world around it.

h: history steps, S: channels of the whole state.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One camera image.

    Attributes:
        stamp_ns: Time of exposure; with the camera's name it identifies the frame.
        image: (height, width, 3) uint8 RGB of the spec's size.
    """

    stamp_ns: int
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Observation:
    """What the policy sees.

    Attributes:
        stamp_ns: Time of the newest step: the newest time at which every stream has data.
        frames: h steps, oldest first, one period apart: frames by camera name; None where invalid.
        state: (h, S) float32 in the spec's units, interpolated to the steps' times; zeros where
            invalid.
        valid: (h,) bool. False for steps with no data: before the start or a reset, or in a gap.
        ages_ns: For each stream, how old its newest sample was when this was made.
    """

    stamp_ns: int
    frames: tuple[dict[str, Frame] | None, ...]
    state: NDArray[np.float32]
    valid: NDArray[np.bool_]
    ages_ns: dict[str, int]
