"""What one stream brought: rate, gaps, losses, order, delays, frozen content, clock jumps."""

from dataclasses import dataclass
import math
import threading
from typing import Any

import numpy as np
from vqbet_ros.recording.clocks import ClockComparison, JUMP_NS
from vqbet_ros.recording.expected import Expected
from vqbet_ros.recording.measures import Histogram, RateMeter, Spread

# In CDR: 4 bytes that say how what follows is encoded, then the header's stamp.
_ENCODING_BYTES, _STAMP_BYTES = 4, 8
_PROBE_BYTES = 64
_FIRST_BYTES, _LAST_BYTES, _LARGE_BYTES = 256, 72, 1024


@dataclass(frozen=True)
class StreamReport:
    """The numbers of one stream up to one moment.

    Attributes:
        expected: What it should have been.
        messages: How many came.
        bytes: Their size in all.
        duration_s: From the beginning of the episode to that moment.
        rate_hz: Messages per second of that time; NaN in its first instant.
        recent_hz: Rate of the last seconds; None where too few came to tell.
        largest_gap_s: Longest time without a message, beginning and end of the episode included.
            By the stamps where there are any: what came late in a bunch leaves no gap.
        gap_at_s: When that began, from the beginning of the episode.
        jitter_ms: Standard deviation of the intervals up to the spec's max_age_s; NaN for fewer
            than two.
        lost_on_the_way: Published but never arrived, by the publishers' numbers.
        lost_here: Arrived but not written, because the queue to the disk was full.
        out_of_order: Stamped before a message that came earlier.
        duplicates: Stamped exactly as the newest before it.
        unstamped: Without a stamp although the stream is one that has stamps.
        delay_p50_ms: Median of the time from stamp to arrival; NaN without stamps.
        delay_max_ms: Largest.
        delay_min_ms: Smallest; negative when the stamps lie in the future.
        transport_max_ms: Largest time from publishing to arrival; NaN if it is not known.
        repeats: Messages with the content of the one before.
        longest_freeze_s: Longest time during which the content stayed the same.
        clock_jumps: How often the clock of the stamps and that of the arrivals parted.
    """

    expected: Expected
    messages: int
    bytes: int
    duration_s: float
    rate_hz: float
    recent_hz: float | None
    largest_gap_s: float
    gap_at_s: float
    jitter_ms: float
    lost_on_the_way: int
    lost_here: int
    out_of_order: int
    duplicates: int
    unstamped: int
    delay_p50_ms: float
    delay_max_ms: float
    delay_min_ms: float
    transport_max_ms: float
    repeats: int
    longest_freeze_s: float
    clock_jumps: int


class StreamAudit:
    """Judges the messages of one stream as they come; the numbers may be read at any time.

    `add` belongs to one thread, the others to any. Constant memory.

    Args:
        expected: What is expected of the stream.
        start_ns: When the episode began; None takes the first arrival.
    """

    def __init__(self, expected: Expected, start_ns: int | None = None) -> None:
        self.expected = expected
        self._lock = threading.Lock()
        self._start_ns = start_ns
        self._messages = self._bytes = 0
        self._receive_ns = self._instant_ns = self._newest_stamp_ns = 0
        self._gap_ns, self._gap_from_ns = 0, start_ns or 0
        self._intervals = Spread()
        self._recent = RateMeter(expected.rate_hz)
        self._sequence = self._missing = self._lost_here = 0
        self._out_of_order = self._duplicates = self._unstamped = self._stamped = 0
        self._delays = Histogram()
        self._delay_min_ns: float = math.inf
        self._delay_max_ns: float = -math.inf
        self._transport_max_ns: float = -math.inf
        self._previous: Any = b''
        self._repeats = 0
        self._freeze_ns, self._frozen_since_ns = 0, 0
        self._clocks = ClockComparison()

    def add(
        self,
        receive_ns: int,
        stamp_ns: int | None,
        publish_ns: int,
        sequence: int | None,
        payload: Any,
    ) -> None:
        """Take one message in, in order of arrival.

        Args:
            receive_ns: When it arrived.
            stamp_ns: Its header's stamp; None where it has none.
            publish_ns: When it was published; 0 where that is not known.
            sequence: Its number on the topic, in which lost messages leave gaps; None or 0 where
                that is not known.
            payload: The serialised message; kept until the next one comes.
        """
        with self._lock:
            instant_ns = receive_ns if stamp_ns is None else stamp_ns
            if self._messages:
                self._add_interval(instant_ns)
            else:
                self._begin(receive_ns, instant_ns)
            if stamp_ns is None:
                self._unstamped += 1
                self._instant_ns = instant_ns
            else:
                self._add_stamp(receive_ns, stamp_ns)
            self._messages += 1
            self._bytes += len(payload)
            self._receive_ns = receive_ns
            self._recent.add(receive_ns)
            if sequence:
                # A smaller number is a publisher that began anew.
                if self._sequence and sequence > self._sequence:
                    self._missing += sequence - self._sequence - 1
                self._sequence = sequence
            if publish_ns and receive_ns - publish_ns > self._transport_max_ns:
                self._transport_max_ns = receive_ns - publish_ns
            skip = _ENCODING_BYTES if stamp_ns is None else _ENCODING_BYTES + _STAMP_BYTES
            if _same_content(self._previous, payload, skip):
                self._repeats += 1
                self._freeze_ns = max(self._freeze_ns, receive_ns - self._frozen_since_ns)
            else:
                self._frozen_since_ns = receive_ns
            self._previous = payload

    def lost_here(self, count: int = 1) -> None:
        """Take note of messages that arrived but could not be queued."""
        with self._lock:
            self._lost_here += count

    def report(self, now_ns: int) -> StreamReport:
        """Return the numbers up to now.

        Args:
            now_ns: Now, or when the episode ended, on the clock of the arrivals.
        """
        with self._lock:
            start_ns = now_ns if self._start_ns is None else self._start_ns
            gap_ns, gap_from_ns = self._gap_ns, self._gap_from_ns
            since_ns = self._receive_ns if self._messages else start_ns
            if now_ns - since_ns > gap_ns:
                gap_ns, gap_from_ns = now_ns - since_ns, since_ns
            duration_ns = max(0, now_ns - start_ns)
            return StreamReport(
                expected=self.expected,
                messages=self._messages,
                bytes=self._bytes,
                duration_s=duration_ns / 1e9,
                rate_hz=self._messages * 1e9 / duration_ns if duration_ns else math.nan,
                recent_hz=self._recent.rate_hz(now_ns),
                largest_gap_s=gap_ns / 1e9,
                gap_at_s=max(0, gap_from_ns - start_ns) / 1e9,
                jitter_ms=self._intervals.deviation / 1e6,
                # What the full queue refused leaves gaps in the numbers too.
                lost_on_the_way=max(0, self._missing - self._lost_here),
                lost_here=self._lost_here,
                out_of_order=self._out_of_order,
                duplicates=self._duplicates,
                unstamped=self._unstamped if self._should_be_stamped() else 0,
                delay_p50_ms=self._median_delay_ms(),
                delay_max_ms=_finite_ms(self._delay_max_ns),
                delay_min_ms=_finite_ms(self._delay_min_ns),
                transport_max_ms=_finite_ms(self._transport_max_ns),
                repeats=self._repeats,
                longest_freeze_s=self._freeze_ns / 1e9,
                clock_jumps=self._clocks.count(),
            )

    def _begin(self, receive_ns: int, instant_ns: int) -> None:
        if self._start_ns is None:
            self._start_ns = receive_ns
        self._gap_ns, self._gap_from_ns = max(0, instant_ns - self._start_ns), self._start_ns

    def _add_interval(self, instant_ns: int) -> None:
        interval_ns = instant_ns - self._instant_ns
        if interval_ns > 0:  # else it is a duplicate or out of order, and counted as that
            if interval_ns <= (self.expected.max_age_ns or interval_ns):
                self._intervals.add(interval_ns)  # a longer one is a gap
            if interval_ns > self._gap_ns:
                self._gap_ns, self._gap_from_ns = interval_ns, self._receive_ns

    def _add_stamp(self, receive_ns: int, stamp_ns: int) -> None:
        delay_ns = receive_ns - stamp_ns
        newest_ns = self._newest_stamp_ns
        set_back = bool(self._stamped) and (
            stamp_ns < newest_ns - JUMP_NS or receive_ns < self._receive_ns - JUMP_NS
        )
        self._clocks.add(receive_ns, delay_ns, set_back)
        if self._stamped and not set_back:
            if stamp_ns == newest_ns:
                self._duplicates += 1
            elif stamp_ns < newest_ns:
                self._out_of_order += 1
        self._stamped += 1
        if stamp_ns > newest_ns or set_back:
            self._newest_stamp_ns = self._instant_ns = stamp_ns
        self._delays.add(delay_ns)
        if delay_ns > self._delay_max_ns:
            self._delay_max_ns = delay_ns
        if delay_ns < self._delay_min_ns:
            self._delay_min_ns = delay_ns

    def _should_be_stamped(self) -> bool:
        return bool(self._stamped or self.expected.is_camera or self.expected.joint_names)

    def _median_delay_ms(self) -> float:
        # Negative delays are all one bin of the histogram: of them the smallest says more.
        if self._stamped and self._delay_max_ns <= 0:
            return self._delay_max_ns / 1e6
        return self._delays.quantile(0.5) / 1e6


def _same_content(before: Any, after: Any, skip: int) -> bool:
    """Tell whether two messages have the same content; cheap when they have not.

    Of large ones beginning and end are left out: serialisers fill the gaps between the fields of
    a header, and the room that they took too much of, with whatever was there.

    Args:
        before: One message's bytes.
        after: The other's.
        skip: Bytes at the beginning that belong to the stamp.
    """
    length = len(after)
    if len(before) != length:
        return False
    if length < _LARGE_BYTES:
        return bool(before[skip:] == after[skip:])
    middle = length // 2
    if before[middle : middle + _PROBE_BYTES] != after[middle : middle + _PROBE_BYTES]:
        return False
    # Words of 8 bytes: a VGA picture takes 0.1 ms, and is compared in full only if it is still.
    words = (length - _FIRST_BYTES - _LAST_BYTES) // 8
    one = np.frombuffer(before, np.uint64, words, _FIRST_BYTES)
    other = np.frombuffer(after, np.uint64, words, _FIRST_BYTES)
    return bool((one == other).all())


def _finite_ms(duration_ns: float) -> float:
    return duration_ns / 1e6 if math.isfinite(duration_ns) else math.nan
