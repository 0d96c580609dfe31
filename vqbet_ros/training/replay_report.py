"""What a replayed bag says of a policy: errors, latency, holds, as figures and pictures.

Legend: M plans, W chunk, A action channels, T recorded steps.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray
from vqbet_ros.data.align import Piece
from vqbet_ros.runtime.interpolation import Interpolation
from vqbet_ros.runtime.monitors import Monitors
from vqbet_ros.runtime.replay import Planned, Tick
from vqbet_ros.runtime.statistics import Samples
from vqbet_ros.runtime.supervisor import Command, Hold
from vqbet_ros.runtime_spec import MonitorSettings
from vqbet_ros.spec import RobotSpec
from vqbet_ros.training.figures import BLACK, BLUE, JOINTS_SHOWN, ORANGE, png, WIDTH_IN

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recorded:
    """The demonstrator's actions over time.

    Attributes:
        stamps_ns: (T,) beginnings of the steps.
        action: (T, A) what was commanded in each step.
        period_ns: One step.
    """

    stamps_ns: NDArray[np.int64]
    action: Floats
    period_ns: int

    @classmethod
    def of(cls, pieces: Iterable[Piece], spec: RobotSpec) -> 'Recorded':
        """Gather the actions of a bag; images are let go."""
        parts = [(piece.stamps_ns, piece.action) for piece in pieces]
        return cls(
            np.concatenate([stamps for stamps, _ in parts]),
            np.concatenate([action for _, action in parts]).astype(np.float64),
            spec.period_ns,
        )

    def at(self, times_ns: NDArray[np.int64]) -> Floats:
        """Return the action of the steps that begin at these times (...), as (..., A).

        It is interpolated between the recorded steps, whose grid has another phase than the
        policy's observations. NaN before, after, and in gaps.
        """
        last = len(self.stamps_ns) - 1
        before = np.searchsorted(self.stamps_ns, times_ns, side='right') - 1
        low = np.clip(before, 0, last)
        high = np.minimum(low + 1, last)
        span = (self.stamps_ns[high] - self.stamps_ns[low]).astype(np.float64)
        past = (times_ns - self.stamps_ns[low]).astype(np.float64)
        weight = np.divide(past, span, out=np.zeros_like(past), where=span > 0)
        known = (past == 0) | ((past > 0) & (past <= span) & (span < 1.5 * self.period_ns))
        value: Floats = self.action[low] + weight[..., None] * (
            self.action[high] - self.action[low]
        )
        return np.where(known[..., None], value, np.nan)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What happened, beside what was recorded.

    Attributes:
        plan_error: (W, A) mean absolute error of the plans' actions, by their place in the chunk.
        held_error: (W, A) the same for a policy that repeats the last recorded action.
        command_error: (A,) of what was really sent.
        commands: (times in ns (N,), sent (N, A), recorded (N, A)).
        holds: (from, to in ns, reason) of each stretch without commands.
        hold_ticks: How many ticks sent nothing, by reason.
        inference_ms: How long decisions took.
        latency_ms: From an observation to its first command.
        confidence: Of the decisions, 0 to 1.
        plans: How many.
        refused: Plans that were not executed.
        ticks: How many.
    """

    plan_error: Floats
    held_error: Floats
    command_error: Floats
    commands: tuple[NDArray[np.int64], Floats, Floats]
    holds: tuple[tuple[int, int, str], ...]
    hold_ticks: dict[str, int]
    inference_ms: dict[str, float]
    latency_ms: dict[str, float]
    confidence: dict[str, float]
    plans: int
    refused: int
    ticks: int


def motion(events: Sequence[Planned | Tick], spec: RobotSpec) -> dict[str, dict[str, float]]:
    """Return for each joint how often the commands turned back, and their jerk."""
    sent = [e for e in events if isinstance(e, Tick) and isinstance(e.outcome, Command)]
    if not sent:
        return {}
    seconds = (sent[-1].now_ns - sent[0].now_ns) / 1e9 + 1.0
    size = spec.runtime.monitors.reversal_size
    monitors = Monitors(spec.action_names, MonitorSettings(window_s=seconds, reversal_size=size))
    for tick in sent:
        if isinstance(tick.outcome, Command):
            monitors.command(tick.now_ns, tick.outcome.values)
    found = monitors.figures(sent[-1].now_ns)
    return {
        name: {'reversals_hz': float(reversals), 'jerk': float(jerk)}
        for name, reversals, jerk in zip(
            spec.action_names, found.reversals_hz, found.jerk, strict=True
        )
    }


def sensing(events: Sequence[Planned | Tick]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return how old each stream was at the decisions, and how far behind the newest, in ms."""
    ages_ns = [event.ages_ns for event in events if isinstance(event, Planned)]
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for name in ages_ns[0] if ages_ns else ():
        age_ms, skew_ms = Samples(), Samples()
        for ages in ages_ns:
            age_ms.add(ages[name] / 1e6)
            skew_ms.add((ages[name] - min(ages.values())) / 1e6)
        found[name] = {'age_ms': _plain(age_ms.summary()), 'skew_ms': _plain(skew_ms.summary())}
    return found


def compare(
    events: Sequence[Planned | Tick], recorded: Recorded, chunk: int, interpolation: Interpolation
) -> Comparison:
    """Compare a replay with the recording; NaN where nothing was recorded or sent.

    Args:
        events: Of the replay.
        recorded: What the demonstrator commanded.
        chunk: Steps W of a plan.
        interpolation: What was commanded between two actions; see Path.
    """
    plans = [event for event in events if isinstance(event, Planned)]
    ticks = [event for event in events if isinstance(event, Tick)]
    width = recorded.action.shape[1]
    actions = np.array([plan.actions for plan in plans]).reshape(-1, chunk, width)
    t_obs = np.array([plan.t_obs_ns for plan in plans], dtype=np.int64)
    steps = np.arange(chunk, dtype=np.int64) * recorded.period_ns
    expected = recorded.at(t_obs[:, None] + steps)  # (M, W, A)
    last = recorded.at(t_obs - recorded.period_ns)[:, None]  # (M, 1, A)
    inference, latency, confidence = Samples(), Samples(), Samples()
    for plan in plans:
        confidence.add(plan.confidence)
        inference.add((plan.ready_ns - plan.asked_ns) / 1e6)
    answered = None
    sent: list[tuple[int, Command]] = []
    hold_ticks: Counter[str] = Counter()
    holds: list[tuple[int, int, str]] = []
    for tick in ticks:
        if isinstance(tick.outcome, Hold):
            reason = ', '.join(
                sorted({f'{r.stream}: {r.kind.value}' if r.stream else r.kind.value
                        for r in tick.outcome.reasons})
            )  # fmt: skip
            hold_ticks[reason] += 1
            if holds and holds[-1][2] == reason and (not sent or sent[-1][0] < holds[-1][0]):
                holds[-1] = (holds[-1][0], tick.now_ns, reason)
            else:
                holds.append((tick.now_ns, tick.now_ns, reason))
            continue
        if tick.outcome.t_obs_ns != answered:
            answered = tick.outcome.t_obs_ns
            latency.add((tick.now_ns - answered) / 1e6)
        sent.append((tick.now_ns, tick.outcome))
    times = np.array([now_ns for now_ns, _ in sent], dtype=np.int64)
    due = np.array([command.due_ns for _, command in sent], dtype=np.int64)
    if interpolation != 'step':
        due = times  # each command is on the way to an action, and not the action itself
    values = np.array([command.values for _, command in sent]).reshape(-1, width)
    truth = recorded.at(due - recorded.period_ns)
    return Comparison(
        plan_error=_mean(np.abs(actions - expected)),
        held_error=_mean(np.abs(last - expected)),
        command_error=_mean(np.abs(values - truth)),
        commands=(times, values, truth),
        holds=tuple(holds),
        hold_ticks=dict(hold_ticks),
        inference_ms=inference.summary(),
        latency_ms=latency.summary(),
        confidence=confidence.summary(),
        plans=len(plans),
        refused=sum(not plan.accepted for plan in plans),
        ticks=len(ticks),
    )


def figures(found: Comparison, spec: RobotSpec) -> dict[str, Any]:
    """Return the comparison for JSON, which knows no NaN: null in its place."""
    names = spec.action_names
    return {
        'robot': spec.robot,
        'unit': spec.action.unit,
        'plans': found.plans,
        'refused_plans': found.refused,
        'ticks': found.ticks,
        'commands': len(found.commands[0]),
        'holds': found.hold_ticks,
        'inference_ms': _plain(found.inference_ms),
        'latency_ms': _plain(found.latency_ms),
        'confidence': _plain(found.confidence),
        'error_by_horizon': {
            name: [_or_null(value) for value in found.plan_error[:, index]]
            for index, name in enumerate(names)
        },
        'error_if_held_by_horizon': {
            name: [_or_null(value) for value in found.held_error[:, index]]
            for index, name in enumerate(names)
        },
        'command_error': _plain(dict(zip(names, found.command_error.tolist(), strict=True))),
    }


def draw_traces(found: Comparison, spec: RobotSpec) -> bytes:
    """Draw what was recorded and what was sent, holds shaded."""
    names = spec.action_names[:JOINTS_SHOWN]
    times, sent, truth = found.commands
    start_ns = min([*times[:1].tolist(), *(hold[0] for hold in found.holds[:1])], default=0)
    figure = Figure(figsize=(WIDTH_IN, 0.6 + 1.5 * len(names)), layout='constrained')
    grid = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    seconds = (times - start_ns) / 1e9
    for index, (axes, name) in enumerate(zip(grid, names, strict=True)):
        axes.plot(seconds, truth[:, index], BLACK, lw=1.2, label='recorded')
        axes.plot(seconds, sent[:, index], ORANGE, lw=1.0, label='sent')
        for begin_ns, end_ns, _ in found.holds:
            span = ((begin_ns - start_ns) / 1e9, (end_ns - start_ns) / 1e9)
            axes.axvspan(*span, color='0.85', lw=0)
        axes.set_ylabel(name, fontsize=8)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
    grid[-1].set_xlabel('s; shaded: nothing was sent')
    figure.legend(*grid[0].get_legend_handles_labels(), loc='outside upper right', ncols=2)
    return png(figure)


def draw_horizon(errors: Sequence[tuple[str, Floats]], spec: RobotSpec) -> bytes:
    """Draw errors (W, A) over the place in the chunk, one plot a channel.

    Args:
        errors: With the name of what has each.
        spec: Names the channels and the rate.
    """
    names = spec.action_names[:JOINTS_SHOWN]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH_IN, 0.5 + 2.0 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).reshape(-1)
    for index, name in enumerate(names):
        for (label, error), colour in zip(errors, (ORANGE, BLUE, BLACK), strict=False):
            due_ms = np.arange(1, len(error) + 1) * 1e3 / spec.rate_hz
            grid[index].plot(due_ms, error[:, index], colour, marker='o', ms=3, label=label)
        grid[index].set_title(name, fontsize=9)
        grid[index].set_ylim(bottom=0)
        grid[index].grid(alpha=0.3)
        grid[index].tick_params(labelsize=7)
    for axes in grid[len(names) :]:
        axes.remove()
    figure.supxlabel('ms after the observation', fontsize=9)
    figure.supylabel(f'mean absolute error, {spec.action.unit}', fontsize=9)
    figure.legend(*grid[0].get_legend_handles_labels(), loc='outside upper right', ncols=3)
    return png(figure)


def _mean(errors: Floats) -> Floats:
    """Return the mean over the first axis, without NaN; NaN where there is nothing else."""
    count = (~np.isnan(errors)).sum(axis=0)
    total = np.nansum(errors, axis=0)
    mean: Floats = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return mean


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {key: _or_null(value) for key, value in values.items()}


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
