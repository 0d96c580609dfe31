"""The running node without threads and without a clock: recorded messages in, commands out.

What `ros/pipeline.py` does in three threads happens here in the order of the messages' arrival:
buffer, pacing, policy, supervisor. The time is that of the recording, so that the result depends
on the arguments alone, and an hour is replayed as fast as the policy decides.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.measured import Measured
from vqbet_ros.runtime.observation import Observation, ObservationBuffer
from vqbet_ros.runtime.pacing import Pacing, stamp_jitter_ns, TICK_MARGIN
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.runtime.stream import Decoder
from vqbet_ros.runtime.supervisor import Command, Hold, Supervisor
from vqbet_ros.runtime.trust import Same
from vqbet_ros.runtime.watch import Facts
from vqbet_ros.spec import RobotSpec

Infer = Callable[[Observation], tuple[Any, int]]
"""Returns a decision (`actions` (W, A), `confidence`), and how long it took, in ns."""


@dataclass(frozen=True)
class Arrival:
    """One recorded message of a stream.

    Attributes:
        stream: Its stream.
        stamp_ns: Its header's stamp; None where there is none.
        receive_ns: When it came.
        payload: What the decoder takes.
        broken: What is wrong with it, where not even its stamp can be read.
    """

    stream: str
    stamp_ns: int | None
    receive_ns: int
    payload: bytes
    broken: str = ''


@dataclass(frozen=True, eq=False)
class Planned:
    """The policy has decided.

    Attributes:
        t_obs_ns: Time of the observation.
        asked_ns: When the policy was asked.
        ready_ns: When it had decided.
        actions: (W, A) in the action's unit.
        confidence: 0 to 1.
        ages_ns: Age of each stream's newest sample when the policy was asked.
        accepted: Whether the chunk was executed.
    """

    t_obs_ns: int
    asked_ns: int
    ready_ns: int
    actions: NDArray[np.floating]
    confidence: float
    ages_ns: dict[str, int]
    accepted: bool


@dataclass(frozen=True, eq=False)
class Tick:
    """The control thread has woken.

    Attributes:
        now_ns: When.
        outcome: What it sent, or why it did not.
    """

    now_ns: int
    outcome: Command | Hold


class Replay:
    """Runs a policy on recorded messages.

    Args:
        infer: The policy.
        spec: The robot.
        history: Steps h that the policy sees.
        chunk: Steps W that it decides.
        decoders: By message type.
        same: See ObservationBuffer.
        control_rate_hz: Rate of the ticks.
        plan_every: See Pacing.
        look: Shows the policy what it is not asked about yet; takes no time here.
        reset: Lets the policy forget what it has cached; called when the robot is enabled.

    Raises:
        ConfigError: The robot cannot be commanded (see Limiter).
    """

    def __init__(
        self,
        infer: Infer,
        spec: RobotSpec,
        *,
        history: int,
        chunk: int,
        decoders: Mapping[str, Decoder],
        same: Same | None = None,
        control_rate_hz: float,
        plan_every: int = 0,
        look: Callable[[Observation], None] = lambda _: None,
        reset: Callable[[], None] = lambda: None,
    ) -> None:
        settings = dataclasses.replace(spec.runtime, control_rate_hz=control_rate_hz)
        self.supervisor = Supervisor(spec, settings)
        self._measured = Measured(spec)
        self.buffer = ObservationBuffer(
            spec, decoders, history, stamp_jitter_ns(spec), gate=settings.gate, same=same
        )
        self._spec, self._history = spec, history
        self._infer, self._look, self._reset = infer, look, reset
        self._pacing = Pacing(spec, chunk, history, plan_every)
        self._control_period_ns = round(1e9 / control_rate_hz)
        self._enabled = False
        self._is_first = True  # whether the plan that is being made is the first one
        self._tick_ns = 0  # when the next tick is
        self._busy: tuple[Chunk, Planned] | None = None  # what the policy is deciding

    def run(self, arrivals: Iterable[Arrival]) -> Iterator[Planned | Tick]:
        """Replay messages in the order of their arrival.

        The robot is enabled as soon as every stream has data, and never again.

        Yields:
            Everything that happens, in the order of time.
        """
        for arrival in arrivals:
            now_ns = arrival.receive_ns
            yield from self._advance(now_ns)
            if arrival.broken:
                self.buffer.put_bad(arrival.stream, arrival.broken)
                continue
            self.buffer.put(arrival.stream, arrival.stamp_ns, now_ns, arrival.payload)
            if not self._enabled and not self.buffer.check(now_ns):
                self._enable(now_ns)
            if self._busy is None:
                self._ask(now_ns)

    def _enable(self, now_ns: int) -> None:
        self._enabled = True
        self.buffer.reset_history(now_ns)
        self.supervisor.enable(now_ns, self._measured.of(self.buffer.newest_state()))
        self._reset()
        self._tick_ns = now_ns + self._control_period_ns

    def _advance(self, until_ns: int) -> Iterator[Planned | Tick]:
        """Let everything happen that happens before a time."""
        while self._enabled:
            if self._busy is not None and self._busy[1].ready_ns <= min(self._tick_ns, until_ns):
                yield self._ready(*self._busy)
            elif self._tick_ns < until_ns:
                now_ns, self._tick_ns = self._tick_ns, self._tick_ns + self._control_period_ns
                facts = Facts(measured=self._measured.of(self.buffer.newest_state()))
                reasons = self.buffer.check(now_ns)
                yield Tick(now_ns, self.supervisor.tick(now_ns, reasons, facts))
            else:
                return

    def _ready(self, chunk: Chunk, planned: Planned) -> Planned:
        self._busy = None
        accepted = self.supervisor.accept(chunk) is None
        if accepted and self._is_first:
            # As in the running node, ticks follow plans.
            self._tick_ns = planned.ready_ns + round(TICK_MARGIN * self._control_period_ns)
        self._ask(planned.ready_ns)  # what came in the meantime
        return dataclasses.replace(planned, accepted=accepted)

    def _ask(self, now_ns: int) -> None:
        """Begin to decide, if there is an observation that is new enough."""
        epoch = self.supervisor.epoch
        ages_ns, planned = self.buffer.ages_ns(now_ns), self.supervisor.chunk is not None
        due = self._pacing.is_due(now_ns, ages_ns, epoch, planned=planned)
        if not self._enabled or not (due or self._pacing.is_ahead(now_ns, ages_ns)):
            return
        observation = self.buffer.observe(now_ns, self._history)
        if isinstance(observation, list):
            return  # the next tick gives the reasons
        if not self._pacing.is_new(epoch, observation.stamp_ns):
            return
        if not due:
            self._look(observation)
            self._pacing.note_look(observation.stamp_ns)
            return
        self._is_first = self._pacing.is_first(epoch)
        self._pacing.note(epoch, observation.stamp_ns)
        output, took_ns = self._infer(observation)
        confidence = float(output.confidence)
        chunk = Chunk(
            t_obs_ns=observation.stamp_ns,
            actions=output.actions,
            period_ns=self._spec.period_ns,
            confidence=confidence,
            epoch=epoch,
        )
        decided = Planned(
            t_obs_ns=observation.stamp_ns,
            asked_ns=now_ns,
            ready_ns=now_ns + took_ns,
            actions=output.actions,
            confidence=confidence,
            ages_ns=observation.ages_ns,
            accepted=False,
        )
        self._busy = chunk, decided
