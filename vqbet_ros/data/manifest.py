"""manifest.json of a dataset: which bags it was made of, how, and what was wrong with them.

It is replaced before dataset.json. An entry whose episodes are not (yet) those of the dataset
belongs to an appending that was cut short, and is ignored.
"""

from collections.abc import Sequence
import dataclasses
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.config import Outcome
from vqbet_ros.data.layout import write_atomically
from vqbet_ros.data.store import Dataset
from vqbet_ros.errors import BadDataset, ConfigError, listed
from vqbet_ros.spec import RobotSpec
from vqbet_ros.structured import from_mapping, to_mapping

MANIFEST = 'manifest.json'


@dataclass(frozen=True)
class Parameters:
    """What decides the arrays besides spec and bags; the same for a whole dataset.

    Attributes:
        rate_hz: Steps per second.
        gaps: What is done about missing data; see `align`.
        min_steps: Shorter episodes are left out.
        resize: How images get to the spec's size: large JPEGs decoded at a fraction of their size,
            cut, then cv2's INTER_AREA; both average (the antialiasing); only ever smaller.
    """

    rate_hz: float
    gaps: str
    min_steps: int
    resize: str = 'JPEG reduced by 2, 4 or 8 where it is larger yet; crop, then area average'


@dataclass(frozen=True)
class AgeSummary:
    """How old a stream's samples were at the steps of an episode, in ms."""

    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class EpisodeEntry:
    """One episode of the dataset.

    Attributes:
        frames: Its steps.
        start_ns: Time of the first one.
        ages: By stream.
        command_ages: Of the commands when they were due, by 'action' and 'gripper'; only where
            commands were recorded.
    """

    frames: int
    start_ns: int
    ages: dict[str, AgeSummary]
    command_ages: dict[str, AgeSummary] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class BagEntry:
    """One bag.

    Attributes:
        name: The bag's own name, for people.
        sha256: Of its messages; what identifies it.
        spec_sha256: Of the spec that it was read with.
        first_episode: Number of the first of its episodes.
        episodes: In order; none where no stretch was long enough.
        outcome: Of the demonstration.
        verdict: Of the audit that was made while recording; empty where there was none.
        rates_hz: Measured, by stream.
        task: What was demonstrated.
        problems: What was cut away or left out, and why.
    """

    name: str
    sha256: str
    spec_sha256: str
    first_episode: int
    episodes: tuple[EpisodeEntry, ...]
    outcome: Outcome
    verdict: str = ''
    task: str = ''
    rates_hz: dict[str, float] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def numbers(self) -> range:
        """Numbers of its episodes."""
        return range(self.first_episode, self.first_episode + len(self.episodes))

    def is_in(self, ends: Sequence[int]) -> bool:
        """Tell whether these are really the dataset's episodes, given their ends."""
        if self.numbers.stop > len(ends):
            return False
        lengths = [ends[i] - (ends[i - 1] if i else 0) for i in self.numbers]
        return lengths == [episode.frames for episode in self.episodes]


@dataclass(frozen=True)
class Manifest:
    """All bags of a dataset.

    Attributes:
        parameters: How they were read.
        bags: In the order of their episodes.
    """

    parameters: Parameters
    bags: tuple[BagEntry, ...] = ()

    @classmethod
    def read(cls, dataset: Path, ends: Sequence[int]) -> 'Manifest | None':
        """Read the manifest of a dataset, without what was cut short.

        Args:
            dataset: The directory.
            ends: The frame after the last one of each episode that is there.

        Returns:
            None where the dataset has none: it was not made of bags.

        Raises:
            BadDataset: It is broken.
        """
        path = dataset / MANIFEST
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            manifest = from_mapping(cls, content, str(path))
        except (ValueError, ConfigError) as error:
            raise BadDataset(f'{path} is broken: {error}') from error
        return dataclasses.replace(
            manifest, bags=tuple(bag for bag in manifest.bags if bag.is_in(ends))
        )

    def write(self, dataset: Path) -> None:
        """Replace the manifest of a dataset.

        Raises:
            BadDataset: It could not be written; the old one stays.
        """
        text = json.dumps(to_mapping(self), indent=1) + '\n'
        try:
            write_atomically(dataset / MANIFEST, text.encode())
        except OSError as error:
            raise BadDataset(
                f'could not write {dataset / MANIFEST}: {error.strerror or error}. '
                'Free some space, or choose another place'
            ) from error

    def with_bag(self, entry: BagEntry) -> 'Manifest':
        """Return a manifest with one more bag, or with a bag's entry replaced."""
        if self.find(entry.sha256) is None:
            return dataclasses.replace(self, bags=(*self.bags, entry))
        bags = tuple(entry if bag.sha256 == entry.sha256 else bag for bag in self.bags)
        return dataclasses.replace(self, bags=bags)

    def find(self, sha256: str) -> BagEntry | None:
        """Return the entry of a bag."""
        return next((bag for bag in self.bags if bag.sha256 == sha256), None)

    def require_same(self, parameters: Parameters, dataset: Path) -> None:
        """Refuse to go on with other parameters.

        Raises:
            BadDataset: Lists every difference.
        """
        old, new = dataclasses.asdict(self.parameters), dataclasses.asdict(parameters)
        problems = [f'{key}: {old[key]}, {new[key]}' for key in old if old[key] != new[key]]
        if problems:
            title = (
                f'{dataset} was prepared otherwise, in {len(problems)} point(s) (there, now); '
                'give the same options, or write to another directory'
            )
            raise BadDataset(listed(title, problems))


def demonstrations(dataset: Dataset) -> NDArray[np.int64]:
    """Number the demonstration of each episode (E,).

    Episodes of one bag are one: they were cut apart by a gap. So are copies of an episode.

    Raises:
        BadDataset: The manifest is broken.
    """
    numbers = np.arange(dataset.num_episodes, dtype=np.int64) // dataset.copies
    manifest = Manifest.read(dataset.path, dataset.episode_ends.tolist())
    for bag in manifest.bags if manifest else ():
        own = slice(bag.numbers.start, bag.numbers.stop)
        numbers[own] = numbers[own][:1]
    return numbers


def spec_sha256(spec: RobotSpec) -> str:
    """Return a hash of all that a spec says."""
    return hashlib.sha256(spec.to_yaml().encode()).hexdigest()
