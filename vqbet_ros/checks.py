"""Checks of spec fields, each with its message; all that fail are reported together."""

from collections.abc import Iterable, Sequence
import math
import re

Check = tuple[object, str]
"""Whether something holds, and what to say if it does not."""

_IDENTIFIER = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')
_TOPIC = re.compile(r'(/[A-Za-z_][A-Za-z0-9_]*)+')


def require(*checks: Check) -> None:
    """Raise one ValueError that names every failed check (from_mapping adds where)."""
    problems = [problem for passed, problem in checks if not passed]
    if problems:
        raise ValueError('; '.join(problems))


def positive(value: float) -> bool:
    """Tell whether a number is finite and more than 0."""
    return math.isfinite(value) and value > 0


def identifier_check(key: str, name: str) -> Check:
    """Check a name that also names files and arrays."""
    expected = 'letters, digits and _, no digit first'
    return (_IDENTIFIER.fullmatch(name), f'{key}: got {name!r}, expected {expected}')


def topic_check(key: str, topic: str) -> Check:
    """Check that a topic is absolute, so that no namespace changes what the spec says."""
    return (
        _TOPIC.fullmatch(topic),
        f'{key}: got {topic!r}, expected an absolute topic, /like/this',
    )


def stream_checks(
    topic: str, rate_hz: float, latency_s: float, max_age_s: float
) -> Iterable[Check]:
    """Check what cameras and proprioception have in common."""
    yield topic_check('topic', topic)
    yield (positive(rate_hz), f'rate_hz: got {rate_hz}, expected more than 0')
    yield (
        math.isfinite(latency_s) and latency_s >= 0,
        f'latency_s: got {latency_s}, expected 0 or more',
    )
    yield (positive(max_age_s), f'max_age_s: got {max_age_s}, expected more than 0')
    if positive(rate_hz) and positive(max_age_s) and latency_s >= 0:
        oldest_s = latency_s + 1 / rate_hz
        at = f'at {rate_hz:g} Hz with a latency of {latency_s:g} s'
        yield (
            max_age_s >= oldest_s,
            f'max_age_s: got {max_age_s}, but {at} a sample is up to {oldest_s:g} s old',
        )


def name_checks(key: str, names: Sequence[str]) -> Iterable[Check]:
    """Check that there are names, none empty, none twice."""
    yield (names, f'{key}: got an empty list, expected at least one name')
    yield (all(names), f"{key}: got an empty name ''")
    yield from unique_checks(key, names)


def unique_checks(key: str, names: Sequence[str]) -> Iterable[Check]:
    """Check that no name appears twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    yield (not twice, f'{key}: {", ".join(twice)} appears more than once')
