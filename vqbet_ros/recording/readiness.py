"""Whether an episode can begin: every reason why it cannot, for the person at the robot."""

from collections.abc import Iterable
from dataclasses import dataclass

from vqbet_ros.recording.expected import Expected, expected_streams, transports
from vqbet_ros.runtime.gate import check_age
from vqbet_ros.spec import RobotSpec
from vqbet_ros.structured import did_you_mean

MIN_RATE_SHARE = 0.8
"""Below this share of the rate in the spec, the audit would call the episode bad."""


@dataclass(frozen=True)
class Situation:
    """What is known of a topic now.

    Attributes:
        topic: Its name.
        publishers: How many there are.
        types: Every type that they publish.
        incompatible: Why their quality of service and ours cannot meet, or why there is no
            subscription; empty if all is well.
        newest_receive_ns: When the newest message came; None without any.
        newest_stamp_ns: Its header's stamp; None where it has none.
        rate_hz: The rate of late; None while too few messages came to tell.
        joint_names: The joints that its messages of late name, all together: arm and gripper may
            come in turns. None where they name none.
    """

    topic: str
    publishers: int = 0
    types: tuple[str, ...] = ()
    incompatible: str = ''
    newest_receive_ns: int | None = None
    newest_stamp_ns: int | None = None
    rate_hz: float | None = None
    joint_names: tuple[str, ...] | None = None


def problems(
    spec: RobotSpec,
    situations: Iterable[Situation],
    now_ns: int,
    extra_topics: Iterable[str] = (),
) -> list[str]:
    """List everything that keeps an episode from being worth recording now.

    Args:
        spec: What is needed.
        situations: One for each topic that is known of; a camera may come on either transport.
        now_ns: Now, on the clock of arrivals and stamps.
        extra_topics: Recorded when they are there: they may be absent, but not of two types.

    Returns:
        One line each, in the order of the spec; empty when an episode can begin.
    """
    known = {situation.topic: situation for situation in situations}
    lines: list[str] = []
    for stream in expected_streams(spec, extra_topics):
        lines += stream_problems(stream, known, now_ns)
    return lines


def stream_problems(stream: Expected, known: dict[str, Situation], now_ns: int) -> list[str]:
    """List what is wrong with one stream.

    Args:
        stream: What is expected.
        known: What there is, by topic.
        now_ns: Now.
    """
    ways = transports(stream)
    topic, kind = next(
        ((t, k) for t, k in ways if t in known and known[t].publishers),
        (stream.topic, stream.type),
    )
    situation = known.get(topic, Situation(topic))
    where = topic if stream.stream == topic else f'{stream.stream} ({topic})'
    if not situation.publishers:
        if not stream.needed:
            return []
        also = ''.join(f' nor {other}' for other, _ in ways if other != topic)
        return [
            f'{where}: nobody publishes {topic}{also}; is its driver running?'
            + did_you_mean(topic, (t for t, s in known.items() if s.publishers and t != topic))
        ]
    types = [t for t in situation.types if t != kind] if kind else situation.types[1:]
    if types:
        expected = kind or 'one type only'
        return [f'{where}: published as {", ".join(situation.types)}, expected {expected}']
    if situation.incompatible:
        return [f'{where}: {situation.incompatible}']
    if not stream.needed:
        return []
    if situation.newest_receive_ns is None:
        return [f'{where}: silent, {_publishers(situation.publishers)} but no message came yet']
    return [f'{where}: {problem}' for problem in _content_problems(stream, situation, now_ns)]


def _content_problems(stream: Expected, situation: Situation, now_ns: int) -> list[str]:
    """List what is wrong with the messages that came."""
    lines = []
    receive_ns, stamp_ns = situation.newest_receive_ns, situation.newest_stamp_ns
    silent = None
    if stream.max_age_ns is not None:
        silent = check_age('', receive_ns, now_ns, stream.max_age_ns)
        if silent is not None:
            silence_s = (now_ns - (receive_ns or 0)) / 1e9
            lines.append(f'silent for {silence_s:.1f} s, although it has a publisher')
        elif stamp_ns is not None:
            old = check_age('', stamp_ns, now_ns, stream.max_age_ns)
            if old is not None:
                lines.append(f'{old.kind.value}, {old.detail}')
    if stream.rate_hz is not None and silent is None:
        if situation.rate_hz is None:
            lines.append(
                f'too few messages so far to tell its rate, expected {stream.rate_hz:g} Hz'
            )
        elif situation.rate_hz < MIN_RATE_SHARE * stream.rate_hz:
            lines.append(f'too slow, {situation.rate_hz:.1f} Hz, expected {stream.rate_hz:g} Hz')
    if stream.joint_names:
        lines += _joint_problems(stream.joint_names, situation.joint_names or ())
    return lines


def _joint_problems(wanted: tuple[str, ...], got: tuple[str, ...]) -> list[str]:
    missing = [name for name in wanted if name not in got]
    if not missing:
        return []
    named = ', '.join(f"'{name}'{did_you_mean(name, got)}" for name in missing)
    return [f'joint(s) missing: {named}; it names {", ".join(got) or "none"}']


def _publishers(count: int) -> str:
    return 'it has a publisher' if count == 1 else f'it has {count} publishers'
