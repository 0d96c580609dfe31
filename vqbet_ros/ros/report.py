"""What the policy node says about itself: `~/status` and `/diagnostics`."""

from collections.abc import Mapping, Sequence

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from numpy.typing import NDArray
from vqbet_ros.ros.diagnostics import diagnostic
from vqbet_ros.ros.pipeline import Pipeline
from vqbet_ros.runtime.gate import Reason, ReasonKind
from vqbet_ros.runtime.statistics import Samples
from vqbet_ros.runtime.stream import StreamCounts
from vqbet_ros.runtime.supervisor import State

_LEVELS = {
    State.DISARMED: DiagnosticStatus.OK,
    State.WAITING: DiagnosticStatus.WARN,
    State.RAMP_IN: DiagnosticStatus.OK,
    State.RUNNING: DiagnosticStatus.OK,
    State.HOLD: DiagnosticStatus.WARN,
    State.FAULT: DiagnosticStatus.ERROR,
}
_CALL_RESET = 'ros2 service call {node}/reset std_srvs/srv/Trigger'
_RESET = 'mend the cause, then ' + _CALL_RESET
_ENABLE = 'ros2 service call {node}/enable std_srvs/srv/SetBool "{{data: true}}"'
_HINTS = {
    ReasonKind.MISSING: 'is its driver running? ros2 topic hz {topic}',
    ReasonKind.STALE: 'has its driver stopped? ros2 topic hz {topic}',
    ReasonKind.FUTURE: 'synchronise the clocks of the machines',
    ReasonKind.GAP: 'does it publish at the rate of the spec? ros2 topic hz {topic}',
    ReasonKind.BAD_MESSAGE: 'compare with the spec: ros2 topic echo --once {topic}',
    ReasonKind.SKEW: 'is its driver late? ros2 topic delay {topic}',
    ReasonKind.FROZEN: 'does its picture move? restart its driver ({topic})',
    ReasonKind.OUT_OF_RANGE: 'compare the limits of the spec with: ros2 topic echo --once {topic}',
    ReasonKind.DISARMED: _ENABLE,
    ReasonKind.HELD: 'see recent for what held it, then ' + _ENABLE,
    ReasonKind.PLAN_ENDED: 'see the inference time in /diagnostics',
    ReasonKind.INFERENCE_LATE: 'see the inference time in /diagnostics',
    ReasonKind.INFERENCE_DEAD: 'see the log, then start the node again',
    ReasonKind.NO_START: 'does the state hold the joints of the action?',
    ReasonKind.START_TOO_FAR: 'move the robot nearer to where demonstrations begin, then '
    + _ENABLE,
    ReasonKind.ESTOP: 'release it, then ' + _CALL_RESET,
    ReasonKind.DEADMAN: 'press it: ros2 topic hz {node}/deadman',
    ReasonKind.FOREIGN_PUBLISHER: 'end the other node, then ' + _CALL_RESET,
    ReasonKind.CONTROLLER: 'is it active? ros2 control list_controllers',
    ReasonKind.CLOCK_JUMP: 'does something set the clock? see chronyc tracking',
    ReasonKind.CLOCK_STANDS: 'is the simulation paused? ros2 topic hz /clock',
    ReasonKind.TRACKING: _RESET,
    ReasonKind.REFUSED: _RESET,
    ReasonKind.BAD_CHUNK: _RESET,
    ReasonKind.FAULT: _RESET,
}


def warm_up_report() -> None:
    """Compute a first percentile: with torch loaded it takes numpy 50 ms, and only the first."""
    samples = Samples()
    samples.add(0.0)
    samples.summary()


class Reporter:
    """Turns a pipeline's numbers into diagnostic messages.

    Args:
        node: The node's full name, for the hints.
        prefix: Begins every component's name.
        hardware_id: The robot's name.
    """

    def __init__(self, node: str, prefix: str, hardware_id: str) -> None:
        """Start with no counts."""
        self._node = node
        self._prefix = prefix
        self._hardware_id = hardware_id
        self._last_counts: dict[str, StreamCounts] = {}
        self._last_ns: int | None = None

    def status(self, pipeline: Pipeline, **more: object) -> DiagnosticStatus:
        """Return the content of `~/status`.

        Args:
            pipeline: The pipeline.
            more: Further key-value pairs.
        """
        state, reasons = pipeline.situation()
        topics = {part.stream: part.topic for part in pipeline.spec.streams}
        text = '; '.join(str(reason) for reason in reasons)
        values = {
            'state': state.value,
            'reason': text,
            'hint': '; '.join(dict.fromkeys(self._hint(reason, topics) for reason in reasons)),
            **more,
            'recent': ' | '.join(text for _, text in reversed(tuple(pipeline.recent))),
        }
        message = f'{state.value}: {text}' if text else state.value
        return self._component('state', _LEVELS[state], message, values)

    def components(
        self, pipeline: Pipeline, now_ns: int, lost: Mapping[str, int]
    ) -> list[DiagnosticStatus]:
        """Return the content of `/diagnostics`, but for the state; call it about once a second.

        Args:
            pipeline: The pipeline.
            now_ns: Now.
            lost: For each stream, how many messages did not arrive.
        """
        statistics = pipeline.statistics
        control = statistics.control
        inference, figures = pipeline.inference, pipeline.figures()
        clips, seam = pipeline.clips(), pipeline.supervisor.seam
        names = pipeline.spec.action_names
        rejected = {
            f'rejected: {kind.value}': n for kind, n in pipeline.supervisor.rejected.items()
        }
        missed = {
            'ticks': control.ticks,
            'missed_ticks': control.missed,
            'p99_error_ms': f'{control.error_ms.summary()["p99"]:.3f}',
        }
        return [
            self._measured(
                'inference',
                inference.inference_ms,
                'ms',
                {'confidence': f'{inference.confidence:.3f}', **rejected},
            ),
            self._measured('decode', inference.decode_ms, 'ms', {}),
            self._measured('control', control.period_ms, 'ms period', missed),
            self._measured('latency', statistics.latency_ms, 'ms, observation to command', {}),
            self._component(
                'limiter',
                DiagnosticStatus.WARN if clips else DiagnosticStatus.OK,
                f'{sum(clips.values())} command(s) clamped',
                {f'clamped {name}, {limit}': count for (name, limit), count in clips.items()},
            ),
            self._component(
                'motion',
                DiagnosticStatus.OK,
                f'at most {np.max(figures.reversals_hz):.1f} reversals/s',
                {
                    **_each('reversals_hz', names, figures.reversals_hz),
                    **_each('jerk', names, figures.jerk),
                    **_each('seam', names, seam),
                    'confidence': f'{figures.confidence:.3f}',
                    'dropped_actions': pipeline.supervisor.dropped,
                },
            ),
            *self._observations(pipeline, now_ns, lost),
        ]

    def _observations(
        self, pipeline: Pipeline, now_ns: int, lost: Mapping[str, int]
    ) -> list[DiagnosticStatus]:
        counts, ages = pipeline.buffer.counts(), pipeline.buffer.ages_ns(now_ns)
        reasons = {reason.stream: reason for reason in pipeline.check(now_ns)}
        elapsed_s = (now_ns - self._last_ns) / 1e9 if self._last_ns is not None else 0.0
        youngest_ns = min((age for age in ages.values() if age is not None), default=0)
        components = []
        for part in pipeline.spec.streams:
            name = part.stream
            count, last = counts[name], self._last_counts.get(name, StreamCounts())
            rate_hz = (count.received - last.received) / elapsed_s if elapsed_s > 0 else 0.0
            age_ns, reason = ages[name], reasons.get(name)
            values = {
                'topic': part.topic,
                'rate_hz': f'{rate_hz:.1f}',
                'expected_hz': f'{part.rate_hz:g}',
                'age_ms': 'none' if age_ns is None else f'{age_ns / 1e6:.0f}',
                'max_age_ms': f'{part.max_age_s * 1e3:g}',
                'skew_ms': 'none' if age_ns is None else f'{(age_ns - youngest_ns) / 1e6:.0f}',
                'received': count.received,
                'lost': lost.get(name, 0),
                'dropped': count.not_newer + count.before_reset,
                'unstamped': count.unstamped,
                'bad_messages': count.bad,
                'clock_resets': count.clock_resets,
            }
            level, message = DiagnosticStatus.OK, f'{rate_hz:.1f} Hz'
            if reason is not None:
                bad = reason.kind is ReasonKind.BAD_MESSAGE
                level, message = (
                    DiagnosticStatus.ERROR if bad else DiagnosticStatus.STALE,
                    str(reason),
                )
            components.append(self._component(f'observation/{name}', level, message, values))
        self._last_counts, self._last_ns = counts, now_ns
        return components

    def _measured(
        self, name: str, samples: Samples, unit: str, more: Mapping[str, object]
    ) -> DiagnosticStatus:
        summary = samples.summary()
        values = {
            'count': samples.count,
            **{f'{key}_ms': f'{value:.3f}' for key, value in summary.items()},
            **more,
        }
        message = f'median {summary["p50"]:.1f}, largest {summary["max"]:.1f} {unit}'
        if not samples.count:
            message = 'not yet measured'
        return self._component(name, DiagnosticStatus.OK, message, values)

    def _component(
        self, name: str, level: bytes, message: str, values: Mapping[str, object]
    ) -> DiagnosticStatus:
        return diagnostic(f'{self._prefix}: {name}', self._hardware_id, level, message, values)

    def _hint(self, reason: Reason, topics: dict[str, str]) -> str:
        topic = topics.get(reason.stream or '', '')
        return _HINTS.get(reason.kind, '').format(topic=topic, node=self._node)


def _each(
    what: str, names: Sequence[str], numbers: NDArray[np.float64] | None
) -> dict[str, object]:
    shown = ['none'] * len(names) if numbers is None else [f'{number:.4g}' for number in numbers]
    return {f'{what} {name}': text for name, text in zip(names, shown, strict=True)}
