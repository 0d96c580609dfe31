"""The one place that decides whether the robot is commanded, and with what.

    DISARMED ──enable──► WAITING ──first command──► RAMP_IN ──► RUNNING ◄──► HOLD
        ▲                   │                          │           │          │
        └──────disarm───────┴──────────────────────────┴───────────┴──────────┘   any ──► FAULT

A command of the policy comes in RAMP_IN and RUNNING alone. HOLD stops the robot within its limits
and then keeps it where it is; so does FAULT, but that sends nothing once the robot stands, and an
emergency stop nothing at all. Why each reason leads where is the table in `reactions`.
"""

from collections import Counter
from collections.abc import Sequence
import copy
import dataclasses
import math
import threading

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.runtime.axis import Refused
from vqbet_ros.runtime.cartesian_limiter import CartesianLimiter
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime.chunk_check import ChunkCheck
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime.interpolation import Start
from vqbet_ros.runtime.limiter import Limiter
from vqbet_ros.runtime.measured import Measured, require_measured
from vqbet_ros.runtime.outcome import Command, Hold, State
from vqbet_ros.runtime.plan import Plan
from vqbet_ros.runtime.ramp import Ramp
from vqbet_ros.runtime.reactions import Reaction, REACTIONS
from vqbet_ros.runtime.watch import Facts, Watch
from vqbet_ros.runtime_spec import RuntimeSettings
from vqbet_ros.spec import RobotSpec

__all__ = ['Command', 'Hold', 'State', 'Supervisor']

_IDLE = (State.DISARMED, State.FAULT)
_LONGEST_STOP_S = 10.0  # of a preview


class Supervisor:
    """Owns the plan, the limiter and the state; may be called from several threads.

    Args:
        spec: The robot.
        settings: Instead of the spec's own.

    Raises:
        ConfigError: The robot cannot be commanded so.
    """

    def __init__(self, spec: RobotSpec, settings: RuntimeSettings | None = None) -> None:
        self._lock = threading.Lock()
        self._settings = settings = settings or spec.runtime
        names = spec.action_names
        judged = np.array([name in spec.action.arm_channels for name in names])
        # Velocities begin at zero, wherever the robot is.
        self._rest = np.where(judged & spec.action.is_velocity, 0.0, math.nan)
        # A gripper that nobody measures begins where it is first sent.
        self._unseen = np.array(
            [not arm and spec.measured(n) is None for n, arm in zip(names, judged, strict=True)]
        )
        self._plan = Plan(settings.interpolation, settings.blend)
        rate_hz = settings.control_rate_hz or spec.rate_hz
        self._period_s = 1.0 / rate_hz
        limits = spec.action, settings.limiter, self._period_s
        self._limiter: Limiter | CartesianLimiter
        if spec.action.kind == 'pose':
            self._limiter = CartesianLimiter(*limits, settings.cartesian)
        else:
            self._limiter = Limiter(*limits)
        require_measured(spec, settings, seed=self._limiter.needs_seed)
        self._known = judged & Measured(spec).known
        self._check = ChunkCheck(spec.action, settings.limiter)
        self._watch = Watch(names, judged, settings.watch)
        self._ramp = Ramp(names, judged, settings.start)
        self._state = State.DISARMED
        self._epoch = 0
        self._history_start_ns = 0
        self._tick_ns: int | None = None  # of the last tick, and by the steady clock
        self._steady_ns: int | None = None
        self._scale = 1.0
        self._started = False  # whether the plan's distance from the robot was looked at
        self._held_s = 0.0  # since the robot was last commanded, or enabled
        self._estop = False
        self._deadman_ns: int | None = None  # when it was last heard of, if it is pressed
        self._fault: Reason | None = None
        self._leaving: Reason | None = None  # why it stops to be disarmed, or was disarmed
        self._standing: list[Reason] = []  # what the last tick's facts say against enabling
        self._rejected: Counter[ReasonKind] = Counter()

    @property
    def state(self) -> State:
        """The state after the last call."""
        with self._lock:
            return self._state

    @property
    def stopping(self) -> bool:
        """Whether what moves has to end, also where simulated time stands still."""
        with self._lock:
            leaving = self._leaving is not None and self._state is not State.DISARMED
            return leaving or self._state is State.FAULT

    @property
    def speed_scale(self) -> float:
        """The share of the largest velocities that is used."""
        with self._lock:
            return self._scale

    @property
    def epoch(self) -> int:
        """Counts enable and disable; read it before taking the observation for a chunk."""
        with self._lock:
            return self._epoch

    @property
    def history_start_ns(self) -> int:
        """When the robot was last enabled; see `enable`."""
        with self._lock:
            return self._history_start_ns

    @property
    def clips(self) -> dict[tuple[str, str], int]:
        """For each joint and limit, how many commands were changed to keep it."""
        with self._lock:
            return dict(self._limiter.clips)

    @property
    def longest_stops_s(self) -> dict[str, float]:
        """For each joint, the longest time that it may take to stop within its limits."""
        return self._limiter.longest_stops_s

    @property
    def dropped(self) -> int:
        """How many actions were in the past before they could be commanded."""
        with self._lock:
            return self._plan.dropped

    @property
    def rejected(self) -> dict[ReasonKind, int]:
        """How many chunks were refused, by kind of reason."""
        with self._lock:
            return dict(self._rejected)

    @property
    def chunk(self) -> Chunk | None:
        """The chunk being executed, if any."""
        with self._lock:
            return self._plan.chunk

    @property
    def seam(self) -> NDArray[np.float64] | None:
        """By how much the last chunk changed the plan (A,); see Plan."""
        with self._lock:
            return self._plan.seam

    def refusals(self, now_ns: int) -> list[Reason]:
        """Return what `enable` is refused for; of the facts, what the last tick was told."""
        with self._lock:
            return self._refusals(now_ns)

    def enable(self, now_ns: int, measured: NDArray[np.float64] | None = None) -> int:
        """Arm, or start anew if already armed.

        What moves is stopped within its limits first. Chunks that were under way answer to what
        was before, so they are refused from now on. The caller resets the observations' history
        to `now_ns` too (ObservationBuffer.reset_history): a run begins as the episodes that the
        policy learned from do, without a past, and nothing of an earlier episode gets into it,
        whoever moved the robot or the world in between.

        Args:
            now_ns: Now.
            measured: (A,) where the robot is; the ticks' facts tell it too.

        Returns:
            The new epoch. Where it is refused nothing changes, and the epoch is the old one.
        """
        with self._lock:
            if not self._refusals(now_ns):
                if self._state in _IDLE:
                    self._tick_ns = None
                self._restart(State.WAITING)
                self._leaving, self._history_start_ns = None, now_ns
                self._watch.begin()
                if self._limiter.sent is None:
                    self._seed(measured)
            return self._epoch

    def disable(self) -> None:
        """Disarm at once, with nothing sent any more; a fault stays."""
        with self._lock:
            self._leaving = None
            self._restart(State.FAULT if self._state is State.FAULT else State.DISARMED)

    def disarm(self, detail: str = '') -> None:
        """Let the next ticks stop the robot within its limits, and disarm it then."""
        with self._lock:
            if self._state not in _IDLE and self._leaving is None:
                self._leaving = Reason(ReasonKind.DISARMING, detail)

    def deadman(self, pressed: bool, now_ns: int) -> bool:
        """Note a message of the deadman switch.

        Returns:
            Whether the robot is to be enabled: the switch is in use, and was pressed anew.
        """
        with self._lock:
            released = self._deadman_is_released(now_ns)
            self._deadman_ns = now_ns if pressed else None
            return pressed and released and self._state is State.DISARMED

    def estop(self, pressed: bool) -> None:
        """Note the emergency stop; pressing it is a fault at once."""
        with self._lock:
            self._estop = pressed
            if pressed:
                self._latch(Reason(ReasonKind.ESTOP))

    def fault(self, detail: str) -> None:
        """Stop until `reset`, for example because the policy raised an error.

        A second fault changes nothing: the first one is the cause to be read.
        """
        with self._lock:
            self._latch(Reason(ReasonKind.FAULT, detail))

    def reset(self) -> list[Reason]:
        """Leave a fault, disarmed, unless its cause is still there; return what is."""
        with self._lock:
            causes = [reason for reason in self._standing if _reaction(reason) is Reaction.FAULT]
            if self._estop:
                causes.append(Reason(ReasonKind.ESTOP))
            if self._state is State.FAULT and not causes:
                self._fault = self._leaving = None
                self._restart(State.DISARMED)
            return causes

    def set_speed_scale(self, scale: float) -> tuple[str, ...]:
        """Set the share of the largest velocities that is used, 0 to 1; 0 stops everything.

        Returns:
            What it does not slow down, because it has no limit of velocity.

        Raises:
            ValueError: The scale is not from 0 to 1.
        """
        if not 0.0 <= scale <= 1.0:
            raise ValueError(f'speed_scale: got {scale}, expected 0 to 1')
        with self._lock:
            self._scale = scale
            return self._limiter.unscaled if 0.0 < scale < 1.0 else ()

    def discard(self) -> int:
        """Let no chunk count that was made until now, as when the goal changes.

        What moves is stopped within its limits until the next chunk comes.

        Returns:
            The new epoch.
        """
        with self._lock:
            self._epoch += 1
            self._plan.clear()
            return self._epoch

    def accept(self, chunk: Chunk) -> Reason | None:
        """Take over a chunk, or say why not; refused chunks change nothing and are counted."""
        with self._lock:
            if chunk.epoch != self._epoch:
                detail = f'of epoch {chunk.epoch}, expected {self._epoch}'
                return self._reject(ReasonKind.OLD_CHUNK, detail)
            actions, start = self._check.actions(chunk), self._start()
            if isinstance(actions, str):
                return self._reject(ReasonKind.BAD_CHUNK, actions)
            problems = self._check.problems(chunk, actions, start)
            if problems:
                return self._reject(ReasonKind.BAD_CHUNK, '; '.join(problems))
            if not self._plan.replace(dataclasses.replace(chunk, actions=actions), start):
                detail = 'answers to no newer observation than the present plan'
                return self._reject(ReasonKind.OLD_CHUNK, detail)
            return None

    def tick(
        self, now_ns: int, reasons: Sequence[Reason] = (), facts: Facts | None = None
    ) -> Command | Hold:
        """Decide what to do now.

        Args:
            now_ns: Now.
            reasons: What forbids commands at this moment, for example ObservationBuffer.check.
                The plan is dropped then: the robot goes on when the next chunk comes.
            facts: What else is known.

        Returns:
            A command to publish, or why there is none.
        """
        facts = facts or Facts()
        with self._lock:
            elapsed_s = self._elapsed_s(now_ns, facts.steady_ns)
            if facts.course and elapsed_s is not None:
                elapsed_s -= self._catch_up(now_ns, elapsed_s)
            found = self._situation(now_ns, reasons, facts)
            if self._state is State.FAULT:
                return self._faulty(found, elapsed_s)
            if self._state is State.DISARMED:
                return self._disarmed(found)
            if self._leaving is not None:
                return self._leave(found, elapsed_s)
            outcome = self._armed(now_ns, elapsed_s, facts, found)
            self._count_hold(elapsed_s)
            return outcome

    def preview(self, now_ns: int) -> Chunk | None:
        """Return what the next ticks will command if nothing new comes, up to standing still.

        Returns:
            A chunk whose first action is due one tick after now; None where nothing is planned.
        """
        with self._lock:
            if self._plan.chunk is None or not self._limiter.seeded:
                return None
            limiter, plan, ramp = copy.deepcopy((self._limiter, self._plan, self._ramp))
            scale, period_ns = self._scale, round(self._period_s * 1e9)
            epoch, confidence = self._epoch, self._plan.chunk.confidence
        commands: list[NDArray[np.float64]] = []
        time_ns = now_ns + period_ns
        try:
            while (step := plan.command(time_ns)) is not None:
                target = ramp.apply(time_ns, np.asarray(step.values, dtype=np.float64))
                commands.append(limiter.limit(target, None, scale))
                time_ns += period_ns
        except Refused:
            pass  # the tick that gets there says so
        longest = len(commands) + round(_LONGEST_STOP_S / self._period_s)
        while commands and not limiter.at_rest and len(commands) < longest:
            stopping = limiter.hold()
            assert stopping is not None  # noqa: S101 - something was sent
            commands.append(stopping)
        if not commands:
            return None
        return Chunk(now_ns, np.array(commands), period_ns, confidence, epoch)

    def look(self, reasons: Sequence[Reason] = ()) -> Hold | None:
        """Return why nothing is commanded while disarmed or in a fault, without moving on.

        Returns:
            None in every other state: there only a tick can tell.
        """
        with self._lock:
            if self._fault is not None:
                return Hold(State.FAULT, (self._fault, *reasons))
            if self._state is State.DISARMED:
                return self._disarmed(reasons)
            return None

    def _disarmed(self, reasons: Sequence[Reason]) -> Hold:
        why = () if self._leaving is None else (self._leaving,)
        return Hold(State.DISARMED, (Reason(ReasonKind.DISARMED), *why, *reasons))

    def _armed(
        self, now_ns: int, elapsed_s: float | None, facts: Facts, found: Sequence[Reason]
    ) -> Command | Hold:
        stops = [reason for reason in found if _reaction(reason) is not Reaction.WARN]
        stops += [reason for reason, holds in facts.monitors if holds]
        warnings = [reason for reason in found if reason not in stops]
        warnings += [reason for reason, holds in facts.monitors if not holds]
        if not stops:
            return self._command(now_ns, elapsed_s, facts, tuple(warnings))
        self._plan.clear()
        held = self._hold((*stops, *warnings), elapsed_s)
        unheard = any(reason.kind is ReasonKind.CONTROLLER for reason in stops)
        if (unheard or self._is_lost(facts.measured)) and self._limiter.at_rest:
            # Perhaps it never came where these commands led, or was moved while nobody saw it:
            # it goes on from where it is.
            self._limiter.forget()
            self._started = False
        return held

    def _is_lost(self, measured: NDArray[np.float64] | None) -> bool:
        """Tell whether a joint that can be measured is not."""
        return bool(self._known.any()) and (
            measured is None or bool(np.isnan(measured[self._known]).any())
        )

    def _count_hold(self, elapsed_s: float | None) -> None:
        stands = self._state in (State.WAITING, State.HOLD)
        self._held_s = self._held_s + (elapsed_s or 0.0) if stands else 0.0
        limit_s = self._settings.watch.hold_limit_s
        if limit_s is not None and self._held_s > limit_s and self._leaving is None:
            self._leaving = Reason(ReasonKind.HELD, f'limit {limit_s:g} s')

    def _command(
        self, now_ns: int, elapsed_s: float | None, facts: Facts, warnings: tuple[Reason, ...]
    ) -> Command | Hold:
        step = self._plan.command(now_ns)
        target = None if step is None else np.asarray(step.values, dtype=np.float64)
        if self._limiter.sent is None:
            self._seed(facts.measured, target)  # the robot may still be moved by hand
        if step is None or target is None:
            return self._hold((self._no_step(now_ns), *warnings), elapsed_s)
        if self._limiter.needs_seed and not self._limiter.seeded:
            return self._hold((Reason(ReasonKind.NO_START), *warnings), elapsed_s)
        if not self._started:
            refusal = self._ramp.begin(now_ns, target, facts.measured)
            if refusal is not None and _reaction(refusal) is Reaction.DISARM:
                self._leaving = refusal
                return self._leave([], elapsed_s)
            if refusal is not None:
                return self._hold((refusal, *warnings), elapsed_s)
            self._started = True
        target = self._ramp.apply(now_ns, target)
        try:
            values = self._limiter.limit(target, elapsed_s, self._scale)
        except Refused as error:
            self._latch(Reason(ReasonKind.REFUSED, str(error)))
            return self._faulty([], elapsed_s)
        self._state = State.RAMP_IN if self._ramp.active else State.RUNNING
        counted = step.index, step.due_ns, step.t_obs_ns, self._plan.dropped
        return Command(values, *counted, warnings)

    def _situation(self, now_ns: int, reasons: Sequence[Reason], facts: Facts) -> list[Reason]:
        """Return all reasons, and do what they ask for except to hold."""
        armed = self._state not in _IDLE
        found = [
            *reasons,
            *self._watch.reasons(now_ns, facts, self._limiter.sent if armed else None),
        ]
        self._standing = [r for r in found if _reaction(r) >= Reaction.DISARM]
        if any(reason.kind is ReasonKind.CLOCK_JUMP for reason in found):
            self._epoch += 1  # times of before mean nothing now
            self._plan.clear()
        if not armed:
            return found
        if self._deadman_is_released(now_ns):
            found.insert(0, Reason(ReasonKind.DEADMAN))
        for reason in found:
            if _reaction(reason) is Reaction.FAULT:
                self._latch(reason)
            elif _reaction(reason) is Reaction.DISARM and self._leaving is None:
                self._leaving = reason
        return found

    def _refusals(self, now_ns: int) -> list[Reason]:
        refusals = list(self._standing)
        if self._fault is not None:
            refusals.insert(0, self._fault)
        if self._deadman_is_released(now_ns):
            refusals.append(Reason(ReasonKind.DEADMAN))
        return refusals

    def _deadman_is_released(self, now_ns: int) -> bool:
        timeout_s = self._settings.watch.deadman_timeout_s
        if timeout_s is None:
            return False
        # It may have been heard after the tick read its clock.
        return self._deadman_ns is None or abs(now_ns - self._deadman_ns) > timeout_s * 1e9

    def _seed(
        self, measured: NDArray[np.float64] | None, target: NDArray[np.float64] | None = None
    ) -> None:
        unknown = np.isnan(self._rest)
        start = self._rest if measured is None else np.where(unknown, measured, self._rest)
        if target is not None:
            start = np.where(self._unseen, target, start)
        if np.isfinite(start).all():
            self._limiter.seed(start)

    def _start(self) -> Start | None:
        """Return where the next path begins."""
        values = self._limiter.position
        if values is None or self._tick_ns is None:
            return None
        return Start(self._tick_ns, values, self._limiter.velocities)

    def _catch_up(self, now_ns: int, elapsed_s: float) -> float:
        """Go on as the arm has by itself while ticks were late; return the time of those, in s.

        Where it is goes before where one late command may lead: all that follows begins there.
        """
        missed = max(0, round(elapsed_s / self._period_s) - 1)
        for late in range(missed, 0, -1):
            time_ns = now_ns - late * round(self._period_s * 1e9)
            step = self._plan.command(time_ns)
            if step is None and (self._limiter.hold() is None or self._limiter.at_rest):
                break
            if step is not None:
                target = self._ramp.apply(time_ns, np.asarray(step.values, dtype=np.float64))
                try:
                    self._limiter.limit(target, None, self._scale)
                except Refused:
                    break  # this tick's command says so
        return missed * self._period_s

    def _elapsed_s(self, now_ns: int, steady_ns: int | None) -> float | None:
        """Return the time since the last tick, by the clock that does not jump if there is one."""
        before_ns, before_steady_ns = self._tick_ns, self._steady_ns
        self._tick_ns, self._steady_ns = now_ns, steady_ns
        if steady_ns is not None and before_steady_ns is not None:
            return max(0, steady_ns - before_steady_ns) / 1e9
        if before_ns is None or now_ns == before_ns:
            return None  # simulated time may stand still: a stop goes on at the nominal rate
        return max(0, now_ns - before_ns) / 1e9

    def _restart(self, state: State) -> None:
        self._state = state
        self._epoch += 1
        self._plan.clear()
        self._ramp.end()
        self._started = False
        self._held_s = 0.0
        if state is State.DISARMED:
            self._limiter.forget()  # else it may still have to be stopped

    def _latch(self, reason: Reason) -> None:
        if self._fault is None:
            self._fault = reason
            self._restart(State.FAULT)

    def _faulty(self, found: Sequence[Reason], elapsed_s: float | None) -> Hold:
        """Stop, then send nothing; an emergency stop has its own brakes."""
        assert self._fault is not None  # noqa: S101 - the state says so
        values = None
        if self._fault.kind is ReasonKind.ESTOP or self._estop:
            self._limiter.forget()
        elif self._limiter.sent is not None:
            values = self._limiter.hold(elapsed_s)
            if self._limiter.at_rest:
                self._limiter.forget()
        others = (reason for reason in found if reason != self._fault)
        return Hold(State.FAULT, (self._fault, *others), values)

    def _leave(self, found: Sequence[Reason], elapsed_s: float | None) -> Hold:
        """Stop, then be disarmed."""
        assert self._leaving is not None  # noqa: S101 - its callers have looked
        self._plan.clear()
        others = tuple(reason for reason in found if reason != self._leaving)
        moving = self._limiter.sent is not None and not self._limiter.at_rest
        if not moving:
            self._restart(State.DISARMED)
            return self._disarmed(others)
        return self._hold((self._leaving, *others), elapsed_s)

    def _reject(self, kind: ReasonKind, detail: str) -> Reason:
        self._rejected[kind] += 1
        reason = Reason(kind, detail)
        faults = kind is ReasonKind.BAD_CHUNK and self._settings.bad_chunk == 'fault'
        if faults and self._state not in _IDLE:
            self._latch(reason)
        return reason

    def _hold(self, reasons: tuple[Reason, ...], elapsed_s: float | None) -> Hold:
        """Stop and stay; a robot that has not moved since it was enabled is still waiting."""
        if self._ramp.active:
            self._ramp.end()
            self._started = False  # the ramp's time goes on while the robot does not
        if self._state is not State.WAITING:
            self._state = State.HOLD
        return Hold(self._state, reasons, self._limiter.hold(elapsed_s))

    def _no_step(self, now_ns: int) -> Reason:
        chunk = self._plan.chunk
        if chunk is None:
            return Reason(ReasonKind.NO_PLAN, 'no chunk since enabled or since the last hold')
        if now_ns < chunk.t_obs_ns:
            early_ms = (chunk.t_obs_ns - now_ns) / 1e6
            return Reason(ReasonKind.NO_PLAN, f'the chunk begins in {early_ms:.0f} ms')
        past_ms = (now_ns - chunk.end_ns) / 1e6
        detail = f'its last action was due {past_ms:.0f} ms ago: is inference too slow?'
        return Reason(ReasonKind.PLAN_ENDED, detail)


def _reaction(reason: Reason) -> Reaction:
    return REACTIONS[reason.kind]
