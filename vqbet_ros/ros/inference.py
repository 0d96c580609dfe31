"""The thread that asks the policy: the newest observation in, a chunk for the supervisor out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import threading
import time
import traceback
from typing import Any, Protocol

from vqbet_ros.runtime.observation import Observation, ObservationBuffer
from vqbet_ros.runtime.pacing import Pacing
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.runtime.statistics import Samples
from vqbet_ros.runtime.supervisor import State, Supervisor
from vqbet_ros.spec import RobotSpec

_JOIN_S = 0.4  # an inference that hangs must not hang its owner


class PolicyEngine(Protocol):
    """What is asked of a policy; see vqbet_ros.policy.engine.Engine."""

    @property
    def history(self) -> int:
        """Steps of an observation."""

    @property
    def chunk(self) -> int:
        """Steps W of a plan."""

    def reset(self) -> None:
        """Forget what was cached of earlier observations."""

    def close(self) -> None:
        """End, whatever it is doing; safe to call twice."""

    def look(self, observation: Observation) -> None:
        """Prepare for plans that have this observation's steps in their history."""

    def plan(
        self, observation: Observation, *, running: int | None = None, hysteresis: float = 0.0
    ) -> Any:
        """Return `actions` (W, A) in the robot's units, `codes` (G,) and `confidence`."""


class Inference:
    """Plans as often as the pacing says, in a thread of its own.

    Args:
        engine: The policy; called from this thread, or by who holds `lock`.
        spec: The robot.
        buffer: Where observations come from.
        supervisor: Takes the chunks.
        plan_every: See Pacing.
        clock: The time in ns, of the same clock as the stamps.
        planned: Called with every chunk that was taken.
        failed: Called with what an error of the policy says, and its traceback.

    Attributes:
        lock: Held while the policy decides.
        since_ns: When the inference that is running began; None while none is.
        inference_ms: How long the policy took.
        decode_ms: How long it took to make observations for it.
        confidence: Of the last decision.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        spec: RobotSpec,
        buffer: ObservationBuffer,
        supervisor: Supervisor,
        *,
        plan_every: int,
        clock: Callable[[], int],
        planned: Callable[[Chunk], None],
        failed: Callable[[Exception, str], None],
    ) -> None:
        self.lock = threading.Lock()
        self.since_ns: int | None = None
        self._engine, self._spec, self._buffer = engine, spec, buffer
        self._supervisor = supervisor
        self._pacing = Pacing(spec, engine.chunk, engine.history, plan_every)
        self._stays = spec.runtime.blend.kind == 'mode'
        self._clock, self._planned, self._failed = clock, planned, failed
        self._data = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._began_ns = -1  # of the run that the engine's cache belongs to
        self.reset_statistics()

    @property
    def thread(self) -> threading.Thread | None:
        """The thread, once it was started and until it has ended."""
        return self._thread

    @property
    def alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        # Its own event: a policy that hung at `stop` must not come back as a second thread.
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._forever, args=(self._stop,), name='inference', daemon=True
        )
        self._thread.start()

    def stop(self) -> bool:
        """End the thread; False if the policy does not come back."""
        self._stop.set()
        self._data.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
        ended = not self.alive
        if ended:
            self._thread = None
        return ended

    def wake(self) -> None:
        """Look whether the policy is to be asked: there is new data."""
        self._data.set()

    def reset_statistics(self) -> None:
        """Measure anew."""
        self.inference_ms, self.decode_ms = Samples(), Samples()
        self.confidence = float('nan')

    def _forever(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._data.wait()
            self._data.clear()
            try:
                self._once(stop)
            except Exception as error:
                if not stop.is_set():
                    self._failed(error, traceback.format_exc())

    def _once(self, stop: threading.Event) -> None:
        """Plan if there is an observation that is new enough, or prepare for the next plan."""
        epoch, now_ns = self._supervisor.epoch, self._clock()
        if stop.is_set() or self._supervisor.state in (State.DISARMED, State.FAULT):
            return
        running = self._supervisor.chunk
        ages_ns = self._buffer.ages_ns(now_ns)
        due = self._pacing.is_due(now_ns, ages_ns, epoch, planned=running is not None)
        if not due and not self._pacing.is_ahead(now_ns, ages_ns):
            return
        started_ns = time.perf_counter_ns()
        observation = self._buffer.observe(now_ns, self._engine.history)
        if isinstance(observation, list) or not self._pacing.is_new(epoch, observation.stamp_ns):
            return  # the control thread reports what is missing
        self.decode_ms.add((time.perf_counter_ns() - started_ns) / 1e6)
        if not due:
            with self._asking():
                self._engine.look(observation)
            self._pacing.note_look(observation.stamp_ns)
            return
        output = self._ask(observation, running)
        if stop.is_set():
            return
        self._pacing.note(epoch, observation.stamp_ns)
        self.confidence = float(output.confidence)
        chunk = Chunk(
            t_obs_ns=observation.stamp_ns,
            actions=output.actions,
            period_ns=self._spec.period_ns,
            confidence=self.confidence,
            epoch=epoch,
            codes=tuple(int(code) for code in output.codes),
        )
        if self._supervisor.accept(chunk) is None:
            self._planned(chunk)

    def _ask(self, observation: Observation, running: Chunk | None) -> Any:
        more: dict[str, Any] = {}
        if self._stays and running is not None:
            hysteresis = self._spec.runtime.blend.hysteresis
            more = {'running': running.primary, 'hysteresis': hysteresis}
        with self._asking():
            started_ns = time.perf_counter_ns()
            output = self._engine.plan(observation, **more)
            self.inference_ms.add((time.perf_counter_ns() - started_ns) / 1e6)
        return output

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Let the watch know since when the policy computes, and the policy of a new run."""
        with self.lock:
            self.since_ns = self._clock()
            try:
                if self._began_ns != self._supervisor.history_start_ns:
                    self._began_ns = self._supervisor.history_start_ns
                    self._engine.reset()
                yield
            finally:
                self.since_ns = None
