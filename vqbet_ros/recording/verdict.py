"""What the numbers of an episode mean: findings, and whether it is good, usable or bad."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
import math
from typing import Literal, NamedTuple

from vqbet_ros.recording.stream_audit import StreamReport

Verdict = Literal['good', 'usable', 'bad']


class Severity(Enum):
    """How much a finding takes from an episode."""

    NOTE = 'note'
    """Worth knowing."""
    WARNING = 'warning'
    """The episode can be used, but it could be better."""
    BAD = 'bad'
    """Nobody should train on it without looking."""


class FindingKind(Enum):
    """What can be wrong with a stream; the value is what people read."""

    SILENT = 'silent'
    SLOW = 'slow'
    FAST = 'fast'
    GAP = 'gap'
    JITTER = 'jitter'
    LOST_ON_THE_WAY = 'lost on the way'
    LOST_HERE = 'lost here'
    OUT_OF_ORDER = 'out of order'
    DUPLICATE = 'duplicate stamps'
    UNSTAMPED = 'unstamped'
    DELAY = 'delay'
    DELAY_PEAK = 'delay peak'
    FUTURE = 'stamps in the future'
    FROZEN = 'frozen'
    CLOCK_JUMP = 'clock jump'
    SHORT = 'short'


class Limit(NamedTuple):
    """Beyond which measured value a finding is a warning, and beyond which it is bad."""

    warning: float
    bad: float


LIMITS: dict[FindingKind, Limit] = {
    # Share missing of the rate in the spec. Timers of drivers are right to a few percent; with a
    # fifth missing, one frame in five that the policy sees is older than in use.
    FindingKind.SLOW: Limit(0.05, 0.2),
    # Share above the rate in the spec. More data harms nobody, but half as much again means two
    # publishers, or a spec of another camera mode.
    FindingKind.FAST: Limit(0.5, math.inf),
    # Largest gap over the spec's max_age_s. Beyond 1 the running robot would have stopped there,
    # and the dataset is cut there; beyond 4 the motion in between is another one.
    FindingKind.GAP: Limit(1.0, 4.0),
    # Standard deviation of the intervals over the period, of which less than 10 ms counts as
    # 10 ms: no policy is fast enough to notice. Data are interpolated, so it is never bad.
    FindingKind.JITTER: Limit(0.5, math.inf),
    # Share of messages. Nothing should be lost; 2 % are a lost frame every two seconds.
    FindingKind.LOST_ON_THE_WAY: Limit(0.0, 0.02),
    FindingKind.LOST_HERE: Limit(0.0, 0.02),
    # Share of messages. They are let go when the episode is made into data: as if lost.
    FindingKind.OUT_OF_ORDER: Limit(0.0, 0.02),
    FindingKind.DUPLICATE: Limit(0.0, 0.02),
    # Share of messages. They are taken at their arrival, which is later by the delay.
    FindingKind.UNSTAMPED: Limit(0.0, math.inf),
    # Median delay over max_age_s: at 1 the running robot would hardly ever move, at a half it
    # has little left for a hiccup.
    FindingKind.DELAY: Limit(0.5, 1.0),
    # Largest delay over max_age_s. The data are whole, only late; in use it is a stop.
    FindingKind.DELAY_PEAK: Limit(1.0, math.inf),
    # Seconds. NTP in one room is right to a few ms; 0.1 s is one step of a slow policy, by which
    # this stream would be paired with the wrong moment of the others.
    FindingKind.FUTURE: Limit(0.005, 0.1),
    # Seconds in which a camera showed the very same bytes. Sensors are noisy: real pictures of a
    # scene at rest differ. A second may be a simulated one at rest; five are a camera that hangs.
    FindingKind.FROZEN: Limit(1.0, 5.0),
    # Number. Before and after it, the streams are paired wrongly.
    FindingKind.CLOCK_JUMP: Limit(0.0, 0.0),
    # Not measured against limits: see `find`.
}
SHORT_S = 1.0
"""Shorter episodes are a slip of the finger, and too short to tell a rate."""
_JITTER_FLOOR_S = 0.01


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        kind: What.
        severity: How bad.
        stream: Of which stream; empty for the episode as a whole.
        text: For people, with numbers and units.
    """

    kind: FindingKind
    severity: Severity
    stream: str
    text: str

    def __str__(self) -> str:
        where = f'{self.stream}: ' if self.stream else ''
        return f'{where}{self.text}'


def find(report: StreamReport) -> list[Finding]:
    """List what is wrong with one stream."""
    stream = report.expected.stream
    if not report.messages:
        text = f'nothing came on {report.expected.topic}'
        if report.lost_here:
            text = f'all {report.lost_here} messages were lost: the disk is too slow'
        bad = report.expected.needed or report.lost_here
        severity = Severity.BAD if bad else Severity.NOTE
        return [Finding(FindingKind.SILENT, severity, stream, text)]
    findings = []
    for kind, value, text in _measured(report):
        limit = LIMITS[kind]
        if value > limit.warning:
            severity = Severity.BAD if value > limit.bad else Severity.WARNING
            findings.append(Finding(kind, severity, stream, text))
    return findings


def find_short(duration_s: float) -> list[Finding]:
    """Say so when an episode is too short to be one."""
    if duration_s >= SHORT_S:
        return []
    text = f'the episode is only {duration_s:.2f} s long'
    return [Finding(FindingKind.SHORT, Severity.WARNING, '', text)]


def judge(findings: Iterable[Finding]) -> Verdict:
    """Return what the findings make of an episode."""
    severities = {finding.severity for finding in findings}
    if Severity.BAD in severities:
        return 'bad'
    return 'usable' if Severity.WARNING in severities else 'good'


def _measured(report: StreamReport) -> Iterator[tuple[FindingKind, float, str]]:
    """Yield every measurement as LIMITS counts it, with what to say about it."""
    total = report.messages
    lost, here = report.lost_on_the_way, report.lost_here
    everything = total + lost + here
    yield from _rates(report)
    yield (
        FindingKind.LOST_ON_THE_WAY,
        lost / everything,
        f'{lost} of {everything} messages were published but never arrived '
        f'({lost / everything:.1%})',
    )
    yield (
        FindingKind.LOST_HERE,
        here / everything,
        f'{here} of {everything} messages arrived but could not be written in time '
        f'({here / everything:.1%}): the disk is too slow',
    )
    for kind, count, what in (
        (
            FindingKind.OUT_OF_ORDER,
            report.out_of_order,
            'are stamped before one that came earlier',
        ),
        (FindingKind.DUPLICATE, report.duplicates, 'bear the same stamp as the one before'),
        (FindingKind.UNSTAMPED, report.unstamped, 'bear no stamp'),
    ):
        yield (kind, count / total, f'{count} of {total} messages {what} ({count / total:.1%})')
    yield from _delays(report)
    if report.expected.is_camera:
        yield (
            FindingKind.FROZEN,
            report.longest_freeze_s,
            f'the same picture for {report.longest_freeze_s:.1f} s; '
            f'{report.repeats} of {total} pictures repeat the one before',
        )
    jumps = report.clock_jumps
    yield (
        FindingKind.CLOCK_JUMP,
        jumps,
        f'the clock of the stamps jumped {jumps} time(s) against the clock here',
    )


def _rates(report: StreamReport) -> Iterator[tuple[FindingKind, float, str]]:
    """Yield rate, largest gap and jitter; they mean nothing where the spec promises no rate."""
    rate_hz, max_age_ns = report.expected.rate_hz, report.expected.max_age_ns
    if rate_hz is not None and report.duration_s >= SHORT_S:
        # Of the first and of the last interval only a part belongs to the episode.
        wanted = rate_hz * report.duration_s
        text = f'{report.rate_hz:.1f} Hz, expected {rate_hz:g} Hz'
        yield (FindingKind.SLOW, 1 - (report.messages + 1) / wanted, text)
        yield (FindingKind.FAST, (report.messages - 1) / wanted - 1, text)
        period_s = max(1 / rate_hz, _JITTER_FLOOR_S)
        text = f'intervals vary by {report.jitter_ms:.1f} ms (standard deviation)'
        yield (FindingKind.JITTER, report.jitter_ms / 1e3 / period_s, text)
    if max_age_ns is not None:
        max_age_s = max_age_ns / 1e9
        yield (
            FindingKind.GAP,
            report.largest_gap_s / max_age_s,
            f'nothing for {report.largest_gap_s:.2f} s from {report.gap_at_s:.1f} s on, '
            f'limit {max_age_s:g} s',
        )


def _delays(report: StreamReport) -> Iterator[tuple[FindingKind, float, str]]:
    """Yield the delays from stamp to arrival; NaN, where there are no stamps, finds nothing."""
    ahead_ms = -report.delay_min_ms
    yield (
        FindingKind.FUTURE,
        ahead_ms / 1e3,
        f'stamps lie up to {ahead_ms:.0f} ms in the future: synchronise the clocks, or give all '
        'nodes the same use_sim_time',
    )
    if report.expected.max_age_ns is not None:
        max_age_ms = report.expected.max_age_ns / 1e6
        limit = f'limit {max_age_ms:g} ms'
        p50, peak = report.delay_p50_ms, report.delay_max_ms
        yield (
            FindingKind.DELAY,
            p50 / max_age_ms,
            f'messages arrive {p50:.0f} ms after their stamp, {limit}',
        )
        yield (
            FindingKind.DELAY_PEAK,
            peak / max_age_ms,
            f'one message arrived {peak:.0f} ms after its stamp, {limit}',
        )
