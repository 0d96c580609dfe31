"""The one place that decides whether the robot is commanded, and with what.

    DISARMED ──enable──► WAITING ──first command──► RUNNING ◄──► HOLD
        ▲                   │                          │           │
        └─────disable───────┴──────────────────────────┴───────────┘      any ──fault──► FAULT

In every state but RUNNING nothing is published: a robot that takes positions keeps its last one.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
from dataclasses import dataclass
from enum import Enum
import threading

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import ConfigError, listed
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime.limiter import Limiter, Refused
from vqbet_ros.runtime.plan import Chunk, Plan
from vqbet_ros.spec import RobotSpec


class State(Enum):
    """What the supervisor is doing."""

    DISARMED = 'disarmed'
    WAITING = 'waiting'
    RUNNING = 'running'
    HOLD = 'hold'
    FAULT = 'fault'


@dataclass(frozen=True)
class Command:
    """Publish this.

    Attributes:
        values: (A,) positions in the action's unit, finite and within the spec's limits.
        index: Place of the action in its chunk.
        due_ns: When the action is due, not before now.
        t_obs_ns: Time of the observation that it answers to.
        dropped: How many actions so far were in the past before they could be commanded.
    """

    values: NDArray[np.float64]
    index: int
    due_ns: int
    t_obs_ns: int
    dropped: int


@dataclass(frozen=True)
class Hold:
    """Publish nothing.

    Attributes:
        state: Every state but RUNNING.
        reasons: At least one.
    """

    state: State
    reasons: tuple[Reason, ...]


class Supervisor:
    """Owns the plan, the limiter and the state; may be called from several threads.

    Args:
        spec: The robot.

    Raises:
        ConfigError: The spec asks for limits that are not kept (see Limiter).
    """

    def __init__(self, spec: RobotSpec) -> None:
        self._lock = threading.Lock()
        self._action_dim = spec.action_dim
        self._plan = Plan()
        _require_known(spec)
        self._limiter = Limiter(spec.action)
        self._state = State.DISARMED
        self._epoch = 0
        self._history_start_ns = 0
        self._fault: Reason | None = None
        self._rejected: Counter[ReasonKind] = Counter()

    @property
    def state(self) -> State:
        """The state after the last call."""
        with self._lock:
            return self._state

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
    def clamped(self) -> dict[str, int]:
        """For each joint, how many commands were clamped to its range."""
        with self._lock:
            return dict(self._limiter.clamped)

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

    def enable(self, now_ns: int) -> int:
        """Arm, or start anew if already armed.

        Chunks that were under way answer to what was before, so they are refused from now on. The
        caller resets the observations' history to `now_ns` too (ObservationBuffer.reset_history):
        a run begins as the episodes that the policy learned from do, without a past, and nothing
        of an earlier episode gets into it, whoever moved the robot or the world in between.

        Returns:
            The new epoch. In a fault nothing changes, and the epoch is the old one.
        """
        with self._lock:
            if self._state is not State.FAULT:
                self._restart(State.WAITING)
                self._history_start_ns = now_ns
            return self._epoch

    def disable(self) -> None:
        """Disarm; a fault stays."""
        with self._lock:
            self._restart(State.FAULT if self._state is State.FAULT else State.DISARMED)

    def fault(self, detail: str) -> None:
        """Stop until `reset`, for example because the policy raised an error.

        A second fault changes nothing: the first one is the cause to be read.
        """
        with self._lock:
            if self._fault is None:
                self._fault = Reason(ReasonKind.FAULT, detail)
                self._restart(State.FAULT)

    def reset(self) -> None:
        """Leave a fault; the robot is disarmed then."""
        with self._lock:
            if self._state is State.FAULT:
                self._fault = None
                self._restart(State.DISARMED)

    def accept(self, chunk: Chunk) -> Reason | None:
        """Take over a chunk, or say why not; refused chunks change nothing and are counted."""
        with self._lock:
            actions = _finite_actions(chunk, self._action_dim)
            if isinstance(actions, str):
                return self._reject(ReasonKind.BAD_CHUNK, actions)
            if chunk.epoch != self._epoch:
                detail = f'of epoch {chunk.epoch}, expected {self._epoch}'
                return self._reject(ReasonKind.OLD_CHUNK, detail)
            if not self._plan.replace(dataclasses.replace(chunk, actions=actions)):
                detail = 'answers to no newer observation than the present plan'
                return self._reject(ReasonKind.OLD_CHUNK, detail)
            return None

    def tick(self, now_ns: int, reasons: Sequence[Reason] = ()) -> Command | Hold:
        """Decide what to do now.

        Args:
            now_ns: Now.
            reasons: What forbids commands at this moment, for example ObservationBuffer.check.
                The plan is dropped then: the robot goes on when the next chunk comes.

        Returns:
            A command to publish, or why there is none.
        """
        with self._lock:
            if self._fault is not None:
                return Hold(State.FAULT, (self._fault, *reasons))
            if self._state is State.DISARMED:
                return Hold(State.DISARMED, (Reason(ReasonKind.DISARMED), *reasons))
            if reasons:
                self._plan.clear()
                return self._hold(tuple(reasons))
            step = self._plan.command(now_ns)
            if step is None:
                return self._hold((self._no_step(now_ns),))
            try:
                values = self._limiter.limit(step.values.astype(np.float64))
            except Refused as error:
                self._fault = Reason(ReasonKind.FAULT, str(error))
                self._restart(State.FAULT)
                return Hold(State.FAULT, (self._fault,))
            self._state = State.RUNNING
            return Command(values, step.index, step.due_ns, step.t_obs_ns, self._plan.dropped)

    def _restart(self, state: State) -> None:
        self._state = state
        self._epoch += 1
        self._plan.clear()

    def _reject(self, kind: ReasonKind, detail: str) -> Reason:
        self._rejected[kind] += 1
        return Reason(kind, detail)

    def _hold(self, reasons: tuple[Reason, ...]) -> Hold:
        """Stop; a robot that has not moved since it was enabled is still waiting."""
        if self._state is State.RUNNING:
            self._state = State.HOLD
        return Hold(self._state, reasons)

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


def _require_known(spec: RobotSpec) -> None:
    """Refuse what is not commanded as yet."""
    action = spec.action
    problems = [
        f'action.limits.{name}.{kind}: got {value}, expected null'
        for name, limits in action.limits.items()
        for kind in ('velocity', 'acceleration', 'jerk')
        if (value := getattr(limits, kind)) is not None
    ]
    if action.kind != 'joints' or action.gripper is not None:
        what = 'a gripper of its own' if action.kind == 'joints' else f"kind '{action.kind}'"
        problems.append(f'action: got {what}, but only joints can be commanded as yet')
    if problems:
        raise ConfigError(listed('the robot cannot be commanded so', problems))


def _finite_actions(chunk: Chunk, action_dim: int) -> NDArray[np.float64] | str:
    """Return the chunk's actions as an own (W, A) copy, or what is wrong with the chunk."""
    try:
        actions = np.array(chunk.actions, dtype=np.float64)
    except (TypeError, ValueError) as error:
        return f'actions are no numbers: {error}'
    if actions.ndim != 2 or len(actions) == 0 or actions.shape[1] != action_dim:
        return f'actions have shape {actions.shape}, expected (W, {action_dim})'
    if not np.isfinite(actions).all():
        count = int((~np.isfinite(actions)).sum())
        return f'{count} of {actions.size} numbers are not finite'
    if chunk.period_ns <= 0:
        return f'period_ns is {chunk.period_ns}, expected more than 0'
    actions.setflags(write=False)
    return actions
