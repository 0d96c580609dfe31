"""What the recorder says about itself: `~/status` and `/diagnostics`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus
from vqbet_ros.recording.audit import AuditReport
from vqbet_ros.ros.diagnostics import diagnostic
from vqbet_ros.ros.recorder_disk import Disk
from vqbet_ros.ros.recorder_streams import TopicInput

STREAM_PREFIX = 'stream '
"""Begins the keys of `~/status` that tell of one stream each."""


@dataclass(frozen=True)
class Snapshot:
    """The recorder at one moment.

    Attributes:
        state: 'idle', 'recording', or what is under way: 'starting', 'stopping', 'recovering'.
        robot: The robot's name.
        disk: The disk.
        episode: Name of the running episode; empty if there is none.
        duration_s: Its length.
        written_mb: Size of its bag.
        queue_mb: What waits for the disk.
        queue_limit_mb: How much may.
        lost_here: Messages that came and could not be written.
        failure: Why nothing can be written; empty if all is well.
        max_callback_ms: The longest that a message's callback took.
        audit: Of the running episode.
        problems: While idle: why an episode cannot begin.
        notes: What else the operator should know.
        about: Further key-value pairs: task, operator, the last episode and so on.
    """

    state: str
    robot: str
    disk: Disk
    episode: str = ''
    duration_s: float = 0.0
    written_mb: float = 0.0
    queue_mb: float = 0.0
    queue_limit_mb: float = 0.0
    lost_here: int = 0
    failure: str = ''
    max_callback_ms: float = 0.0
    audit: AuditReport | None = None
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    about: dict[str, str] = field(default_factory=dict)

    @property
    def level(self) -> bytes:
        """ERROR for what loses data, WARN for what may spoil an episode."""
        if self.failure or self.lost_here or self.disk.level == 'stop':
            return DiagnosticStatus.ERROR
        if self.audit is not None and self.audit.why:
            return DiagnosticStatus.WARN
        if self.problems or self.notes or self.disk.level == 'warn':
            return DiagnosticStatus.WARN
        return DiagnosticStatus.OK

    @property
    def message(self) -> str:
        """The state in one line, then a line for each thing that is not as it should be."""
        head = self.state
        if self.episode:
            head += f' {self.episode}: {self.duration_s:.1f} s, {self.written_mb:.1f} MB'
        elif self.state == 'idle':
            head += ': not ready' if self.problems else ': ready'
        lines = [head]
        if self.failure:
            lines.append(f'nothing is written any more: {self.failure}')
        if self.lost_here:
            lines.append(f'{self.lost_here} message(s) lost: the disk is too slow')
        if self.disk.level != 'ok':
            lines.append(f'only {self.disk.free_gb:.1f} GB of disk are free')
        if self.audit is not None:
            lines += self.audit.why
        return '\n'.join([*lines, *self.problems, *self.notes])


def status(
    node: str, now: Snapshot, inputs: Sequence[TopicInput], now_ns: int
) -> DiagnosticStatus:
    """Return the content of `~/status`.

    Args:
        node: The node's name.
        now: The recorder.
        inputs: Its streams.
        now_ns: The time.
    """
    values = {
        'state': now.state,
        'episode': now.episode,
        'duration_s': f'{now.duration_s:.1f}',
        'verdict': now.audit.verdict if now.audit is not None else '',
        'written_mb': f'{now.written_mb:.1f}',
        'lost': lost_in_words(now),
        'lost_here': now.lost_here,
        'queue': f'{now.queue_mb:.1f} of {now.queue_limit_mb:g} MB',
        'free_disk': f'{now.disk.free_gb:.1f} GB' + _lasting(now.disk.left_s),
        'max_callback_ms': f'{now.max_callback_ms:.2f}',
        'problems': '; '.join(now.problems),
        **now.about,
        **{
            f'{STREAM_PREFIX}{one.expected.stream}': _stream(one, now.audit, now_ns)
            for one in inputs
        },
    }
    return diagnostic(f'{node}: state', now.robot, now.level, now.message, values)


def stream_statuses(node: str, now: Snapshot) -> list[DiagnosticStatus]:
    """Return what `/diagnostics` says about each stream of the running episode."""
    if now.audit is None:
        return []
    found: dict[str, list[str]] = {}
    for finding in now.audit.findings:
        found.setdefault(finding.stream, []).append(finding.text)
    statuses = []
    for report in now.audit.streams.values():
        name = report.expected.stream
        texts = found.get(name, [])
        level = DiagnosticStatus.WARN if texts else DiagnosticStatus.OK
        if report.lost_here:
            level = DiagnosticStatus.ERROR
        values = {key: value for key, value in vars(report).items() if key != 'expected'}
        values |= {'topic': report.expected.topic, 'type': report.expected.type}
        text = '; '.join(texts) or f'{report.rate_hz:.1f} Hz'
        statuses.append(diagnostic(f'{node}: {name}', now.robot, level, text, values))
    return statuses


def lost_in_words(now: Snapshot) -> str:
    """Say what was lost of the running episode, and where."""
    on_the_way = 0
    if now.audit is not None:
        on_the_way = sum(report.lost_on_the_way for report in now.audit.streams.values())
    return f'{on_the_way} on the way, {now.lost_here} here'


def _stream(one: TopicInput, audit: AuditReport | None, now_ns: int) -> str:
    rate_hz, expected_hz = one.rate_hz(now_ns), one.expected.rate_hz
    text = 'no messages' if rate_hz is None else f'{rate_hz:.1f} Hz'
    if rate_hz is None and one.newest_ns is not None:
        text = f'last message {max(0, now_ns - one.newest_ns) / 1e9:.1f} s ago'
    if expected_hz is not None:
        text += f' of {expected_hz:g}'
    if not one.offers:
        text = 'not published'
    report = audit.streams.get(one.expected.topic) if audit is not None else None
    if report is not None:
        lost = report.lost_on_the_way + report.lost_here
        text += f', {report.messages} recorded, {lost} lost'
    return f'{text}, {one.expected.topic}' if one.expected.topic != one.expected.stream else text


def _lasting(left_s: float | None) -> str:
    if left_s is None or left_s > 24 * 3600:
        return ''
    return f', enough for {left_s / 60:.0f} min'
