"""What the supervisor is told at every tick besides the observation, and the reasons in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime_spec import WatchSettings


@dataclass(frozen=True)
class Facts:
    """What is known at a tick; the defaults say that nothing is wrong.

    Attributes:
        measured: (A,) where the robot is, in the order of the action; None where that is not
            known. Numbers that have no measurement are NaN.
        steady_ns: A clock that never jumps; None where there is none besides the tick's.
        inference_since_ns: When the inference began that is still running; None while none is.
        inference_alive: Whether its thread is there.
        foreign_publishers: Who else publishes on the command topic.
        course: Whether the arm follows what was previewed, by itself and however late ticks are.
        controller: Why the controller takes no commands; empty where it does, or nobody knows.
        monitors: What the monitors have found, with whether it is to hold the robot.
    """

    measured: NDArray[np.float64] | None = None
    steady_ns: int | None = None
    inference_since_ns: int | None = None
    inference_alive: bool = True
    foreign_publishers: tuple[str, ...] = ()
    course: bool = False
    controller: str = ''
    monitors: tuple[tuple[Reason, bool], ...] = ()


class Watch:
    """Finds the reasons in the facts; remembers what has to last for a while.

    Args:
        names: Of the action's numbers.
        judged: Which of them are joints of the arm, (A,) bool; grippers lag behind by design.
        settings: What is watched.
    """

    def __init__(
        self, names: Sequence[str], judged: NDArray[np.bool_], settings: WatchSettings
    ) -> None:
        self._names, self._judged, self._settings = names, judged, settings
        self._astray_ns: int | None = None  # since when the robot does not follow
        self._clocks: tuple[int, int | None] | None = None  # at the last tick

    def begin(self) -> None:
        """Forget what has lasted for a while, as when the robot is enabled."""
        self._astray_ns = None

    def reasons(self, now_ns: int, facts: Facts, sent: NDArray[np.float64] | None) -> list[Reason]:
        """Return what forbids or taints commands now.

        Args:
            now_ns: Now.
            facts: What is known.
            sent: The last command (A,), if there was one.
        """
        found = [self._clock(now_ns, facts.steady_ns), self._tracking(now_ns, facts, sent)]
        if not facts.inference_alive:
            found.append(Reason(ReasonKind.INFERENCE_DEAD, 'its thread is gone'))
        found.append(self._inference(now_ns, facts.inference_since_ns))
        if facts.foreign_publishers:
            who = ', '.join(facts.foreign_publishers)
            found.append(Reason(ReasonKind.FOREIGN_PUBLISHER, f'{who}: stop it'))
        if facts.controller:
            found.append(Reason(ReasonKind.CONTROLLER, facts.controller))
        return [reason for reason in found if reason is not None]

    def _clock(self, now_ns: int, steady_ns: int | None) -> Reason | None:
        """Compare two clocks; without a steady one, a step back is all that can be seen."""
        before, limit_s = self._clocks, self._settings.clock_jump_s
        self._clocks = now_ns, steady_ns
        if before is None or limit_s is None:
            return None
        elapsed_ns = now_ns - before[0]
        known = steady_ns is not None and before[1] is not None
        steady = steady_ns - before[1] if known else max(0, elapsed_ns)  # type: ignore[operator]
        if abs(elapsed_ns - steady) <= limit_s * 1e9:
            return None
        return Reason(ReasonKind.CLOCK_JUMP, f'by {(elapsed_ns - steady) / 1e9:+.3f} s')

    def _tracking(
        self, now_ns: int, facts: Facts, sent: NDArray[np.float64] | None
    ) -> Reason | None:
        limit, settings = self._settings.tracking_error, self._settings
        if limit is None or sent is None or facts.measured is None:
            self._astray_ns = None
            return None
        index, error = farthest(sent, facts.measured, self._judged)
        if error <= limit:
            self._astray_ns = None
            return None
        if self._astray_ns is None or self._astray_ns > now_ns:
            self._astray_ns = now_ns
        if now_ns - self._astray_ns < settings.tracking_s * 1e9:
            return None
        detail = f'{self._names[index]} is {error:.3g} from its last command, limit {limit:g}'
        return Reason(ReasonKind.TRACKING, detail)

    def _inference(self, now_ns: int, since_ns: int | None) -> Reason | None:
        limit_s = self._settings.inference_deadline_s
        if limit_s is None or since_ns is None or now_ns - since_ns <= limit_s * 1e9:
            return None
        detail = f'{(now_ns - since_ns) / 1e6:.0f} ms so far, limit {limit_s * 1e3:.0f} ms'
        return Reason(ReasonKind.INFERENCE_LATE, detail)


def farthest(
    a: NDArray[np.float64], b: NDArray[np.float64], judged: NDArray[np.bool_]
) -> tuple[int, float]:
    """Return the index and the size of the largest difference; NaN is no difference."""
    distance = np.nan_to_num(np.where(judged, np.abs(a - b), 0.0), nan=0.0)
    index = int(distance.argmax())
    return index, float(distance[index])
