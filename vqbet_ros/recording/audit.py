"""The audit of an episode: its streams, what is wrong with them, and a verdict."""

from collections.abc import Iterable
from dataclasses import dataclass
import math
from typing import Any

from vqbet_ros.recording.expected import Expected, expected_streams
from vqbet_ros.recording.stream_audit import StreamAudit, StreamReport
from vqbet_ros.recording.verdict import find, find_short, Finding, judge, Severity, Verdict

__all__ = [
    'AuditReport',
    'EpisodeAudit',
    'Expected',
    'StreamAudit',
    'StreamReport',
    'expected_streams',
]

_HEADINGS = (
    'stream', 'messages', 'Hz', 'expected', 'gap s', 'jitter ms', 'lost', 'not written',
    'disorder', 'twice', 'delay ms', 'at most', 'frozen s',
)  # fmt: skip


@dataclass(frozen=True)
class AuditReport:
    """What an episode holds up to one moment.

    Attributes:
        duration_s: Since its beginning.
        streams: By topic.
        findings: The worst first.
        verdict: What they make of it.
    """

    duration_s: float
    streams: dict[str, StreamReport]
    findings: tuple[Finding, ...]
    verdict: Verdict

    @property
    def why(self) -> tuple[str, ...]:
        """What makes the verdict less than good."""
        return tuple(str(f) for f in self.findings if f.severity is not Severity.NOTE)

    def table(self) -> str:
        """Return all numbers in aligned columns, then the verdict and its reasons."""
        rows = [_HEADINGS, *(_row(report) for report in self.streams.values())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
        lines = [
            '  '.join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.append(f'verdict: {self.verdict} ({self.duration_s:.1f} s)')
        lines += [f'  - {finding.severity.value}: {finding}' for finding in self.findings]
        return '\n'.join(lines)

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as plain data for JSON, which knows no NaN: null in its place."""
        return {
            'verdict': self.verdict,
            'duration_s': round(self.duration_s, 3),
            'findings': [
                {
                    'kind': finding.kind.name.lower(),
                    'severity': finding.severity.value,
                    'stream': finding.stream,
                    'text': finding.text,
                }
                for finding in self.findings
            ],
            'streams': {topic: _numbers(report) for topic, report in self.streams.items()},
        }


class EpisodeAudit:
    """Judges all streams of an episode while it is recorded.

    Args:
        expected: What is recorded. Topics beside them are measured without being expected.
        start_ns: When the episode began; None takes each stream's first message.
    """

    def __init__(self, expected: Iterable[Expected], start_ns: int | None = None) -> None:
        self._start_ns = start_ns
        self.streams = {part.topic: StreamAudit(part, start_ns) for part in expected}

    def add(
        self,
        topic: str,
        receive_ns: int,
        stamp_ns: int | None,
        publish_ns: int,
        sequence: int | None,
        payload: Any,
    ) -> None:
        """Take one message in; for the arguments see `StreamAudit.add`."""
        stream = self.streams.get(topic) or self._unexpected(topic)
        stream.add(receive_ns, stamp_ns, publish_ns, sequence, payload)

    def lost_here(self, topic: str, count: int = 1) -> None:
        """Take note of messages that arrived but could not be queued."""
        (self.streams.get(topic) or self._unexpected(topic)).lost_here(count)

    def report(self, now_ns: int) -> AuditReport:
        """Return numbers, findings and verdict up to now.

        Args:
            now_ns: Now, or when the episode was ended (which is before its last bytes were
                written), on the clock of the arrivals.
        """
        reports = {topic: stream.report(now_ns) for topic, stream in list(self.streams.items())}
        durations_s = [report.duration_s for report in reports.values()]
        duration_s = max(durations_s, default=0.0)
        if self._start_ns is not None:
            duration_s = max(0, now_ns - self._start_ns) / 1e9
        findings = find_short(duration_s)
        for report in reports.values():
            findings += find(report)
        order = list(Severity)
        findings.sort(key=lambda finding: -order.index(finding.severity))
        return AuditReport(duration_s, reports, tuple(findings), judge(findings))

    def _unexpected(self, topic: str) -> StreamAudit:
        stream = StreamAudit(Expected(topic, topic, needed=False), self._start_ns)
        return self.streams.setdefault(topic, stream)


def _row(report: StreamReport) -> tuple[str, ...]:
    expected_hz = report.expected.rate_hz
    frozen = f'{report.longest_freeze_s:.1f}' if report.expected.is_camera else '-'
    return (
        report.expected.stream,
        str(report.messages),
        _number(report.rate_hz, 1),
        '-' if expected_hz is None else f'{expected_hz:g}',
        f'{report.largest_gap_s:.3f}',
        _number(report.jitter_ms, 1),
        str(report.lost_on_the_way),
        str(report.lost_here),
        str(report.out_of_order),
        str(report.duplicates),
        _number(report.delay_p50_ms, 1),
        _number(report.delay_max_ms, 1),
        frozen,
    )


def _number(value: float, digits: int) -> str:
    return '-' if math.isnan(value) else f'{value:.{digits}f}'


def _numbers(report: StreamReport) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        'stream': report.expected.stream,
        'type': report.expected.type,
        'expected_hz': report.expected.rate_hz,
    }
    for name, value in vars(report).items():
        if name in ('expected', 'recent_hz', 'duration_s'):
            continue
        if isinstance(value, float):
            value = None if math.isnan(value) else round(value, 4)
        numbers[name] = value
    return numbers
