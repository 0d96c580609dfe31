"""What one step sees: the samples of a time, decoded and interpolated.

The running node and the preparing of bags both come through `step_at`: for the same messages the
policy is trained on exactly what it sees when it runs, bit for bit.

C: channels of one stream, S: channels of the whole state.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import BadMessage
from vqbet_ros.message_types import POSE_STAMPED, POSITION
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime.rotation import slerp
from vqbet_ros.runtime.stream import Sample, Silence, stamp_of
from vqbet_ros.spec import CameraSpec, RobotSpec, StateSpec

Read = Callable[[Sample], None]
"""Fills in the value of a sample that was not decoded before; raises BadMessage."""

Float64 = NDArray[np.float64]
_ROTATION = slice(len(POSITION), None)


@dataclass(frozen=True)
class Step:
    """What the policy sees of one time.

    Attributes:
        frames: The sample of each camera, decoded.
        state: (S,).
        stamps_ns: For each stream, when the oldest number that this step uses was measured: of
            the samples not later than the step's time.
    """

    frames: dict[str, Sample]
    state: Float64
    stamps_ns: dict[str, int]


@dataclass(frozen=True)
class Missing:
    """Why there is no step.

    Attributes:
        reasons: All of them.
        silent: Of streams whose messages bring some channels each, what has not come (yet).
    """

    reasons: tuple[Reason, ...]
    silent: Mapping[str, Silence] = field(default_factory=dict)

    @property
    def bad(self) -> tuple[Reason, ...]:
        """Those that are about messages that cannot be decoded."""
        return tuple(r for r in self.reasons if r.kind is ReasonKind.BAD_MESSAGE)

    @property
    def until_ns(self) -> int | None:
        """The newest time at which there may be a step, if all that is missing may still come."""
        known = [silence.until_ns for silence in self.silent.values()]
        times = [time for time in known if time is not None]
        return min(times) if len(times) == len(self.reasons) else None


@dataclass(frozen=True)
class _Gap:
    detail: str
    silence: Silence | None = None


def step_at(
    samples: Mapping[str, Sequence[Sample]],
    spec: RobotSpec,
    time_ns: int,
    readers: Mapping[str, Read],
    frames_until_ns: Mapping[str, int] | None = None,
) -> Step | Missing:
    """Sample all streams at a time; decodes only what is needed.

    Args:
        samples: Of each stream, in the order of their stamps.
        spec: The robot.
        time_ns: When. Numbers are interpolated to it, or held, as the spec says; of each camera
            the newest frame is taken that is stamped no later than this.
        readers: Decode a sample of each stream.
        frames_until_ns: For some cameras, up to when a frame may be stamped instead.
    """
    limits_ns = dict.fromkeys((part.stream for part in spec.streams), time_ns)
    limits_ns |= frames_until_ns or {}
    gaps = [
        Reason(ReasonKind.GAP, _apart(part), part.stream)
        for part in spec.streams
        if not _may_have(samples[part.stream], part, limits_ns[part.stream])
    ]
    if gaps:
        return Missing(tuple(gaps))
    reasons: list[Reason] = []
    silent: dict[str, Silence] = {}
    frames: dict[str, Sample] = {}
    stamps_ns: dict[str, int] = {}
    state = np.zeros(spec.state_dim)
    column = 0
    for part in spec.streams:
        stream = part.stream
        try:
            if isinstance(part, CameraSpec):
                frame = samples[stream][_newest(samples[stream], limits_ns[stream])]
                _read(frame, readers[stream])
                frames[stream], stamps_ns[stream] = frame, frame.stamp_ns
                continue
            found = vector_at(samples[stream], part, time_ns, readers[stream])
        except BadMessage as error:
            reasons.append(Reason(ReasonKind.BAD_MESSAGE, str(error), stream))
            continue
        if isinstance(found, _Gap):
            reasons.append(Reason(ReasonKind.GAP, found.detail, stream))
            if found.silence is not None:
                silent[stream] = found.silence
            continue
        values, stamps_ns[stream] = found
        state[column : column + len(values)] = values
        column += len(values)
    if reasons:
        return Missing(tuple(reasons), silent)
    return Step(frames, state, stamps_ns)


def vector_at(
    samples: Sequence[Sample], part: StateSpec, time_ns: int, read: Read
) -> tuple[Float64, int] | _Gap:
    """Return the numbers of one stream at a time.

    Each channel lies between its newest sample not later than the time and its oldest one after
    it, linearly (rotations along the shorter arc), or keeps the former where the spec holds it.
    Messages that bring some channels only are merged in this way.

    Returns:
        (C,) and the stamp of the oldest number that is not later than the time; or what is
        missing: samples further than `max_age_s` apart say nothing about what was between.
    """
    last = _newest(samples, time_ns)
    before, before_ns = _collect(samples, range(last, -1, -1), part, time_ns, read)
    lacking = np.isnan(before)
    if lacking.any():
        names = _names(part, lacking)
        last_ms = f'in no message of the {part.max_age_s * 1e3:.0f} ms before'
        return _Gap(f'{names}: {last_ms}', Silence(names))
    oldest_ns = int(before_ns.min())
    later = ~np.array(part.held) & (before_ns < time_ns)
    if not later.any():
        return before, oldest_ns
    after, after_ns = _collect(
        samples, range(last + 1, len(samples)), part, time_ns, read, wanted=later
    )
    lacking = later & np.isnan(after)
    if lacking.any():
        names, until_ns = _names(part, lacking), int(before_ns[lacking].min())
        # What may still come is no gap yet: then the time is only too new for these channels.
        waiting = samples[-1].stamp_ns <= until_ns + part.max_age_ns
        return _Gap(f'{names}: {_apart(part)}', Silence(names, until_ns) if waiting else None)
    far = later & (after_ns - before_ns > part.max_age_ns)
    if far.any():
        return _Gap(f'{_names(part, far)}: {_apart(part)}')
    after, after_ns = np.where(later, after, before), np.where(later, after_ns, before_ns + 1)
    weight = np.where(later, (time_ns - before_ns) / (after_ns - before_ns), 0.0)  # (C,)
    values = before + weight * (after - before)
    if part.type == POSE_STAMPED:
        values[_ROTATION] = slerp(before[_ROTATION], after[_ROTATION], float(weight[-1]))
    return values, oldest_ns


def newest_vector(samples: Sequence[Sample], part: StateSpec, read: Read) -> Float64:
    """Return each number of one stream as it came last (C,), NaN where it is missing.

    What is older than `max_age_s`, counted from the newest message, is missing.
    """
    if not samples:
        return np.full(len(part.channels), np.nan)
    backwards = range(len(samples) - 1, -1, -1)
    try:
        return _collect(samples, backwards, part, samples[-1].stamp_ns, read)[0]
    except BadMessage:  # it is counted, and the reason of the next observation
        return np.full(len(part.channels), np.nan)


def _collect(
    samples: Sequence[Sample],
    indices: Iterable[int],
    part: StateSpec,
    time_ns: int,
    read: Read,
    wanted: NDArray[np.bool_] | None = None,
) -> tuple[Float64, NDArray[np.int64]]:
    """Gather each channel's first value among some samples; NaN where none has it.

    Returns:
        (C,) values and (C,) their stamps.
    """
    values = np.full(len(part.channels), np.nan)
    stamps_ns = np.zeros(len(part.channels), dtype=np.int64)
    missing = np.ones(len(values), dtype=np.bool_) if wanted is None else wanted.copy()
    for index in indices:
        sample = samples[index]
        if abs(sample.stamp_ns - time_ns) > part.max_age_ns:
            break
        value = _read(sample, read)
        new = missing & ~np.isnan(value)
        values[new], stamps_ns[new] = value[new], sample.stamp_ns
        missing &= ~new
        if not missing.any():
            break
    return values, stamps_ns


def _read(sample: Sample, read: Read) -> NDArray[np.float64]:
    if sample.value is None:
        read(sample)
    if sample.value is None:
        raise ValueError('a reader must fill in the value, or raise BadMessage')
    return sample.value


def _may_have(samples: Sequence[Sample], part: CameraSpec | StateSpec, time_ns: int) -> bool:
    """Tell without decoding whether there can be a value at a time."""
    last = _newest(samples, time_ns)
    if last < 0 or time_ns - samples[last].stamp_ns > part.max_age_ns:
        return False
    if isinstance(part, CameraSpec) or all(part.held) or samples[last].stamp_ns == time_ns:
        return True
    if last + 1 == len(samples):
        return False
    return samples[last + 1].stamp_ns - samples[last].stamp_ns <= part.max_age_ns


def _newest(samples: Sequence[Sample], time_ns: int) -> int:
    """Return the place of the newest sample stamped no later than a time, or -1."""
    return bisect_right(samples, time_ns, key=stamp_of) - 1


def _apart(part: CameraSpec | StateSpec) -> str:
    limit = f'{part.max_age_s * 1e3:.0f} ms'
    return f'its samples near that time are missing or more than {limit} apart'


def _names(part: StateSpec, chosen: NDArray[np.bool_]) -> str:
    return ', '.join(name for name, yes in zip(part.channels, chosen, strict=True) if yes)
