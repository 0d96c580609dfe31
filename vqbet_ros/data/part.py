"""One bag's share of a dataset: read, aligned and written to a small dataset of its own.

This is what the processes of `prepare` do, each for one bag at a time. Memory does not grow with
the bag: an episode passes through in pieces.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
import itertools
import json
from pathlib import Path

from vqbet_ros.config import Outcome
from vqbet_ros.data.align import align, GapFound, Gaps, Piece, Problems
from vqbet_ros.data.bag import Bag
from vqbet_ros.data.episode import Episode
from vqbet_ros.data.layout import OUTCOMES
from vqbet_ros.data.manifest import AgeSummary, BagEntry, EpisodeEntry, spec_sha256
from vqbet_ros.data.tracks import seconds
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.errors import BadBag, BadDataset, VqbetError
from vqbet_ros.runtime.statistics import Samples
from vqbet_ros.spec import RobotSpec

OLD_COMMAND_NS = 1_000_000_000
"""An older command is noted where the spec does not say how long one is valid."""


@dataclass(frozen=True)
class Task:
    """What a process is asked to do.

    Attributes:
        bag: The bag.
        part: Directory to make for the small dataset.
        spec: What to read the bag with; None for the bag's own.
        dataset_spec: What the dataset holds: the bag's spec must agree with it, and stands in
            where the bag has none.
        gaps: See `align`.
        min_steps: Shorter episodes are left out.
        known: Hashes of the bags that the dataset already holds.
    """

    bag: Path
    part: Path
    spec: RobotSpec | None
    dataset_spec: RobotSpec
    gaps: Gaps
    min_steps: int
    known: frozenset[str]


@dataclass(frozen=True)
class Result:
    """What became of a bag.

    Attributes:
        bag: The bag.
        entry: For the manifest; None where the bag could not be used. Its episodes are counted
            from 0, and there are none where the dataset already holds the bag.
        error: Why the bag could not be used.
    """

    bag: Path
    entry: BagEntry | None
    error: str | None = None


def make_part(task: Task) -> Result:
    """Turn one bag into a small dataset in `task.part`; errors of the bag are in the result.

    Raises:
        GapFound: There are gaps, and `task.gaps` is 'fail'.
        BadDataset: The part could not be written: a full disk, for example.
    """
    try:
        with Bag.reading(task.bag) as bag:
            return Result(task.bag, _made(task, bag))
    except GapFound as error:
        raise GapFound(f'{task.bag}: {error}') from error
    except BadDataset as error:
        raise BadDataset(f'{task.bag} could not be prepared: {error}') from error
    except VqbetError as error:
        return Result(task.bag, None, str(error))


def spec_of(bag: Bag, given: RobotSpec | None, dataset: RobotSpec) -> RobotSpec:
    """Return the spec to read a bag with.

    Raises:
        SpecMismatch: It means something else than the dataset's; lists every difference.
        ConfigError: The bag's own spec is broken.
    """
    spec = given or bag.spec or dataset
    dataset.require_equal(spec, ours='dataset', theirs='bag')
    return spec


def outcome_of(bag: Bag) -> Outcome:
    """Return how the bag's demonstration ended, as far as somebody said so.

    Raises:
        BadBag: It says something unknown.
    """
    text = bag.custom_data.get('vqbet.outcome') or 'unmarked'
    for outcome in OUTCOMES:
        if text == outcome:
            return outcome
    raise BadBag(f"{bag.path}: its outcome is '{text}', expected one of {', '.join(OUTCOMES)}")


def _made(task: Task, bag: Bag) -> BagEntry:
    spec = spec_of(bag, task.spec, task.dataset_spec)
    spec = bag.require(spec)  # raw cameras may have been recorded compressed
    outcome, sha256 = outcome_of(bag), bag.sha256()
    episodes: list[EpisodeEntry] = []
    problems = Problems()
    if sha256 not in task.known:
        messages = bag.messages(spec.recorded_topics)
        pieces = align(messages, spec, gaps=task.gaps, problems=problems)
        with DatasetWriter(task.part, task.dataset_spec, '', durable=False) as writer:
            try:
                for _, group in itertools.groupby(pieces, key=lambda piece: piece.episode):
                    taken = _long_enough(group, task.min_steps, problems)
                    if taken is not None:
                        notes = _Notes(spec, problems)
                        writer.add_pieces(notes.of(taken), outcome)
                        episodes.append(notes.entry())
            except GapFound as error:
                if task.gaps == 'fail':
                    raise
                problems.note(f'dropped: {error}')
                episodes = []
    verdict = _verdict(bag, problems)
    return BagEntry(
        name=bag.path.name,
        sha256=sha256,
        spec_sha256=spec_sha256(spec),
        first_episode=0,
        episodes=tuple(episodes),
        outcome=outcome,
        verdict=verdict,
        task=bag.custom_data.get('vqbet.task', ''),
        rates_hz=_rates_hz(bag, spec),
        problems=tuple(problems.texts()),
    )


class _Notes:
    """Looks at an episode's pieces as they pass."""

    def __init__(self, spec: RobotSpec, problems: Problems) -> None:
        self._problems = problems
        self._ages = {part.stream: Samples() for part in spec.streams}
        self._command_ages = {source.label: Samples() for source in spec.action.sources}
        # Where the spec says how long a command is valid, an older one was a gap already.
        self._unlimited = [s.label for s in spec.action.sources if s.max_age_ns is None]
        self._old_ns = max(OLD_COMMAND_NS, 2 * spec.period_ns)
        self._old: Counter[str] = Counter()
        self._frames = 0
        self._start_ns = 0

    def of(self, pieces: Iterable[Piece]) -> Iterator[Episode]:
        for piece in pieces:
            if self._frames == 0:
                self._start_ns = int(piece.stamps_ns[0])
            self._frames += len(piece.stamps_ns)
            for samples, ages in (
                (self._ages, piece.ages_ns),
                (self._command_ages, piece.command_ages_ns),
            ):
                for name, ages_ns in ages.items():
                    for age_ns in ages_ns.tolist():
                        samples[name].add(age_ns / 1e6)
            for label in self._unlimited:
                self._old[label] += int((piece.command_ages_ns[label] > self._old_ns).sum())
            yield Episode(piece.state, piece.action, piece.images)

    def entry(self) -> EpisodeEntry:
        ages, command_ages = _summaries(self._ages), _summaries(self._command_ages)
        for label, steps in self._old.items():
            if steps:
                self._problems.note(
                    f'{label}: at {steps} of the {self._frames} steps from '
                    f'{seconds(self._start_ns)} on the command was older than '
                    f'{self._old_ns / 1e9:g} s (up to {command_ages[label].max_ms / 1e3:.1f} s): '
                    'had what sends it stopped? How long a command is valid, the spec can say '
                    '(record_max_age_s, gripper.max_age_s)'
                )
        return EpisodeEntry(self._frames, self._start_ns, ages, command_ages)


def _summaries(ages: dict[str, Samples]) -> dict[str, AgeSummary]:
    summaries = {name: samples.summary() for name, samples in ages.items()}
    return {
        name: AgeSummary(*(round(summary[key], 3) for key in ('p50', 'p99', 'max')))
        for name, summary in summaries.items()
    }


def _long_enough(
    pieces: Iterator[Piece], min_steps: int, problems: Problems
) -> Iterator[Piece] | None:
    """Return an episode's pieces if it has as many steps, else note that it is left out."""
    head: list[Piece] = []
    steps = 0
    for piece in pieces:
        head.append(piece)
        steps += len(piece.stamps_ns)
        if steps >= min_steps:
            return itertools.chain(head, pieces)
    problems.note(f'{steps} step(s) left out: an episode has at least {min_steps}')
    return None


def _rates_hz(bag: Bag, spec: RobotSpec) -> dict[str, float]:
    """Return each stream's rate over the whole bag."""
    duration_s = (bag.end_ns - bag.start_ns) / 1e9
    if duration_s <= 0:
        return {}
    return {
        part.stream: round((bag.topics[part.topic].count - 1) / duration_s, 3)
        for part in spec.streams
    }


def _verdict(bag: Bag, problems: Problems) -> str:
    """Return the verdict of the recorder's audit; a bad one is noted."""
    text = bag.custom_data.get('vqbet.audit')
    if not text:
        return ''
    try:
        audit = json.loads(text)
    except ValueError as error:
        raise BadBag(f'{bag.path}: its audit is not valid JSON: {error}') from error
    if not isinstance(audit, dict):
        return ''
    if audit.get('verdict') == 'bad':
        findings = audit.get('findings')
        why = [
            ': '.join(str(found[key]) for key in ('stream', 'text') if found.get(key))
            for found in (findings if isinstance(findings, list) else [])
            if isinstance(found, dict) and found.get('severity') == 'bad'
        ]
        problems.note(f"the recorder's audit found it bad: {'; '.join(why)}")
    return str(audit.get('verdict') or '')
