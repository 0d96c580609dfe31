"""Many bags to one dataset: in parallel, only what is new, whole bags or nothing of them.

    bag ──► process: part.make_part ──► DATASET/.parts/<n>/ ──► this process: DatasetWriter.extend

The parts are appended in the order of the bags, so that the result does not depend on the number
of processes.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
import dataclasses
from dataclasses import dataclass
from pathlib import Path
import shutil
import signal
from typing import Any
import uuid
import warnings

import cv2
import joblib
from vqbet_ros.data.align import Gaps
from vqbet_ros.data.bag import Bag
from vqbet_ros.data.bag_opening import METADATA
from vqbet_ros.data.layout import columns, HEADER_BYTES, is_empty_dir
from vqbet_ros.data.manifest import BagEntry, Manifest, Parameters
from vqbet_ros.data.part import make_part, Result, Task
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.errors import BadBag, VqbetError
from vqbet_ros.spec import RobotSpec
from vqbet_ros.structured import load_yaml

PARTS = '.parts'
SOURCE = 'bags'


@dataclass(frozen=True)
class Done:
    """What became of one bag.

    Attributes:
        bag: The bag.
        status: 'added'; 'known': the dataset already holds it; 'relabelled': likewise, and its
            outcome has changed since; 'empty': nothing of it is long enough; 'failed'.
        entry: What the manifest says of it; None where it failed.
        error: Why it failed.
    """

    bag: Path
    status: str
    entry: BagEntry | None
    error: str | None = None

    @property
    def frames(self) -> int:
        """Steps that were added."""
        if self.entry is None or self.status != 'added':
            return 0
        return sum(episode.frames for episode in self.entry.episodes)


class Preparation:
    """Turns bags into episodes of a dataset, which nobody else can write until it is closed.

    Args:
        bags: What `find_bags` found.
        dataset: Directory; made if absent, else continued.
        spec: What to read the bags with; None for each bag's own.
        gaps: See `align`.
        min_steps: Shorter episodes are left out.

    Raises:
        BadDataset: The dataset is broken, another process writes it, or it was prepared with
            other parameters (all are listed).
        SpecMismatch: It was made with another spec; lists every difference.
        BadBag: No spec is given, and no bag has one inside.
    """

    def __init__(
        self,
        bags: Sequence[Path],
        dataset: Path,
        *,
        spec: RobotSpec | None = None,
        gaps: Gaps = 'cut',
        min_steps: int = 5,
    ) -> None:
        self.bags = tuple(bags)
        self._given = spec
        # A name of its own: processes of a run that was killed may still be writing theirs.
        self._parts = dataset / PARTS / uuid.uuid4().hex
        self._gaps = gaps
        there = dataset.exists() and not is_empty_dir(dataset)
        self.spec = spec or (Dataset.open_unfilled(dataset).spec if there else _first_spec(bags))
        self._parameters = Parameters(self.spec.rate_hz, gaps, min_steps)
        self._writer = DatasetWriter(dataset, self.spec, SOURCE)
        try:
            manifest = Manifest.read(dataset, self._writer.ends)
            if manifest is not None:
                manifest.require_same(self._parameters, dataset)
        except BaseException:
            self._writer.close()
            raise
        self.manifest = manifest or Manifest(self._parameters)

    def __enter__(self) -> 'Preparation':
        """Return itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let others write the dataset."""
        self._writer.close()

    @property
    def num_episodes(self) -> int:
        """Episodes of the dataset."""
        return self._writer.num_episodes

    @property
    def num_frames(self) -> int:
        """Steps of the dataset."""
        return self._writer.num_frames

    def run(self, jobs: int, cluster: AbstractContextManager[Any] | None = None) -> Iterator[Done]:
        """Work on the bags; yields what became of each, in their order.

        Whatever ends this early, also an exception of the caller, leaves the dataset whole, with
        the bags that were yielded before.

        Args:
            jobs: How many processes; 1 works in this one.
            cluster: joblib's configuration for processes elsewhere, which must see the same
                files; see `vqbet_ros.data.cluster`.

        Raises:
            BadDataset: A bag could not be written: a full disk, for example.
        """
        shutil.rmtree(self._parts.parent, ignore_errors=True)
        tasks = [
            Task(
                bag=bag,
                part=self._parts / f'{index:06d}',
                spec=self._given,
                dataset_spec=self.spec,
                gaps=self._gaps,
                min_steps=self._parameters.min_steps,
                known=frozenset(entry.sha256 for entry in self.manifest.bags),
            )
            for index, bag in enumerate(self.bags)
        ]
        try:
            local = joblib.parallel_config('loky', initializer=_begin_process)
            with cluster or local:
                pool = joblib.Parallel(
                    n_jobs=max(1, min(jobs, len(tasks))), return_as='generator', batch_size=1
                )
                with _closing(pool(joblib.delayed(make_part)(task) for task in tasks)) as results:
                    for task, result in zip(tasks, results, strict=True):
                        yield self._take(task, result)
                        shutil.rmtree(task.part, ignore_errors=True)
        finally:
            shutil.rmtree(self._parts.parent, ignore_errors=True)

    def frames_under_way(self) -> int:
        """Return how many steps the processes have written that are not in the dataset yet."""
        dtype, width = columns(self.spec, 0)['action']
        row = dtype.itemsize * width[0]
        sizes = []
        for file in self._parts.glob('*/action.npy'):
            try:
                sizes.append(file.stat().st_size)
            except FileNotFoundError:  # appended at this moment
                continue
        return sum(max(0, size - HEADER_BYTES) // row for size in sizes)

    def _take(self, task: Task, result: Result) -> Done:
        """Append a bag's part to the dataset, and its entry to the manifest."""
        if result.entry is None:
            return Done(task.bag, 'failed', None, result.error)
        known = self.manifest.find(result.entry.sha256)
        if known is not None:
            return self._relabelled(task, known, result.entry)
        entry = dataclasses.replace(result.entry, first_episode=self.num_episodes)
        manifest = self.manifest.with_bag(entry)
        manifest.write(self._writer.path)
        if entry.episodes:
            self._writer.extend(Dataset.open(task.part))
        self.manifest = manifest
        return Done(task.bag, 'added' if entry.episodes else 'empty', entry)

    def _relabelled(self, task: Task, known: BagEntry, now: BagEntry) -> Done:
        """Take over an outcome that was given after the bag had been prepared."""
        if known.outcome == now.outcome:
            return Done(task.bag, 'known', known)
        entry = dataclasses.replace(known, outcome=now.outcome)
        self._writer.relabel(known.numbers, now.outcome)
        self.manifest = self.manifest.with_bag(entry)
        self.manifest.write(self._writer.path)
        return Done(task.bag, 'relabelled', entry)


def _begin_process() -> None:
    # Ctrl-C is the first process's to handle: it ends the others, who would each say so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)  # there are as many processes as CPUs


def expected_steps(bag: Path, rate_hz: float) -> int:
    """Return about how many steps a bag will give; 0 for one that cannot be read.

    Of a folder, its metadata alone are looked at, which takes a moment however large the bag is.
    """
    try:
        if (bag / METADATA).is_file():
            about = load_yaml(bag / METADATA)['rosbag2_bagfile_information']
            return round(int(about['duration']['nanoseconds']) * rate_hz / 1e9)
        opened = Bag.open(bag)
        return round((opened.end_ns - opened.start_ns) * rate_hz / 1e9)
    except (VqbetError, KeyError, OverflowError, TypeError, ValueError):
        return 0  # it is reported when its turn comes


@contextmanager
def _closing(results: Generator[Result, None, None]) -> Iterator[Iterator[Result]]:
    """End the processes' work when nobody wants its results any more."""
    try:
        yield results
    finally:
        with warnings.catch_warnings():
            # joblib finds it a waste to cancel work; whoever presses Ctrl-C means it.
            warnings.filterwarnings('ignore', '.*You could benefit from adjusting')
            results.close()


def _first_spec(bags: Sequence[Path]) -> RobotSpec:
    for bag in bags:
        try:
            spec = Bag.open(bag).spec
        except VqbetError:
            continue  # it is reported when its turn comes
        if spec is not None:
            return spec
    raise BadBag(
        f'none of the {len(bags)} bag(s) holds a spec (or none can be read): they were not '
        'recorded by recorder_node, so name their spec with --spec'
    )
