"""What a sliding window over the sent commands says about the policy: does it tremble, is it sure?

Chunks that disagree make the commands turn back and forth at every seam; a policy that sees what
it was never shown spreads its probability over many codes. Neither breaks a limit, both are worth
a word to the operator, or a stop.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime_spec import MonitorSettings

Vector = NDArray[np.float64]
_MOST = 10_000  # samples of a window that nobody looks at


@dataclass(frozen=True)
class Figures:
    """What the window holds.

    Attributes:
        reversals_hz: (A,) how often each number turned back, per second.
        jerk: (A,) root mean square of the third derivative, per second^3.
        confidence: Mean of the plans'; NaN without plans.
    """

    reversals_hz: Vector
    jerk: Vector
    confidence: float


class Monitors:
    """Takes in commands and plans, and finds what is worth a reason.

    Args:
        names: Of the action's numbers.
        settings: The window and what is too much.
    """

    def __init__(self, names: Sequence[str], settings: MonitorSettings) -> None:
        self._names, self._settings = tuple(names), settings
        self._window_ns = round(settings.window_s * 1e9)
        self.reset()

    def reset(self) -> None:
        """Forget everything, as when the robot is enabled."""
        count = len(self._names)
        self._last: deque[tuple[int, Vector]] = deque(maxlen=4)
        self._reversals: list[deque[int]] = [deque(maxlen=_MOST) for _ in range(count)]
        self._jerks: deque[tuple[int, Vector]] = deque(maxlen=_MOST)  # squared
        self._confidences: deque[tuple[int, float]] = deque(maxlen=_MOST)
        self._direction = np.zeros(count)  # 1, -1, or 0 before the first movement
        self._extreme = np.zeros(count)  # the furthest place in that direction

    def command(self, now_ns: int, values: Vector) -> None:
        """Take in a command (A,) that was sent.

        After a pause as long as the window, or a step back of the clock, everything begins anew.
        """
        if self._last and not 0 < now_ns - self._last[-1][0] < self._window_ns:
            self.reset()
        if not self._last:
            self._extreme = values.copy()
        self._last.append((now_ns, values.copy()))
        self._turn(now_ns, values)
        if len(self._last) == 4:
            self._jerks.append((now_ns, 36.0 * _divided_difference(self._last) ** 2))

    def plan(self, now_ns: int, confidence: float) -> None:
        """Take in how sure the policy was of a plan, 0 to 1."""
        if self._confidences and now_ns < self._confidences[-1][0]:
            self._confidences.clear()
        self._confidences.append((now_ns, confidence))

    def figures(self, now_ns: int) -> Figures:
        """Return what the window that ends now holds."""
        oldest_ns = now_ns - self._window_ns
        for times in self._reversals:
            while times and times[0] <= oldest_ns:
                times.popleft()
        for samples in (self._jerks, self._confidences):
            while samples and samples[0][0] <= oldest_ns:
                samples.popleft()
        counts = np.array([len(times) for times in self._reversals], dtype=np.float64)
        jerk = np.zeros(len(self._names))
        if self._jerks:
            jerk = np.sqrt(np.mean([squared for _, squared in self._jerks], axis=0))
        sure = [confidence for _, confidence in self._confidences]
        mean = float(np.mean(sure)) if sure else math.nan
        return Figures(counts / self._settings.window_s, jerk, mean)

    def findings(self, now_ns: int) -> tuple[tuple[Reason, bool], ...]:
        """Return what is too much, each with whether the robot is to hold; see Facts.monitors."""
        settings, found = self._settings, []
        figures = self.figures(now_ns)
        window = f'in {settings.window_s:g} s'
        if settings.reversals_hz is not None:
            worst = int(figures.reversals_hz.argmax())
            rate_hz = figures.reversals_hz[worst]
            if rate_hz > settings.reversals_hz:
                detail = f'{self._names[worst]} turned back {rate_hz:.1f} times a second {window}'
                detail += f', limit {settings.reversals_hz:g}'
                reason = Reason(ReasonKind.REVERSALS, detail)
                found.append((reason, settings.on_reversals == 'hold'))
        if settings.jerk is not None:
            worst = int(figures.jerk.argmax())
            if figures.jerk[worst] > settings.jerk:
                detail = f'{self._names[worst]}: {figures.jerk[worst]:.3g} per s^3 {window}'
                detail += f', limit {settings.jerk:g}'
                found.append((Reason(ReasonKind.JERK, detail), settings.on_jerk == 'hold'))
        if settings.confidence is not None and figures.confidence < settings.confidence:
            detail = f'{figures.confidence:.2f} {window}, limit {settings.confidence:g}'
            reason = Reason(ReasonKind.CONFIDENCE, detail)
            found.append((reason, settings.on_confidence == 'hold'))
        return tuple(found)

    def _turn(self, now_ns: int, values: Vector) -> None:
        """Count a reversal where a number has come back by more than the smallest size."""
        back = (values - self._extreme) * np.where(self._direction == 0, 1, -self._direction)
        distance = np.where(self._direction == 0, np.abs(values - self._extreme), back)
        turned = distance > self._settings.reversal_size
        for index in np.flatnonzero(turned & (self._direction != 0)):
            self._reversals[index].append(now_ns)
        direction = np.where(turned, np.sign(values - self._extreme), self._direction)
        further = (values - self._extreme) * direction > 0
        self._extreme = np.where(turned | further, values, self._extreme)
        self._direction = direction


def _divided_difference(samples: Sequence[tuple[int, Vector]]) -> Vector:
    """Return the third one of four samples (A,): a sixth of the mean third derivative."""
    times_s = [(time_ns - samples[0][0]) / 1e9 for time_ns, _ in samples]
    values = [value for _, value in samples]
    for order in range(1, len(samples)):
        values = [
            (values[i + 1] - values[i]) / (times_s[i + order] - times_s[i])
            for i in range(len(values) - 1)
        ]
    return values[0]
