"""When the policy is asked again: the running node and a replayed bag decide it here."""

from collections.abc import Mapping

from vqbet_ros.spec import RobotSpec

TICK_MARGIN = 0.2
"""A tick comes this share of its period after a plan: a plan that takes a little longer than the
first one is still used at once, and not a whole period later."""

# A camera at the policy's own rate must not lose every second frame to a trembling stamp.
_PLAN_SPACING = 0.9


def stamp_jitter_ns(spec: RobotSpec) -> int:
    """Return by how much stamps may tremble around their period; see ObservationBuffer.

    Real cameras do; a quarter of the period still tells frames apart.
    """
    periods_ns = [spec.period_ns, *(round(1e9 / camera.rate_hz) for camera in spec.cameras)]
    return min(periods_ns) // 4


class Pacing:
    """Remembers the last plan, and says whether an observation is worth another one.

    Args:
        spec: The robot.
        chunk: Steps W of a plan.
        history: Steps h that the policy sees.
        plan_every: Steps of a plan that are executed before the next one is made; 0 for all but
            the last, which is in reserve while the next plan is made.
    """

    def __init__(self, spec: RobotSpec, chunk: int, history: int, plan_every: int = 0) -> None:
        steps = min(plan_every, chunk) or max(1, chunk - 1)
        self._streams = len(spec.streams)
        self._spacing_ns = (steps - 1 + _PLAN_SPACING) * spec.period_ns
        self._step_ns = _PLAN_SPACING * spec.period_ns
        # Of the steps between two plans the last ones are history of the second; of what they
        # hold it is frames that take long.
        first = max(1, steps - (history - 1)) if spec.cameras else steps
        self._looks_ns = (first - 1 + _PLAN_SPACING) * spec.period_ns
        self._planned: tuple[int, int] = (-1, 0)  # epoch and time of the last observation
        self._seen_ns = 0  # time of the last one that was planned of or looked at

    def is_first(self, epoch: int) -> bool:
        """Tell whether there was no plan since the robot was enabled."""
        return epoch != self._planned[0]

    def is_new(self, epoch: int, stamp_ns: int) -> bool:
        """Tell whether this is another observation than the last plan's."""
        return (epoch, stamp_ns) != self._planned

    def is_due(
        self, now_ns: int, ages_ns: Mapping[str, int | None], epoch: int, *, planned: bool
    ) -> bool:
        """Tell cheaply, without decoding, whether the newest observation is worth a plan.

        Args:
            now_ns: Now.
            ages_ns: See ObservationBuffer.
            epoch: The supervisor's.
            planned: Whether a plan is being executed. Where it was dropped, the robot is held: it
                need not wait for the plan's end.
        """
        stamp_ns = self._stamp_ns(now_ns, ages_ns)
        if stamp_ns is None:
            return False
        if self.is_first(epoch):
            return True
        elapsed_ns = stamp_ns - self._planned[1]
        return not 0 <= elapsed_ns < (self._spacing_ns if planned else self._step_ns)

    def is_ahead(self, now_ns: int, ages_ns: Mapping[str, int | None]) -> bool:
        """Tell whether the newest observation, not due, will be in the next plan's history.

        Then the policy had better look at it now than when that plan is waited for.
        """
        stamp_ns = self._stamp_ns(now_ns, ages_ns)
        if stamp_ns is None:
            return False
        late_enough = stamp_ns - self._planned[1] >= self._looks_ns
        return late_enough and stamp_ns - self._seen_ns >= self._step_ns

    def note(self, epoch: int, stamp_ns: int) -> None:
        """Remember the observation that a plan is made of."""
        self._planned, self._seen_ns = (epoch, stamp_ns), stamp_ns

    def note_look(self, stamp_ns: int) -> None:
        """Remember the observation that was looked at ahead of a plan."""
        self._seen_ns = stamp_ns

    def _stamp_ns(self, now_ns: int, ages_ns: Mapping[str, int | None]) -> int | None:
        """Return the time of the newest observation, None while a stream is missing."""
        ages = [age for age in ages_ns.values() if age is not None]
        return None if len(ages) < self._streams else now_ns - max(ages, default=0)
