"""The recent samples of one stream: stored raw, found by time, decoded once when needed."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import BadMessage
from vqbet_ros.message_types import JOINT_STATE
from vqbet_ros.runtime.gate import check_age, Reason, ReasonKind
from vqbet_ros.spec import CameraSpec, StateSpec

Decoder = Callable[[Any, Any], NDArray[Any]]
"""Turns (payload, CameraSpec or StateSpec) into an image or a vector, or raises BadMessage.

Of a JointState, joints that the message does not speak of are NaN."""

MAX_RATE_RATIO = 8
"""Samples are kept up to this many times the spec's rate; of faster ones, some are let go."""

stamp_of = attrgetter('stamp_ns')
"""By what samples are in order."""


@dataclass(eq=False)
class Sample:
    """One message.

    Attributes:
        stamp_ns: When it was measured.
        payload: The raw message.
        value: What it decodes to, once somebody needed it: (height, width, 3) uint8 RGB of the
            camera's size, or (C,) float64, one number for each of the stream's channels; NaN for
            joints that the message does not speak of.
        problem: Why it cannot be decoded, once somebody tried.
        repeats: How many messages just before it have the same content, once somebody looked.
    """

    stamp_ns: int
    payload: Any
    value: NDArray[Any] | None = None
    problem: str | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class Silence:
    """Channels that the messages near a time do not speak of, though there are messages.

    Attributes:
        names: The channels.
        until_ns: Up to when they are known; None if they are not known at all.
    """

    names: str
    until_ns: int | None = None


@dataclass
class StreamCounts:
    """What happened to a stream's messages so far.

    Attributes:
        received: All messages.
        not_newer: Dropped: stamped no later than the newest (repeated or out of order).
        before_reset: Dropped: from before the last reset of the history.
        unstamped: Taken at their time of arrival, because they bear no stamp.
        bad: Could not be decoded.
        clock_resets: Stamps so far back that everything was forgotten.
    """

    received: int = 0
    not_newer: int = 0
    before_reset: int = 0
    unstamped: int = 0
    bad: int = 0
    clock_resets: int = 0


@dataclass
class Stream:
    """The samples of one stream in order of their stamps; its owner serialises all calls.

    Attributes:
        spec: The stream's part of the robot's spec.
        decoder: Decodes its payloads.
        horizon_ns: How far back samples are kept.
        silence: Channels that the newest messages did not speak of, when last somebody looked.
    """

    spec: CameraSpec | StateSpec
    decoder: Decoder
    horizon_ns: int
    counts: StreamCounts = field(default_factory=StreamCounts)
    newest_ns: int | None = None  # of all stamps since the start, forgotten ones too
    samples: deque[Sample] = field(default_factory=deque)
    silence: Silence | None = None
    _bad_text: str | None = None  # why the last decoded message could not be used
    _good_ns: int | None = None  # stamp of the newest message that was decoded

    def append(self, sample: Sample) -> None:
        """Keep a sample that is newer than all others; let go what nobody will ask for."""
        self.newest_ns = sample.stamp_ns
        # A publisher much faster than its spec is thinned out, so that memory stays bounded and
        # the history whole: the last sample goes if too many are as new. A few close ones stay:
        # they may be parts of one state.
        if len(self.samples) > MAX_RATE_RATIO:
            span_ns = self.samples[-1].stamp_ns - self.samples[-1 - MAX_RATE_RATIO].stamp_ns
            if span_ns * self.spec.rate_hz < 1e9:
                self.samples.pop()
        self.samples.append(sample)
        # One sample beyond the horizon stays, to interpolate from.
        while len(self.samples) > 1 and (
            self.samples[1].stamp_ns <= sample.stamp_ns - self.horizon_ns
        ):
            self.samples.popleft()

    def forget_before(self, stamp_ns: int) -> None:
        """Let go all samples older than that."""
        while self.samples and self.samples[0].stamp_ns < stamp_ns:
            self.samples.popleft()
        if self._good_ns is not None and self._good_ns < stamp_ns:
            self._good_ns = None

    def forget_all(self) -> None:
        """Begin anew, as after a clock was set back."""
        self.samples.clear()
        self.newest_ns = self._good_ns = self._bad_text = self.silence = None

    def note_good(self, sample: Sample) -> None:
        """Take note of a sample that was decoded."""
        if self._good_ns is None or sample.stamp_ns > self._good_ns:
            self._good_ns = sample.stamp_ns
            self._bad_text = None

    def note_bad(self, text: str, sample: Sample | None = None) -> None:
        """Count a message that cannot be decoded, and let its sample go."""
        self.counts.bad += 1
        self._bad_text = text
        if sample is not None and sample in self.samples:
            self.samples.remove(sample)

    def check(self, now_ns: int, trust_undecoded: bool) -> Reason | None:
        """Say why the stream gives no usable data now, or None.

        Args:
            now_ns: Now.
            trust_undecoded: Whether messages that nobody decoded yet count, although the last one
                that was decoded turned out bad.
        """
        newest_ns = self.samples[-1].stamp_ns if self.samples else None
        if self._bad_text is not None and not trust_undecoded:
            newest_ns = self._good_ns
        reason = self._check_age(newest_ns, now_ns)
        if reason is not None and self._bad_text is not None:
            return Reason(ReasonKind.BAD_MESSAGE, self._bad_text, self.spec.stream)
        return reason if reason is not None or trust_undecoded else self.check_silence(now_ns)

    def check_silence(self, now_ns: int) -> Reason | None:
        """Say which channels are too old now, though messages come, or None."""
        if self.silence is None:
            return None
        reason = self._check_age(self.silence.until_ns, now_ns)
        if reason is None:
            return None
        absent = self.silence.until_ns is None
        detail = 'in none of the newest messages' if absent else reason.detail
        return replace(reason, detail=f'{self.silence.names}: {detail}')

    def is_stale(self, stamp_ns: int) -> bool:
        """Tell whether a message brings nothing after those that are there."""
        if self.newest_ns is None:
            return False
        # Parts of one state may bear one stamp.
        parts = self.spec.type == JOINT_STATE
        return stamp_ns < self.newest_ns or (stamp_ns == self.newest_ns and not parts)

    def _check_age(self, stamp_ns: int | None, now_ns: int) -> Reason | None:
        return check_age(self.spec.stream, stamp_ns, now_ns, self.spec.max_age_ns)


def decode(sample: Sample, spec: CameraSpec | StateSpec, decoder: Decoder) -> None:
    """Fill in a sample's value.

    Raises:
        BadMessage: The message is broken, or is not what the spec says.
    """
    value = decoder(sample.payload, spec)
    if isinstance(spec, CameraSpec):
        shape = (spec.height, spec.width, 3)
        if value.shape != shape or value.dtype != np.uint8:
            raise BadMessage(f'image: got {value.dtype} {value.shape}, expected uint8 {shape}')
    else:
        value = np.asarray(value, dtype=np.float64)
        if value.shape != (len(spec.channels),):
            raise BadMessage(f'got {value.size} numbers, expected {len(spec.channels)}')
        # Arm and gripper may come in messages of their own, on one topic.
        absent = np.isnan(value) if spec.type == JOINT_STATE else np.zeros(len(value), bool)
        bad = [
            name
            for name, fine in zip(spec.channels, np.isfinite(value) | absent, strict=True)
            if not fine
        ]
        if bad:
            raise BadMessage(f'not a finite number: {", ".join(bad)}')
    sample.value = value
