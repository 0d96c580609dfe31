"""The first moments after enabling, where the plan may begin far from the robot."""

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime.watch import farthest
from vqbet_ros.runtime_spec import StartSettings

Vector = NDArray[np.float64]


class Ramp:
    """Goes over from where the robot is to the plan.

    Args:
        names: Of the action's numbers.
        judged: Which of them are judged, (A,) bool.
        settings: How near is near, and what is done else.
    """

    def __init__(
        self, names: tuple[str, ...], judged: NDArray[np.bool_], settings: StartSettings
    ) -> None:
        self._names, self._judged, self._settings = names, judged, settings
        self._from: tuple[int, Vector] | None = None

    @property
    def active(self) -> bool:
        """Whether commands are still being led over."""
        return self._from is not None

    def begin(self, now_ns: int, target: Vector, measured: Vector | None) -> Reason | None:
        """Look at the first target after enabling; return why it is refused, if it is.

        Args:
            now_ns: Now.
            target: (A,) what the plan wants.
            measured: (A,) where the robot is; NaN where a number is not measured.
        """
        self._from = None
        tolerance = self._settings.tolerance
        if tolerance is None:
            return None
        if measured is None or np.isnan(measured[self._judged]).any():
            return Reason(ReasonKind.NO_START, 'start.tolerance needs measured joints')
        index, distance = farthest(target, measured, self._judged)
        if distance <= tolerance:
            return None
        if self._settings.beyond == 'refuse':
            detail = f'{self._names[index]} by {distance:.3g}, tolerance {tolerance:g}'
            return Reason(ReasonKind.START_TOO_FAR, detail)
        self._from = now_ns, np.where(np.isfinite(measured), measured, target)
        return None

    def apply(self, now_ns: int, target: Vector) -> Vector:
        """Return the target, or while the ramp lasts what is between the start and it."""
        if self._from is None:
            return target
        began_ns, start = self._from
        weight = (now_ns - began_ns) / (self._settings.ramp_in_s * 1e9)
        if weight >= 1.0:
            self._from = None
            return target
        weight = max(0.0, weight)
        weight = weight * weight * (3.0 - 2.0 * weight)  # neither end has a jump of the speed
        return np.asarray(start + weight * (target - start))

    def end(self) -> None:
        """Forget the ramp."""
        self._from = None
