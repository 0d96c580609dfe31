"""Measurements of a stream in constant memory, however long it lasts."""

from collections import deque
import math

_STEPS = 8  # per power of two: a quantile is right to within 1/16


class Histogram:
    """Counts non-negative integers in bins whose width grows with the value."""

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self._count = 0

    def add(self, value: int) -> None:
        """Take one value in; a negative one counts as 0."""
        if value < _STEPS:
            index = max(value, 0)
        else:
            shift = value.bit_length() - 4
            index = _STEPS * shift + (value >> shift)
        self._bins[index] = self._bins.get(index, 0) + 1
        self._count += 1

    def quantile(self, share: float) -> float:
        """Return the middle of the bin below which that share of values lies; NaN without any."""
        if not self._count:
            return math.nan
        rank = share * self._count
        seen = 0
        index = 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if seen >= rank:
                break
        shift = max(0, index // _STEPS - 1)
        if not shift:
            return float(index)
        low = (index - _STEPS * shift) << shift
        return low + (1 << shift) / 2


class Spread:
    """Mean and standard deviation of a series, by Welford's method."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        """Take one value in."""
        self.count += 1
        step = value - self._mean
        self._mean += step / self.count
        self._squares += step * (value - self._mean)

    @property
    def deviation(self) -> float:
        """The standard deviation; NaN for fewer than two values."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else math.nan


class RateMeter:
    """The rate at which messages came lately; its owner serialises all calls.

    Args:
        expected_hz: About how fast they come; None where nobody knows.
    """

    def __init__(self, expected_hz: float | None = None) -> None:
        # Four messages at least, so that one late message does not look like half the rate.
        window_s = max(2.0, 4.0 / (expected_hz or 10.0))
        self._window_ns = round(window_s * 1e9)
        # Of a publisher three times too fast, it looks less far back.
        self._times_ns: deque[int] = deque(maxlen=round(3 * window_s * (expected_hz or 100.0)) + 8)

    def add(self, receive_ns: int) -> None:
        """Take note of an arrival; a clock that was set back begins anew."""
        times_ns = self._times_ns
        if times_ns and receive_ns < times_ns[-1]:
            times_ns.clear()
        times_ns.append(receive_ns)

    def rate_hz(self, now_ns: int) -> float | None:
        """Return the rate in the last seconds; it falls as soon as the messages stop.

        Returns:
            None when fewer than two messages came in that time, which is too little to tell.
        """
        times_ns = self._times_ns
        while times_ns and times_ns[0] < now_ns - self._window_ns:
            times_ns.popleft()
        if len(times_ns) < 2:
            return None
        span_ns = times_ns[-1] - times_ns[0]
        silence_ns = now_ns - times_ns[-1]
        if silence_ns > 2 * span_ns / (len(times_ns) - 1):
            span_ns += silence_ns
        return (len(times_ns) - 1) * 1e9 / max(span_ns, 1)
