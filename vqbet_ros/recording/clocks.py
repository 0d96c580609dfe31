"""Whether two clocks go together: the one that stamps messages, and the one here."""

JUMP_NS = 250_000_000
"""Larger steps of one clock against the other are no transport's doing, if they stay."""
# Of so long a time and so many messages, the smallest delay is one that no queue made longer.
_WINDOW_NS, _WINDOW_MESSAGES = 2_000_000_000, 10


class ClockComparison:
    """Finds jumps of the stamps' clock against the clock of the arrivals.

    A message may be late, but none arrives before it was sent: the smallest delay of a window is
    that of the way alone, and it changes only when a clock is set. Waiting on the way for less
    than a window looks like no jump.
    """

    def __init__(self) -> None:
        self._jumps = 0
        self._before_ns: int | None = None
        self._smallest_ns: int | None = None
        self._until_ns = self._messages = 0

    def add(self, receive_ns: int, delay_ns: int, set_back: bool) -> None:
        """Take one message in; `set_back` says that one of the clocks ran backwards."""
        if set_back:
            self._jumps += 1
            self._before_ns = self._smallest_ns = None
        if self._smallest_ns is not None and (
            receive_ns < self._until_ns or self._messages < _WINDOW_MESSAGES
        ):
            self._messages += 1
            if delay_ns < self._smallest_ns:
                self._smallest_ns = delay_ns
            return
        self._jumps += self._differs()
        self._before_ns, self._smallest_ns = self._smallest_ns, delay_ns
        self._until_ns, self._messages = receive_ns + _WINDOW_NS, 1

    def count(self) -> int:
        """Return the jumps so far."""
        fell = (
            self._before_ns is not None
            and self._smallest_ns is not None
            and self._smallest_ns < self._before_ns - JUMP_NS
        )
        return self._jumps + fell  # only a fall is sure before the window has ended

    def _differs(self) -> bool:
        if self._before_ns is None or self._smallest_ns is None:
            return False
        return abs(self._smallest_ns - self._before_ns) > JUMP_NS
