"""Absolute deadlines of a periodic loop: a late tick does not push the next one."""

from vqbet_ros.runtime.statistics import Samples


class Deadlines:
    """The times start, start + period, start + 2 period, ... and how well they are kept.

    The loop sleeps until `next_ns`, calls `tick` with the time at which it woke, and works.

    Args:
        start_ns: First deadline.
        period_ns: Distance of two deadlines, more than 0.

    Attributes:
        ticks: Ticks that ran and were counted.
        missed: Deadlines that were skipped because a tick ran a whole period late or more.
        period_ms: Time between the starts of two successive ticks.
        error_ms: By how much that differs from the period, more or less.
    """

    def __init__(self, start_ns: int, period_ns: int) -> None:
        if period_ns <= 0:
            raise ValueError(f'period_ns: got {period_ns}, expected more than 0')
        self._next_ns = start_ns
        self._period_ns = period_ns
        self._last_ns: int | None = None
        self.ticks = 0
        self.missed = 0
        self.period_ms = Samples()
        self.error_ms = Samples()

    @property
    def next_ns(self) -> int:
        """The next deadline."""
        return self._next_ns

    def wait_ns(self, now_ns: int) -> int:
        """Return how long to sleep until the next deadline, 0 or more."""
        return max(0, self._next_ns - now_ns)

    def tick(self, now_ns: int, *, counted: bool = True) -> int:
        """Note that the tick of the next deadline starts now.

        What has passed in the meantime is counted as missed and skipped: ticks never bunch up to
        catch up.

        Args:
            now_ns: Now.
            counted: Whether it is one of those that are measured.

        Returns:
            How late the tick is, in ns, 0 or more.
        """
        late_ns = max(0, now_ns - self._next_ns)
        skipped = late_ns // self._period_ns
        if counted:
            self.ticks += 1
            self.missed += skipped
            if self._last_ns is not None:
                self.period_ms.add((now_ns - self._last_ns) / 1e6)
                self.error_ms.add(abs(now_ns - self._last_ns - self._period_ns) / 1e6)
        self._last_ns = now_ns if counted else None
        self._next_ns += (skipped + 1) * self._period_ns
        return late_ns
