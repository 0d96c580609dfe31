"""From stored messages to commands: the inference thread and the control thread.

    executor ─put─► buffer ─► inference thread ─chunk─► supervisor ─► control thread ─► command

Not a node: what it sends and the clock that it reads are given to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import threading
import time
import traceback
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.deadlines import Deadlines
from vqbet_ros.runtime.gate import Reason
from vqbet_ros.runtime.observation import Observation, ObservationBuffer
from vqbet_ros.runtime.pacing import Pacing, stamp_jitter_ns, TICK_MARGIN
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.runtime.statistics import Samples
from vqbet_ros.runtime.stream import Decoder
from vqbet_ros.runtime.supervisor import Command, Hold, State, Supervisor
from vqbet_ros.spec import RobotSpec


class PolicyEngine(Protocol):
    """What the pipeline asks of a policy; see vqbet_ros.policy.engine.Engine."""

    @property
    def history(self) -> int:
        """Steps of an observation."""

    @property
    def chunk(self) -> int:
        """Steps W of a plan."""

    def reset(self) -> None:
        """Forget what was cached of earlier observations."""

    def plan(self, observation: Observation) -> Any:
        """Return `actions` (W, A) in the robot's units, and `confidence`."""


class Outputs(Protocol):
    """Where the pipeline's results go; called from its threads."""

    def command(self, values: NDArray[np.float64]) -> None:
        """Send (A,) positions to the robot."""

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
    inference_ms: Samples = field(default_factory=Samples)
    latency_ms: Samples = field(default_factory=Samples)
    confidence: float = float('nan')


class Pipeline:
    """Owns the buffer, the supervisor and both threads of one active policy.

    Args:
        engine: The policy; called from the inference thread only.
        spec: The robot.
        decoders: By message type; see vqbet_ros.data.messages.
        control_rate_hz: Rate of the control thread.
        plan_every: Steps of a plan that are executed before the next one is made; 0 for all but
            the last, which is in reserve while the next plan is made.
        clock: The time in ns, of the same clock as the stamps.
        outputs: Takes the results.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        spec: RobotSpec,
        *,
        decoders: Mapping[str, Decoder],
        control_rate_hz: float,
        plan_every: int = 0,
        clock: Callable[[], int],
        outputs: Outputs,
    ) -> None:
        self.spec = spec
        self.supervisor = Supervisor(spec)
        self.buffer = ObservationBuffer(
            spec, decoders, engine.history, jitter_ns=stamp_jitter_ns(spec)
        )
        self.engine_lock = threading.Lock()
        self.control_period_ns = round(1e9 / control_rate_hz)
        self.statistics = self._new_statistics()
        self._clamped_before = self.supervisor.clamped
        self._engine = engine
        self._pacing = Pacing(spec, engine.chunk, plan_every)
        self._clock = clock
        self._outputs = outputs
        self._tick_lock = threading.Lock()  # deciding and sending are one step
        self._armed = threading.Event()
        self._data = threading.Event()
        self._stop = threading.Event()
        self._wake = threading.Event()  # the control thread's deadlines have changed
        self._latency_of_ns = 0  # the observation whose latency is already counted
        self._outcome: Command | Hold | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start both threads; nothing is sent before `enable`."""
        self._stop.clear()
        self._threads = [
            threading.Thread(target=self._infer_forever, name='inference', daemon=True),
            threading.Thread(target=self._control_forever, name='control', daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing from now on, and end both threads; safe to call twice."""
        self.disable()
        self._stop.set()
        self._data.set()
        self._armed.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._armed.clear()

    def put(self, stream: str, stamp_ns: int | None, receive_ns: int, payload: bytes) -> None:
        """Store one message; see ObservationBuffer.put."""
        if self.buffer.put(stream, stamp_ns, receive_ns, payload):
            self._data.set()

    def enable(self, *, require_streams: bool = True) -> list[Reason]:
        """Arm: commands begin with the first chunk made of observations from now on.

        Args:
            require_streams: Refuse while a stream is missing or stale.

        Returns:
            Why not; empty when armed.
        """
        now_ns = self._clock()
        with self._tick_lock:
            reasons = self.buffer.check(now_ns) if require_streams else []
            if self.supervisor.state is State.FAULT:
                fault = self.supervisor.look(reasons)
                reasons = list(fault.reasons) if fault is not None else []
            if reasons:
                return reasons
            # In this order: a plan of the new epoch must not see what was before.
            self.buffer.reset_history(now_ns)
            self.statistics = self._new_statistics()
            self._clamped_before = self.supervisor.clamped
            self.supervisor.enable(now_ns)
            self._outcome = None
            self._armed.set()
        self._outputs.changed()
        return []

    def disable(self) -> None:
        """Disarm; nothing is sent once this returns."""
        with self._tick_lock:
            self.supervisor.disable()
            self._armed.clear()
        if self._outputs.alive():
            self._outputs.changed()

    def clear_fault(self) -> None:
        """Leave a fault; disarmed then."""
        self.supervisor.reset()
        self._outputs.changed()

    def situation(self) -> tuple[State, tuple[Reason, ...]]:
        """Return the state and, unless the robot is commanded, the reasons for it."""
        now_ns = self._clock()
        with self._tick_lock:
            state, outcome = self.supervisor.state, self._outcome
            if state in (State.DISARMED, State.FAULT):
                outcome = self.supervisor.look(self.buffer.check(now_ns))
            if outcome is None:
                return state, tuple(self.buffer.check(now_ns))
            return state, outcome.reasons if isinstance(outcome, Hold) else ()

    def clamped(self) -> dict[str, int]:
        """Return, for each joint, how many commands were clamped since the last enabling."""
        return {
            name: count - self._clamped_before[name]
            for name, count in self.supervisor.clamped.items()
        }

    def _new_statistics(self) -> RunStatistics:
        start_ns = time.monotonic_ns() + self.control_period_ns
        return RunStatistics(Deadlines(start_ns, self.control_period_ns))

    def _infer_forever(self) -> None:
        while not self._stop.is_set():
            self._data.wait()
            self._data.clear()
            try:
                self._infer_once()
            except Exception as error:
                self._fail('inference', error)

    def _infer_once(self) -> None:
        """Plan if there is an observation that is new enough."""
        epoch, now_ns = self.supervisor.epoch, self._clock()
        if self._stop.is_set() or not self._armed.is_set() or not self._is_due(epoch, now_ns):
            return
        observation = self.buffer.observe(now_ns, self._engine.history)
        if isinstance(observation, list) or not self._pacing.is_new(epoch, observation.stamp_ns):
            return  # the control thread reports what is missing
        statistics = self.statistics
        with self.engine_lock:
            if self._pacing.is_first(epoch):
                self._engine.reset()
            started_ns = time.perf_counter_ns()
            output = self._engine.plan(observation)
            statistics.inference_ms.add((time.perf_counter_ns() - started_ns) / 1e6)
        is_first = self._pacing.is_first(epoch)
        self._pacing.note(epoch, observation.stamp_ns)
        statistics.confidence = float(output.confidence)
        chunk = Chunk(
            t_obs_ns=observation.stamp_ns,
            actions=output.actions,
            period_ns=self.spec.period_ns,
            confidence=statistics.confidence,
            epoch=epoch,
        )
        if self.supervisor.accept(chunk) is None:
            if is_first:
                self._align_ticks(statistics)
            self._outputs.plan(chunk)

    def _align_ticks(self, statistics: RunStatistics) -> None:
        """Let ticks follow plans: a chance phase would delay every command by up to a period."""
        start_ns = time.monotonic_ns() + round(TICK_MARGIN * self.control_period_ns)
        with self._tick_lock:
            statistics.control = Deadlines(start_ns, self.control_period_ns)
        self._wake.set()

    def _is_due(self, epoch: int, now_ns: int) -> bool:
        planned = self.supervisor.chunk is not None
        return self._pacing.is_due(now_ns, self.buffer.ages_ns(now_ns), epoch, planned=planned)

    def _control_forever(self) -> None:
        while True:
            self._armed.wait()
            if self._stop.is_set():
                return
            deadlines = self.statistics.control
            if self._wake.wait(deadlines.wait_ns(time.monotonic_ns()) / 1e9):
                self._wake.clear()
                continue
            try:
                self._tick(deadlines)
            except Exception as error:
                self._fail('control', error)

    def _tick(self, deadlines: Deadlines) -> None:
        with self._tick_lock:
            if not self._armed.is_set() or deadlines is not self.statistics.control:
                return
            deadlines.tick(time.monotonic_ns())
            now_ns = self._clock()
            outcome = self.supervisor.tick(now_ns, self.buffer.check(now_ns))
            if isinstance(outcome, Command):
                self._outputs.command(outcome.values)
                if outcome.t_obs_ns != self._latency_of_ns:
                    self._latency_of_ns = outcome.t_obs_ns
                    self.statistics.latency_ms.add((self._clock() - outcome.t_obs_ns) / 1e6)
            before, self._outcome = self._outcome, outcome
        if _kind(before) != _kind(outcome):
            self._outputs.changed()

    def _fail(self, thread: str, error: Exception) -> None:
        """Latch a fault: nothing is sent until somebody clears it."""
        if self._stop.is_set() or not self._outputs.alive():
            return  # sending fails once the program is shutting down
        self.supervisor.fault(f'{thread}: {type(error).__name__}: {error}')
        self._armed.clear()
        self._outputs.failed(f'the {thread} thread failed:\n{traceback.format_exc()}')
        self._outputs.changed()


def _kind(outcome: Command | Hold | None) -> object:
    """Reduce an outcome to what is worth telling at once; ages change with every tick."""
    if isinstance(outcome, Hold):
        return outcome.state, tuple((reason.kind, reason.stream) for reason in outcome.reasons)
    return outcome is not None
