"""From a bag's messages to the frames of episodes: a fixed grid of ticks, one pass, flat memory.

What a tick sees is sampled by the functions of the running node (`runtime/sampling.py`); which
command belongs to it is said in `actions.py`.

The grid's period is 1 / rate_hz. Its phase is that of the slowest stream, as when the policy runs:
there the observation's time is nearly always the stamp of that stream's newest sample. Where a
camera's stamps tremble about the grid, the grid begins later by as much, so that each frame comes
before its tick and none is skipped or repeated.

T: ticks of a piece, S: state channels, A: action channels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.data.actions import delta
from vqbet_ros.data.bag import BagMessage
from vqbet_ros.data.cdr import header_stamp_ns
from vqbet_ros.data.tracks import CommandTrack, Problems, seconds, StreamTrack
from vqbet_ros.errors import BadBag, BadMessage, listed
from vqbet_ros.message_types import JOINT_TRAJECTORY
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime.observation import CLOCK_RESET_NS
from vqbet_ros.runtime.sampling import Missing, Step, step_at
from vqbet_ros.runtime.stream import Sample
from vqbet_ros.spec import CameraSpec, RobotSpec

__all__ = ['GapFound', 'Gaps', 'Piece', 'Problems', 'align']

Gaps = Literal['cut', 'drop', 'fail']
"""At a gap: end the episode and begin another one; drop the bag; fail."""

DISORDER_NS = CLOCK_RESET_NS
"""How much later than others of newer stamps a message may come."""

PIECE_TICKS = 64
_PHASE_NS = 2_000_000_000  # the beginning by which the grid's phase is found


class GapFound(BadBag):
    """The recording has gaps, which this dataset does not take ('drop' and 'fail')."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Consecutive ticks of one episode.

    Attributes:
        episode: Its number in this bag, from 0 on.
        stamps_ns: (T,) int64.
        state: (T, S) float32.
        action: (T, A) float32.
        images: Camera name to (T, H, W, 3) uint8 RGB.
        ages_ns: Stream to (T,) int64: how old the oldest number (or the frame) was at the tick.
        command_ages_ns: 'action' and 'gripper' to (T,) int64: how old the command was when due;
            only where commands are recorded.
        last: Whether the episode ends here.
    """

    episode: int
    stamps_ns: NDArray[np.int64]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    images: dict[str, NDArray[np.uint8]]
    ages_ns: dict[str, NDArray[np.int64]]
    command_ages_ns: dict[str, NDArray[np.int64]]
    last: bool


@dataclass(frozen=True)
class _Row:
    time_ns: int
    step: Step
    action: NDArray[np.float64]  # (A,), NaN where the next row's measured state is to come
    command_ages_ns: dict[str, int]


def align(
    messages: Iterable[BagMessage],
    spec: RobotSpec,
    *,
    gaps: Gaps = 'cut',
    problems: Problems | None = None,
) -> Iterator[Piece]:
    """Sample a bag's messages on a fixed grid.

    Messages may come in any order within a second: their stamps decide. A tick where a stream is
    missing, too old or unreadable is a gap.

    Args:
        messages: Of one bag.
        spec: Says the streams, their latencies and ages, the rate and the action.
        gaps: What a gap does.
        problems: Takes note of everything that was not as it should be.

    Raises:
        GapFound: At the end, with every gap, if there are any and `gaps` is not 'cut'.
        BadBag: There is not a single frame; says why.
    """
    alignment = _Alignment(spec, problems or Problems())
    for message in messages:
        alignment.put(message)
        yield from alignment.pieces()
    alignment.finish()
    yield from alignment.pieces()
    alignment.check(gaps)


class _Alignment:
    def __init__(self, spec: RobotSpec, problems: Problems) -> None:
        self._spec, self._problems = spec, problems
        self._streams = {part.stream: StreamTrack(part, problems) for part in spec.streams}
        self._commands = [CommandTrack(source, problems) for source in spec.action.sources]
        self._samples = {name: track.samples for name, track in self._streams.items()}
        self._readers = {name: track.read for name, track in self._streams.items()}
        self._by_topic: dict[str, list[StreamTrack | CommandTrack]] = {}
        for track in self._streams.values():
            self._by_topic.setdefault(track.part.topic, []).append(track)
        for command in self._commands:
            self._by_topic.setdefault(command.source.topic, []).append(command)
        self._all_streams = tuple(self._streams.values())
        self._period_ns = spec.period_ns
        self._lookback_ns = 2 * max(part.max_age_ns for part in spec.streams)
        self._measured = np.array(
            [-1 if (i := spec.measured(n)) is None else i for n in spec.action_names]
        )
        self._tick_ns: int | None = None  # the next tick
        self._rows: list[_Row] = []
        self._ready: list[Piece] = []
        self._episode = self._ticks = 0
        self._gap: tuple[int, int, tuple[str, ...]] | None = None  # first, last tick, why
        self._gaps: list[str] = []

    def put(self, message: BagMessage) -> None:
        """Take the next message, and make the ticks that are decided by now."""
        for track in self._by_topic.get(message.topic, ()):
            stamp_ns = self._stamp(track, message)
            if stamp_ns is None:
                continue
            newest_ns = track.newest_ns
            if newest_ns is not None and stamp_ns < newest_ns - CLOCK_RESET_NS:
                self._begin_anew(track.label, newest_ns, stamp_ns)
            if self._tick_ns is not None and stamp_ns < self._tick_ns - self._period_ns:
                self._problems.count(track.label, 'came too late', stamp_ns)
            track.insert(Sample(stamp_ns, message.payload), message.log_ns)
        newest = [t.newest_ns for t in self._all_streams if t.newest_ns is not None]
        if newest:
            self._advance(max(newest) - DISORDER_NS - self._period_ns)

    def finish(self) -> None:
        """Make the last ticks, up to where the first stream ends."""
        ends = [t.newest_ns for t in self._streams.values() if t.newest_ns is not None]
        if len(ends) == len(self._streams):
            self._advance(min(ends), at_end=True)
        self._end_gap()
        self._end_episode()

    def pieces(self) -> Iterator[Piece]:
        """Hand over what is complete."""
        ready, self._ready = self._ready, []
        yield from ready

    def check(self, gaps: Gaps) -> None:
        """Raise what is to be raised at the end."""
        if self._ticks == 0:
            raise BadBag(listed('not a single frame can be made of this bag', self._why_empty()))
        if self._gaps and gaps != 'cut':
            title = f'{len(self._gaps)} gap(s), and gaps are not taken (gaps: {gaps})'
            raise GapFound(listed(title, self._gaps))

    def _stamp(self, track: StreamTrack | CommandTrack, message: BagMessage) -> int | None:
        part = track.part if isinstance(track, StreamTrack) else track.source
        if message.type != part.type:
            detail = f'got {message.type}, expected {part.type}'
            self._problems.count(track.label, 'are of another type', message.log_ns, detail)
            return None
        try:
            stamp_ns = header_stamp_ns(message.payload, message.type)
        except BadMessage as error:
            self._problems.count(track.label, 'cannot be used', message.log_ns, str(error))
            return None
        if stamp_ns is None:
            if track.stamped and message.type != JOINT_TRAJECTORY:  # 0 there means: now
                self._problems.count(
                    track.label, 'bear no stamp (their arrival is taken)', message.log_ns
                )
            stamp_ns = message.log_ns
        # The running node refuses these too: the two clocks differ, no age can be believed.
        ahead_ns = stamp_ns - message.log_ns
        if isinstance(track, StreamTrack) and ahead_ns > track.part.max_age_ns:
            detail = f'{ahead_ns / 1e9:.3f} s after it was received: synchronise the clocks'
            self._problems.count(track.label, 'are stamped in the future', stamp_ns, detail)
            return None
        return stamp_ns - part.latency_ns

    def _begin_anew(self, label: str, newest_ns: int, stamp_ns: int) -> None:
        """Go on after a clock was set back, as a simulator does at a reset."""
        self.finish()
        self._problems.note(
            f'{label}: stamps go back from {seconds(newest_ns)} to {seconds(stamp_ns)}: '
            'the episode is cut there'
        )
        self._gaps.append(f'{label}: stamps go back to {seconds(stamp_ns)}')
        for track in (*self._streams.values(), *self._commands):
            track.clear()
        self._tick_ns = None

    def _advance(self, until_ns: int, *, at_end: bool = False) -> None:
        if self._tick_ns is None:
            begin_ns = self._first_time()
            if begin_ns is None or (begin_ns + _PHASE_NS > until_ns and not at_end):
                self._prune(until_ns if begin_ns is None else min(begin_ns, until_ns))
                return
            self._tick_ns = self._phase(begin_ns)
        before = self._tick_ns
        while self._tick_ns <= until_ns:
            missed = not self._tick(self._tick_ns)
            next_ns = self._next_possible(self._tick_ns, until_ns) if missed else 0
            self._tick_ns += self._period_ns
            if self._tick_ns < next_ns:
                self._tick_ns += -(-(next_ns - self._tick_ns) // self._period_ns) * self._period_ns
                self._lengthen_gap(self._tick_ns - self._period_ns)
        if self._tick_ns != before:
            self._prune(self._tick_ns)

    def _first_time(self) -> int | None:
        """Return the first time at which all streams have data and there is a command."""
        firsts = [track.first_ns for track in self._streams.values()]
        due = [track.first_ns for track in self._commands]
        times = [
            *firsts,
            *(None if first is None else first - self._period_ns for first in due),
        ]
        known = [time for time in times if time is not None]
        return max(known) if len(known) == len(times) else None

    def _phase(self, begin_ns: int) -> int:
        slowest = min(self._spec.streams, key=lambda part: part.rate_hz)
        period_ns = self._period_ns
        stamps = np.array([s.stamp_ns for s in self._samples[slowest.stream]], dtype=np.int64)
        stamps = stamps[(stamps >= begin_ns) & (stamps <= begin_ns + _PHASE_NS)]
        if len(stamps) == 0:
            return begin_ns
        anchor_ns = int(stamps[0])
        if not isinstance(slowest, CameraSpec):
            return anchor_ns  # interpolated: whether a sample is just before or after is the same
        off_ns = (stamps - anchor_ns + period_ns // 2) % period_ns - period_ns // 2
        near_ns = min(period_ns, round(1e9 / slowest.rate_hz)) // 4
        near = off_ns[np.abs(off_ns) <= near_ns]  # never empty: the anchor is one of them
        # Half the spread more, for those that are still to come.
        margin_ns = int(near.max()) + int(near.max() - near.min()) // 2
        return anchor_ns + min(margin_ns, near_ns)

    def _next_possible(self, time_ns: int, until_ns: int) -> int:
        """Return before when no tick can have data: a clock may jump ahead by years.

        A stream has none at a time further than its `max_age_s` before its next sample.
        """
        ends_ns = [time_ns]
        for track in self._all_streams:
            next_ns = track.next_after(time_ns - track.part.max_age_ns)
            ends_ns.append(until_ns if next_ns is None else next_ns - track.part.max_age_ns)
        return min(max(ends_ns), until_ns)

    def _tick(self, time_ns: int) -> bool:
        """Make the row of a tick; returns whether there is one."""
        found = self._step(time_ns)
        if isinstance(found, Missing):
            self._note_gap(time_ns, tuple(map(str, found.reasons)))
            return False
        action = np.full(self._spec.action_dim, np.nan)
        ages_ns: dict[str, int] = {}
        lacking = []
        for track in self._commands:
            due_ns = time_ns + self._period_ns
            command = track.at(due_ns)
            if isinstance(command, str):
                lacking.append(str(Reason(ReasonKind.GAP, command, track.label)))
                continue
            first = self._spec.action_names.index(track.source.channels[0])
            action[first : first + len(command[0])], stamp_ns = command
            ages_ns[track.label] = due_ns - stamp_ns
        if lacking:
            self._note_gap(time_ns, tuple(lacking))
            return False
        self._end_gap()
        self._add(_Row(time_ns, found, action, ages_ns))
        return True

    def _step(self, time_ns: int) -> Step | Missing:
        while True:
            step = step_at(self._samples, self._spec, time_ns, self._readers)
            # A message that cannot be decoded is gone now; there may be others that do as well.
            if isinstance(step, Step) or not step.bad:
                return step

    def _add(self, row: _Row) -> None:
        if self._rows and np.isnan(self._rows[-1].action).any():
            before = self._rows[-1]
            measured = row.step.state[self._measured]
            action = np.where(np.isnan(before.action), measured, before.action)
            self._rows[-1] = replace(before, action=action)
        self._rows.append(row)
        # Two rows stay: the last may have no action, and the one before it ends the episode then.
        if len(self._rows) > PIECE_TICKS + 1:
            self._emit(PIECE_TICKS, last=False)

    def _end_episode(self) -> None:
        if self._rows and np.isnan(self._rows[-1].action).any():
            self._rows.pop()  # nobody knows what came next
        if self._rows:
            self._emit(len(self._rows), last=True)
            self._episode += 1

    def _emit(self, count: int, *, last: bool) -> None:
        rows, self._rows = self._rows[:count], self._rows[count:]
        self._ticks += count
        times = np.array([row.time_ns for row in rows], dtype=np.int64)
        self._ready.append(
            Piece(
                episode=self._episode,
                stamps_ns=times,
                state=np.array([row.step.state for row in rows]).astype(np.float32),
                action=np.array([self._relative(row) for row in rows]).astype(np.float32),
                images={
                    camera.name: np.stack([_image(row.step, camera.name) for row in rows])
                    for camera in self._spec.cameras
                },
                ages_ns={
                    name: times - np.array([row.step.stamps_ns[name] for row in rows])
                    for name in self._streams
                },
                command_ages_ns={
                    track.label: np.array([row.command_ages_ns[track.label] for row in rows])
                    for track in self._commands
                },
                last=last,
            )
        )

    def _relative(self, row: _Row) -> NDArray[np.float64]:
        action = self._spec.action
        if action.reference == 'absolute':
            return row.action
        size = len(action.arm_channels)
        measured = row.step.state[self._measured[:size]]
        arm = delta(row.action[:size], measured, pose=action.kind == 'pose')
        return np.concatenate([arm, row.action[size:]])

    def _note_gap(self, time_ns: int, reasons: tuple[str, ...]) -> None:
        if self._gap is None:
            self._end_episode()
            self._gap = time_ns, time_ns, reasons
        self._lengthen_gap(time_ns)

    def _lengthen_gap(self, last_ns: int) -> None:
        if self._gap is not None:
            first_ns, _, reasons = self._gap
            self._gap = first_ns, last_ns, reasons

    def _end_gap(self) -> None:
        if self._gap is not None:
            first, last, reasons = self._gap
            text = f'gap from {seconds(first)} to {seconds(last)}: {"; ".join(reasons)}'
            self._gaps.append(text)
            self._problems.note(text)
            self._gap = None

    def _prune(self, before_ns: int) -> None:
        for track in self._streams.values():
            track.prune(before_ns - self._lookback_ns)
        for command in self._commands:
            command.prune(before_ns)

    def _why_empty(self) -> list[str]:
        lines = self._problems.texts()
        for track in (*self._streams.values(), *self._commands):
            if track.first_ns is None or track.newest_ns is None:
                lines.append(f'{track.label}: no message that can be used')
            else:
                span = f'{seconds(track.first_ns)} to {seconds(track.newest_ns)}'
                lines.append(f'{track.label}: messages from {span}')
        return lines


def _image(step: Step, camera: str) -> NDArray[np.uint8]:
    value = step.frames[camera].value
    if value is None:
        raise ValueError('a frame of a step is decoded')
    return value
