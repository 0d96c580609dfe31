"""The recent messages of a bag's streams in the order of their stamps, and what was wrong."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.action_spec import CommandSource
from vqbet_ros.data.actions import Command, decode_command
from vqbet_ros.data.cdr import WITH_HEADER
from vqbet_ros.data.messages import DECODERS
from vqbet_ros.data.pictures import PICTURES, to_spec_size
from vqbet_ros.errors import BadMessage
from vqbet_ros.message_types import JOINT_STATE
from vqbet_ros.runtime.stream import decode, Sample
from vqbet_ros.spec import CameraSpec, StateSpec


@dataclass
class _Count:
    """How often one thing happened, and when first."""

    first_ns: int
    detail: str
    times: int = 0


class Problems:
    """What was wrong with a recording; like things are counted, so that memory is bounded."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._counts: dict[tuple[str, str], _Count] = {}

    def note(self, text: str) -> None:
        """Add one line."""
        self._notes.append(text)

    def count(self, stream: str, what: str, time_ns: int, detail: str = '') -> None:
        """Count one message; the first one's time and detail are kept."""
        found = self._counts.setdefault((stream, what), _Count(time_ns, detail))
        found.times += 1

    def texts(self) -> list[str]:
        """Return one line for each thing that was wrong."""
        return [
            *self._notes,
            *(
                f'{stream}: {found.times} message(s) {what}, first at {seconds(found.first_ns)}'
                + (f': {found.detail}' if found.detail else '')
                for (stream, what), found in self._counts.items()
            ),
        ]


def seconds(time_ns: int) -> str:
    """Write a time as bags and headers show it."""
    return f'{time_ns / 1e9:.3f} s'


@dataclass
class _Track:
    """Samples of one topic; of two with one stamp, the one that came first is the first.

    Attributes:
        label: Its name in reports.
        problems: Takes note of what is wrong.
        stamped: Whether its messages have a header.
        samples: In order of their stamps.
        first_ns: The smallest stamp so far, also of samples that were let go.
        newest_ns: The largest one.
    """

    label: str
    problems: Problems
    stamped: bool  # whether its messages have a header
    samples: list[Sample] = field(default_factory=list)
    first_ns: int | None = None
    newest_ns: int | None = None
    _keys: list[tuple[int, int]] = field(default_factory=list)  # (stamp, arrival) of each sample
    _repeats: bool = False  # whether several samples may bear one stamp

    def insert(self, sample: Sample, log_ns: int) -> None:
        """Put a sample where its stamp belongs."""
        key = (sample.stamp_ns, log_ns)
        index = bisect_left(self._keys, key)
        if not self._repeats:
            for near in (index - 1, index):
                if 0 <= near < len(self._keys) and self._keys[near][0] == sample.stamp_ns:
                    self.problems.count(self.label, 'repeat a stamp (dropped)', sample.stamp_ns)
                    if near == index:  # this one came before the one that is there
                        self._keys[near], self.samples[near] = key, sample
                    return
        insort(self._keys, key)
        self.samples.insert(index, sample)
        self.first_ns = min(self.first_ns or sample.stamp_ns, sample.stamp_ns)
        self.newest_ns = max(self.newest_ns or sample.stamp_ns, sample.stamp_ns)

    def next_after(self, time_ns: int) -> int | None:
        """Return the first stamp that is not before a time."""
        index = bisect_left(self._keys, (time_ns, 0))
        return self._keys[index][0] if index < len(self._keys) else None

    def remove(self, sample: Sample) -> None:
        """Let one sample go."""
        index = next(i for i, other in enumerate(self.samples) if other is sample)
        del self.samples[index], self._keys[index]

    def prune(self, before_ns: int) -> None:
        """Let go samples from before a time."""
        index = bisect_left(self._keys, (before_ns, 0))
        if index:
            del self.samples[:index], self._keys[:index]

    def clear(self) -> None:
        """Begin anew."""
        self.samples.clear()
        self._keys.clear()
        self.first_ns = self.newest_ns = None


class StreamTrack(_Track):
    """A camera or a part of the state.

    Args:
        part: The stream's part of the spec.
        problems: Takes note of what is wrong.
    """

    def __init__(self, part: CameraSpec | StateSpec, problems: Problems) -> None:
        super().__init__(
            part.stream,
            problems,
            part.type in WITH_HEADER,
            _repeats=part.type == JOINT_STATE,
        )
        self.part = part
        self._size: tuple[int, ...] | None = None

    def read(self, sample: Sample) -> None:
        """Decode a sample as the running node does; a bad one is let go and counted.

        Raises:
            BadMessage: It is not what the spec says, or not the size of the pictures before it.
        """
        try:
            decode(sample, self.part, self._decoder)
        except BadMessage as error:
            self.problems.count(self.label, 'cannot be used', sample.stamp_ns, str(error))
            self.remove(sample)
            raise

    def _decoder(self, payload: bytes, part: CameraSpec | StateSpec) -> NDArray[np.generic]:
        if not isinstance(part, CameraSpec):
            return DECODERS[part.type](payload, part)
        picture = PICTURES[part.type](payload, part)
        if self._size not in (None, picture.size):
            raise BadMessage(
                f"camera '{part.name}': the picture changed from {_size(self._size)} to "
                f'{_size(picture.size)} in the middle: record each mode in its own bag'
            )
        sized = to_spec_size(picture.pixels, part)
        self._size = picture.size
        return sized


class CommandTrack(_Track):
    """The recorded commands of one source, an arm's or a gripper's.

    Args:
        source: Says what is looked for.
        problems: Takes note of what is wrong.
    """

    def __init__(self, source: CommandSource, problems: Problems) -> None:
        super().__init__(source.label, problems, source.type in WITH_HEADER, _repeats=True)
        self.source = source
        self._decoded: dict[int, Command] = {}  # by id of the samples that are kept

    def at(self, time_ns: int) -> tuple[NDArray[np.float64], int] | str:
        """Return the command that is valid at a time.

        Returns:
            (n,) and the stamp of its oldest part; or what is missing.
        """
        values = np.full(len(self.source.channels), np.nan)
        oldest_ns = time_ns
        limit_ns = self.source.max_age_ns
        index = bisect_left(self._keys, (time_ns + 1, 0))
        for sample in reversed(self.samples[:index]):
            if limit_ns is not None and time_ns - sample.stamp_ns > limit_ns:
                break
            command = self._command(sample)
            if command is None:
                continue
            target = command.at(time_ns - sample.stamp_ns)
            new = np.isnan(values) & ~np.isnan(target)
            if new.any():
                values[new] = target[new]
                oldest_ns = sample.stamp_ns
            if not np.isnan(values).any():
                return values, oldest_ns
        names = zip(self.source.channels, np.isnan(values), strict=True)
        lacking = ', '.join(name for name, no in names if no)
        since = '' if limit_ns is None else f' in the {limit_ns / 1e6:.0f} ms before'
        return f'no command for {lacking}{since}'

    def prune(self, before_ns: int) -> None:
        """Let go commands from before a time, but for the newest that each channel needs."""
        index = bisect_left(self._keys, (before_ns, 0))
        missing = np.ones(len(self.source.channels), dtype=np.bool_)
        keep: list[int] = []
        for place in range(index - 1, -1, -1):
            command = self._command(self.samples[place])
            if command is not None and (missing & ~np.isnan(command.values[-1])).any():
                missing &= np.isnan(command.values[-1])
                keep.append(place)
            if not missing.any():
                break
        keep = [place for place in reversed(keep) if place < len(self.samples)]
        kept = [(self.samples[place], self._keys[place]) for place in keep]
        for sample in self.samples[:index]:
            self._decoded.pop(id(sample), None)
        del self.samples[:index], self._keys[:index]
        self.samples[:0] = [sample for sample, _ in kept]
        self._keys[:0] = [key for _, key in kept]

    def clear(self) -> None:
        """Begin anew."""
        super().clear()
        self._decoded.clear()

    def _command(self, sample: Sample) -> Command | None:
        if sample.problem is not None:
            return None
        if id(sample) not in self._decoded:
            try:
                self._decoded[id(sample)] = decode_command(sample.payload, self.source)
            except BadMessage as error:
                sample.problem = str(error)
                self.problems.count(self.label, 'cannot be used', sample.stamp_ns, sample.problem)
                return None
        return self._decoded[id(sample)]


def _size(height_width: Sequence[int] | None) -> str:
    return 'x'.join(map(str, reversed(height_width or ())))
