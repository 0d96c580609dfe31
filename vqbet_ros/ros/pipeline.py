"""From stored messages to commands: the inference thread and the control thread.

    executor ─put─► buffer ─► inference thread ─chunk─► supervisor ─► control thread ─► command

Not a node: what it sends and the clock that it reads are given to it.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
from dataclasses import dataclass, field
import math
import threading
import time
import traceback
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.ros.inference import Inference, PolicyEngine
from vqbet_ros.runtime.axis import LEAST_TICK
from vqbet_ros.runtime.deadlines import Deadlines
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime.measured import Measured
from vqbet_ros.runtime.monitors import Figures, Monitors
from vqbet_ros.runtime.observation import ObservationBuffer
from vqbet_ros.runtime.pacing import stamp_jitter_ns, TICK_MARGIN
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.runtime.statistics import Samples
from vqbet_ros.runtime.stream import Decoder
from vqbet_ros.runtime.supervisor import Command, Hold, State, Supervisor
from vqbet_ros.runtime.trust import Same
from vqbet_ros.runtime.watch import Facts
from vqbet_ros.spec import RobotSpec

LONGEST_STOP_S = 1.5
"""A node that is told to end gives its robot so long to come to rest."""


_LEAST_REST = 0.1  # of a period, between two ticks
_STANDS_S = 1.0  # simulated time may come in steps
_ALIGNMENTS = 2  # the first plan of a run takes longer than those that follow


class Outputs(Protocol):
    """Where the pipeline's results go; called from its threads."""

    def command(self, values: NDArray[np.float64]) -> None:
        """Send (A,) to the robot."""

    def follow(self, values: NDArray[np.float64], course: Chunk | None) -> None:
        """Let the arm follow a course, sent once when it is not None; the gripper takes (A,)."""

    def rest(self) -> None:
        """End what was sent and would move the robot on: nothing follows."""

    def plan(self, chunk: Chunk) -> None:
        """Show the chunk that is executed from now on."""

    def changed(self) -> None:
        """Show that state or reasons have changed."""

    def failed(self, text: str) -> None:
        """Log an unexpected error, with its traceback."""

    def alive(self) -> bool:
        """Tell whether sending is still possible."""


@dataclass
class RunStatistics:
    """What was measured since the last enabling; times in ms."""

    control: Deadlines
    latency_ms: Samples = field(default_factory=Samples)


class Pipeline:
    """Owns the buffer, the supervisor and both threads of one active policy.

    Args:
        engine: The policy; called from the inference thread only.
        spec: The robot.
        decoders: By message type; see vqbet_ros.data.messages.
        same: Compares pictures; see ObservationBuffer.
        control_rate_hz: Rate of the control thread.
        plan_every: Steps of a plan that are executed before the next one is made; 0 for all but
            the last, which is in reserve while the next plan is made.
        clock: The time in ns, of the same clock as the stamps.
        steady: A clock that never jumps; None where time is simulated.
        courses: Whether the arm is sent whole courses, not single commands.
        outputs: Takes the results.

    Attributes:
        foreign_publishers: Who else commands the robot; set by who can see it.
        controller: Why nobody takes the commands, if so.
        recent: The last changes of state and reasons, newest last: time in ns, text.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        spec: RobotSpec,
        *,
        decoders: Mapping[str, Decoder],
        same: Same | None = None,
        control_rate_hz: float,
        plan_every: int = 0,
        clock: Callable[[], int],
        steady: Callable[[], int] | None = time.monotonic_ns,
        courses: bool = False,
        outputs: Outputs,
    ) -> None:
        settings = dataclasses.replace(spec.runtime, control_rate_hz=control_rate_hz)
        self.spec = spec
        self.supervisor = Supervisor(spec, settings)
        self.buffer = ObservationBuffer(
            spec,
            decoders,
            engine.history,
            jitter_ns=stamp_jitter_ns(spec),
            gate=spec.runtime.gate,
            same=same,
        )
        self.monitors = Monitors(spec.action_names, settings.monitors)
        self.inference = Inference(
            engine,
            spec,
            self.buffer,
            self.supervisor,
            plan_every=plan_every,
            clock=clock,
            planned=self._planned,
            failed=lambda error, text: self._fail('inference', error, text),
        )
        self.control_period_ns = round(1e9 / control_rate_hz)
        self.foreign_publishers: tuple[str, ...] = ()
        self.controller = ''
        self.recent: deque[tuple[int, str]] = deque(maxlen=5)
        self.statistics = self._new_statistics()
        self._clips_before = self.supervisor.clips
        self._measured = Measured(spec)
        self._clock, self._steady = clock, steady
        self._courses = courses
        self._outputs = outputs
        self._tick_lock = threading.Lock()  # deciding and sending are one step
        self._stop = threading.Event()
        self._wake = threading.Event()  # the control thread's deadlines have changed
        self._idle = threading.Event()  # nothing is sent any more
        self._deadlines = self.statistics.control  # of the next tick
        self._aligned = 0  # how many plans the ticks have followed
        self._tick_ns: int | None = None  # when the last tick was
        self._clock_ns: int | None = None  # what simulated time was seen last
        self._moved_s = math.inf  # when it was last seen to go on, by a clock that does
        self._ending = False
        self._latency_of_ns = 0  # the observation whose latency is already counted
        self._outcome: Command | Hold | None = None
        self._sent: NDArray[np.float64] | None = None
        self._rests = False  # it was sent twice
        self._course: tuple[int, float] | None = None  # its observation, and the speed scale
        self._failure = ''  # logged last
        self._thread: threading.Thread | None = None

    @property
    def threads(self) -> list[int]:
        """The system's ids of the control and the inference thread, while they are there."""
        threads = (self._thread, self.inference.thread)
        return [thread.native_id for thread in threads if thread is not None and thread.native_id]

    def start(self) -> None:
        """Start both threads; nothing is sent before `enable`."""
        self._stop.clear()
        self._wake.clear()
        self._ending = False
        self._idle.set()
        self._moved_s = time.monotonic()
        self._deadlines = self._new_statistics().control
        self._thread = threading.Thread(target=self._control_forever, name='control', daemon=True)
        self.inference.start()
        self._thread.start()

    def stop(self) -> None:
        """Bring the robot to rest, then end both threads; safe to call twice."""
        if self._thread is None:
            return
        self._ending = True
        self._idle.clear()
        self.supervisor.disarm('the node ends or is deactivated')
        if self._outputs.alive() and not self._idle.wait(LONGEST_STOP_S):
            self._outputs.failed(
                f'the robot was not at rest after {LONGEST_STOP_S} s: nothing more is sent, and '
                'what it does now is up to its controller'
            )
        self.supervisor.disable()
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._thread = None
        if not self.inference.stop():
            self._outputs.failed('the inference thread does not end: the policy hangs')

    def put(self, stream: str, stamp_ns: int | None, receive_ns: int, payload: bytes) -> None:
        """Store one message; see ObservationBuffer.put."""
        if self.buffer.put(stream, stamp_ns, receive_ns, payload):
            self.inference.wake()

    # What the operator does

    def enable(self, *, require_streams: bool = True) -> list[Reason]:
        """Arm: commands begin with the first chunk made of observations from now on.

        Args:
            require_streams: Refuse while a stream is missing or stale.

        Returns:
            Why not; empty when armed.
        """
        now_ns = self._clock()
        with self._tick_lock:
            # Of a check that is broken nothing is known.
            broken = (ReasonKind.FAULT,)
            reasons = [r for r in self.check(now_ns) if require_streams or r.kind in broken]
            reasons += [r for r in self.supervisor.refusals(now_ns) if r not in reasons]
            if reasons:
                return reasons
            measured = self.measured()
            # In this order: a plan of the new epoch must not see what was before.
            self._begin(now_ns)
            self.supervisor.enable(now_ns, measured)
        self._outputs.changed()
        return []

    def disarm(self, detail: str = '') -> None:
        """Let the control thread bring the robot to rest, and disarm it then."""
        self.supervisor.disarm(detail)

    def deadman(self, pressed: bool) -> None:
        """Note a message of the deadman switch; pressing it anew enables, if it is in use."""
        if self.supervisor.deadman(pressed, self._clock()):
            self.enable(require_streams=False)

    def estop(self, pressed: bool) -> None:
        """Note the emergency stop."""
        self.supervisor.estop(pressed)
        if pressed:
            self._outputs.changed()

    def clear_fault(self) -> list[Reason]:
        """Leave a fault, disarmed then; return what of its causes is still there."""
        causes, self._failure = self.supervisor.reset(), ''
        self._outputs.changed()
        return causes

    def goal_changed(self) -> None:
        """Let nothing count that was planned for another goal; call it with the lock held."""
        self.supervisor.discard()
        self.inference.wake()

    # What is to be seen

    def situation(self) -> tuple[State, tuple[Reason, ...]]:
        """Return the state and the reasons for it; of a robot that moves, the warnings."""
        with self._tick_lock:
            state, outcome = self.supervisor.state, self._outcome
            of = None if outcome is None else _state(outcome)
            if of is not state and state in (State.DISARMED, State.FAULT):
                outcome = self.supervisor.look(self.check(self._clock()))
            reasons = () if outcome is None else outcome.reasons
            if self._steady is None and time.monotonic() - self._moved_s > _STANDS_S:
                detail = 'no commands, and nothing else, until /clock goes on'
                reasons = (Reason(ReasonKind.CLOCK_STANDS, detail), *reasons)
            return state, reasons

    def check(self, now_ns: int) -> list[Reason]:
        """Say what of the streams forbids commands; that it cannot be said is a fault."""
        try:
            return self.buffer.check(now_ns)
        except Exception as error:
            return [self._broken('check', error)]

    def clips(self) -> dict[tuple[str, str], int]:
        """Return, for each joint and limit, the commands changed since the last enabling."""
        before = self._clips_before
        return {
            key: count - before.get(key, 0)
            for key, count in self.supervisor.clips.items()
            if count > before.get(key, 0)
        }

    def figures(self) -> Figures:
        """Return what the monitors' window holds now."""
        with self._tick_lock:
            return self.monitors.figures(self._clock())

    def measured(self) -> NDArray[np.float64]:
        """Return where the robot is (A,), NaN where that is not known, or was too long ago."""
        ages_ns, state = self.buffer.ages_ns(self._clock()), self.buffer.newest_state()
        old = [
            (ages_ns[part.stream] or 0) > part.max_age_ns
            for part in self.spec.state
            for _ in part.channels
        ]
        return self._measured.of(np.where(old, np.nan, state))

    # The control thread

    def _control_forever(self) -> None:
        # This thread may go before all others: also where its ticks take longer than their
        # period it has to leave them something.
        least_ns = round(_LEAST_REST * self.control_period_ns)
        while not self._stop.is_set():
            deadlines = self._deadlines
            wait_ns = max(deadlines.wait_ns(time.monotonic_ns()), least_ns)
            if self._wake.wait(wait_ns / 1e9):
                self._wake.clear()
                continue
            try:
                self.tick(deadlines)
            except Exception as error:
                self._fail('control', error, traceback.format_exc())

    def tick(self, deadlines: Deadlines | None = None) -> None:
        """Decide and send once; the control thread does at each deadline.

        Args:
            deadlines: Whose tick it is: nothing happens where others have taken their place.
        """
        with self._tick_lock:
            if self._stop.is_set() or deadlines not in (None, self._deadlines):
                return
            # The figures are those of the time when the robot is commanded.
            self._deadlines.tick(time.monotonic_ns(), counted=not self._idle.is_set())
            now_ns = self._clock()
            if self._is_early(now_ns):
                return
            self._tick_ns = now_ns
            outcome = self.supervisor.tick(now_ns, *self._known(now_ns))
            if any(reason.kind is ReasonKind.CLOCK_JUMP for reason in outcome.reasons):
                # In this order: a plan that counts must not see what was before.
                self.buffer.forget()
                self.supervisor.discard()
            before, self._outcome = self._outcome, outcome
            self._send(now_ns, outcome)
        if _kind(before) != _kind(outcome):
            why = '; '.join(map(str, outcome.reasons))
            self.recent.append((now_ns, f'{_state(outcome).value}: {why}' if why else 'running'))
            self._outputs.changed()

    def _is_early(self, now_ns: int) -> bool:
        """Tell whether simulated time has gone on by less than what counts as a tick.

        Where it stands still so does the robot, unless it is to stop; where it is slow, each tick
        would be a longer step than its time allows.
        """
        if self._steady is not None:
            return False
        if now_ns != self._clock_ns:
            self._clock_ns, self._moved_s = now_ns, time.monotonic()
        if self._tick_ns is None or self._ending or self.supervisor.stopping:
            return False
        return 0 <= now_ns - self._tick_ns < LEAST_TICK * self.control_period_ns

    def _known(self, now_ns: int) -> tuple[list[Reason], Facts]:
        """Return what the supervisor is told; an error is told too, so that it stops the robot."""
        try:
            return self.check(now_ns), self._facts(now_ns)
        except Exception as error:
            steady_ns = None if self._steady is None else self._steady()
            return [self._broken('control', error)], Facts(steady_ns=steady_ns)

    def _facts(self, now_ns: int) -> Facts:
        return Facts(
            measured=self.measured(),
            steady_ns=None if self._steady is None else self._steady(),
            inference_since_ns=self.inference.since_ns,
            inference_alive=self.inference.alive,
            foreign_publishers=self.foreign_publishers,
            course=self._course is not None,
            controller=self.controller,
            monitors=self.monitors.findings(now_ns),
        )

    def _send(self, now_ns: int, outcome: Command | Hold) -> None:
        values = outcome.values
        if isinstance(outcome, Command):
            self._idle.clear()
            self._rests = False
            self._command(now_ns, outcome)
        elif values is None:
            if self._sent is not None:
                self._outputs.rest()  # an emergency stop comes while the robot moves
            self._course = None
            self._idle.set()
        else:
            self._idle.clear()
            self._course = None
            # A robot that stands needs not be told again and again to stand; but once more, since
            # what it was told first may have been to pass there.
            same = self._sent is not None and np.array_equal(values, self._sent)
            if not (same and self._rests):
                self._outputs.command(values)
            self._rests = same
        self._sent = values

    def _command(self, now_ns: int, command: Command) -> None:
        self.monitors.command(now_ns, command.values)
        course = None
        # At another scale the commands leave the course that was sent.
        key = command.t_obs_ns, self.supervisor.speed_scale
        if self._courses and key != self._course:
            course = self.supervisor.preview(now_ns)
            self._course = key
        if self._courses:
            self._outputs.follow(command.values, course)
        else:
            self._outputs.command(command.values)
        if command.t_obs_ns != self._latency_of_ns:
            self._latency_of_ns = command.t_obs_ns
            self.statistics.latency_ms.add((self._clock() - command.t_obs_ns) / 1e6)

    def _planned(self, chunk: Chunk) -> None:
        """Show a chunk; ticks follow plans, since a chance phase would delay every command."""
        with self._tick_lock:
            self.monitors.plan(self._clock(), chunk.confidence)
            if self._aligned < _ALIGNMENTS:
                self._aligned += 1
                start_ns = time.monotonic_ns() + round(TICK_MARGIN * self.control_period_ns)
                self.statistics.control = Deadlines(start_ns, self.control_period_ns)
                self._deadlines = self.statistics.control
                self._wake.set()
        self._outputs.plan(chunk)

    def _begin(self, now_ns: int) -> None:
        """Forget what was before the robot is enabled."""
        self.buffer.reset_history(now_ns)
        self.monitors.reset()
        self.inference.reset_statistics()
        # Of the same deadlines: whoever enables again and again must not put off every tick.
        next_ns = self._deadlines.next_ns
        self.statistics = RunStatistics(Deadlines(next_ns, self.control_period_ns))
        self._deadlines = self.statistics.control
        self._wake.set()
        self._clips_before = self.supervisor.clips
        self._outcome, self._tick_ns, self._aligned = None, None, 0
        self._failure = ''

    def _new_statistics(self) -> RunStatistics:
        start_ns = time.monotonic_ns() + self.control_period_ns
        return RunStatistics(Deadlines(start_ns, self.control_period_ns))

    def _fail(self, thread: str, error: Exception, text: str) -> None:
        """Latch a fault: the robot is stopped until somebody clears it."""
        if self._stop.is_set() or not self._outputs.alive():
            return  # sending fails once the program is shutting down
        detail = _short(thread, error)
        self.supervisor.fault(detail)
        # Where even that cannot be told, the thread has to go on: it stops the robot.
        with contextlib.suppress(Exception):
            self._log(detail, f'the {thread} thread failed:\n{text}')
            self._outputs.changed()

    def _broken(self, what: str, error: Exception) -> Reason:
        """Return the error that is being handled as a reason."""
        detail = _short(what, error)
        self._log(detail, f'the {what} failed:\n{traceback.format_exc()}')
        return Reason(ReasonKind.FAULT, detail)

    def _log(self, failure: str, text: str) -> None:
        """Log a failure once, however often it comes, until somebody clears or enables."""
        if failure != self._failure:
            self._failure = failure
            self._outputs.failed(text)


def _short(what: str, error: Exception) -> str:
    return f'{what}: {type(error).__name__}: {error}'


def _state(outcome: Command | Hold) -> State:
    return outcome.state if isinstance(outcome, Hold) else State.RUNNING


def _kind(outcome: Command | Hold | None) -> object:
    """Reduce an outcome to what is worth telling at once; ages change with every tick."""
    return outcome and (_state(outcome), _kinds(outcome.reasons))


def _kinds(reasons: Sequence[Reason]) -> tuple[object, ...]:
    return tuple((reason.kind, reason.stream) for reason in reasons)
