"""Running percentiles of measured values, in bounded memory."""

from collections import deque
import math
import threading

import numpy as np


class Samples:
    """The last values of one measurement; may be filled and read by different threads.

    Args:
        capacity: How many of the last values the percentiles are of.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._lock = threading.Lock()
        self._values: deque[float] = deque(maxlen=capacity)
        self._count = 0
        self._max = -math.inf

    def add(self, value: float) -> None:
        """Take one value in."""
        with self._lock:
            self._values.append(value)
            self._count += 1
            self._max = max(self._max, value)

    @property
    def count(self) -> int:
        """How many values were ever added."""
        with self._lock:
            return self._count

    def summary(self) -> dict[str, float]:
        """Return `p50` and `p99` of the last values and the `max` of all; NaN without values."""
        with self._lock:
            values, largest = list(self._values), self._max
        if not values:
            return {'p50': math.nan, 'p99': math.nan, 'max': math.nan}
        p50, p99 = np.percentile(values, [50, 99])
        return {'p50': float(p50), 'p99': float(p99), 'max': float(largest)}
