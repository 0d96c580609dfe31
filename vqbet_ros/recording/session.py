"""The recorder's state machine: episodes begun, kept, thrown away, labelled, found unfinished."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
import re
import time
from typing import Literal, Protocol

from vqbet_ros.errors import VqbetError
from vqbet_ros.recording.bag import update_custom_data
from vqbet_ros.recording.unfinished import Unfinished

DISCARDED = '.discarded'
"""Folder beside the episodes for those that were thrown away."""

OUTCOME_KEY = 'vqbet.outcome'
"""Where a bag's custom_data has the outcome."""

Outcome = Literal['success', 'failure', 'unmarked', 'incomplete']


class State(Enum):
    """What the recorder does."""

    IDLE = 'idle'
    RECORDING = 'recording'


@dataclass(frozen=True)
class Answer:
    """The answer to a service call: whether it was done, and what happened or why not."""

    success: bool
    text: str


class OpenEpisode(Protocol):
    """A bag that is being written."""

    @property
    def is_open(self) -> bool:
        """Whether `close`, after it failed, may be called again: the disk was only too slow."""

    def close(self, outcome: Outcome) -> str:
        """Write everything and end the bag.

        Returns:
            One line about what it holds, for the operator.

        Raises:
            OSError, VqbetError: It could not be ended yet, while `is_open`; else not at all, and
                its files are let go as they are.
        """


class Session:
    """All episodes since the recorder was started.

    Each of them is in one place at any time: running, kept, in `.discarded/`, or broken (it could
    not be ended, and `vqbet recover` repairs it). A call that fails changes nothing and can be
    made again, but for an episode that breaks when it is stopped, and one that was ended and then
    could not be moved: that one is kept.

    Args:
        root: Folder of the episodes.
        robot: The robot's name, with which their names begin.
        open_episode: Begins a bag in a folder that does not exist yet; what it raises (OSError,
            VqbetError) is told to the operator.
        label: Writes an outcome into a bag.
        move: Moves a bag into a folder.
        wall_ns: Tells the date for an episode's name, also where `now_ns` is simulated.
    """

    def __init__(
        self,
        root: Path,
        robot: str,
        open_episode: Callable[[Path], OpenEpisode],
        label: Callable[[Path, Outcome], None] | None = None,
        move: Callable[[Path, Path], None] | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.root = root
        self._robot = re.sub(r'[^A-Za-z0-9_-]+', '_', robot)
        self._open_episode = open_episode
        self._label = label or _label
        self._move = move or _move
        self._wall_ns = wall_ns
        self._running: OpenEpisode | None = None
        self._path: Path | None = None  # of the running episode
        self._began_ns = 0
        self._count = 0
        self._last: Path | None = None  # the last kept one, until it is thrown away
        self._may_discard = False  # a second press of the button must not take one more episode
        self._outcome: Outcome | None = None
        self._broken: list[Unfinished] = []

    @property
    def state(self) -> State:
        """What the recorder does."""
        return State.IDLE if self._running is None else State.RECORDING

    @property
    def path(self) -> Path | None:
        """Folder of the running episode."""
        return self._path

    @property
    def last_kept(self) -> Path | None:
        """Folder of the episode that `mark` and, when idle, `discard` are about."""
        return self._last

    @property
    def broken(self) -> tuple[Unfinished, ...]:
        """Episodes of this session that could not be ended."""
        return tuple(self._broken)

    @property
    def last_outcome(self) -> Outcome | None:
        """What the last kept episode is labelled as."""
        return self._outcome

    @property
    def count(self) -> int:
        """How many episodes were begun."""
        return self._count

    def duration_s(self, now_ns: int) -> float:
        """Return how long the running episode is; 0 when there is none."""
        return max(0, now_ns - self._began_ns) / 1e9 if self._running else 0.0

    def start(self, now_ns: int) -> Answer:
        """Begin an episode.

        Args:
            now_ns: Now; its local time names the episode.
        """
        if self._path is not None:
            return _no(
                f'{self._path.name} is already being recorded, for '
                f'{self.duration_s(now_ns):.0f} s; stop or discard it first'
            )
        path = self._free_path()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._running = self._open_episode(path)
        except (OSError, VqbetError) as error:
            return _no(f'{path.name} could not be begun: {error}')
        self._path, self._began_ns = path, now_ns
        self._count += 1
        return Answer(True, f'recording {path}')

    def stop(self, now_ns: int, outcome: Outcome = 'unmarked') -> Answer:
        """End the running episode and keep it.

        Args:
            now_ns: Now.
            outcome: 'incomplete' where not the operator ended it.
        """
        if self._running is None or self._path is None:
            return _no(f'nothing is being recorded{self._hint()}')
        path, duration_s = self._path, self.duration_s(now_ns)
        try:
            text = self._running.close(outcome)
        except (OSError, VqbetError) as error:
            if self._running.is_open:
                return _no(f'{path.name} has not ended yet: {error}; stop again, or discard it')
            self._running = self._path = None
            return _no(f'{path.name} could not be ended: {error}; {self._note_broken(path)}')
        self._running = self._path = None
        self._keep(path, outcome)
        return Answer(
            True, f'kept {path.name}, {duration_s:.1f} s' + (f': {text}' if text else '')
        )

    def discard(self, now_ns: int) -> Answer:
        """Throw away, into `.discarded/`: the running episode, else the last kept one, once.

        Args:
            now_ns: Now.
        """
        if self._running is not None and self._path is not None:
            return self._discard_running(self._running, self._path, now_ns)
        path = self._last
        if path is None or not self._may_discard:
            stays = f'; {path.name} was kept before that, and stays' if path else ''
            return _no(f'there is nothing to discard: no episode was kept lately{stays}')
        try:
            self._throw(path)
        except OSError as error:
            return _no(f'{path.name} could not be moved: {error}; it is kept')
        self._last = self._outcome = None
        return self._thrown(f'the last kept episode, {path.name}')

    def _discard_running(self, running: OpenEpisode, path: Path, now_ns: int) -> Answer:
        what = f'the running episode after {self.duration_s(now_ns):.1f} s, {path.name}'
        problem = ''
        try:
            running.close('unmarked')
        except (OSError, VqbetError) as error:
            if running.is_open:
                return _no(f'{path.name} has not ended yet: {error}; discard it again')
            problem = str(error)
        self._running = self._path = None
        try:
            self._throw(path)
        except OSError as error:
            if problem:
                end = self._note_broken(path)
                return _no(f'{path.name} could not be ended: {problem}; nor moved: {error}; {end}')
            self._keep(path, 'unmarked')
            return _no(f'{path.name} was ended, but could not be moved: {error}; it is kept')
        return self._thrown(what + (f' (it could not be ended: {problem})' if problem else ''))

    def mark(self, success: bool) -> Answer:
        """Label the last kept episode; a later label replaces an earlier one."""
        outcome: Outcome = 'success' if success else 'failure'
        if self._path is not None:
            return _no(f'{self._path.name} is still being recorded; stop it, then mark it')
        if self._last is None:
            return _no(f'there is nothing to mark as {outcome}: no episode was kept')
        try:
            self._label(self._last, outcome)
        except (OSError, VqbetError) as error:
            return _no(f'{self._last.name} could not be marked as {outcome}: {error}')
        self._outcome = outcome
        return Answer(True, f'marked {self._last.name} as {outcome}')

    def _keep(self, path: Path, outcome: Outcome) -> None:
        self._last, self._outcome, self._may_discard = path, outcome, True

    def _note_broken(self, path: Path) -> str:
        # A label or a discard that follows is meant for this one, not for the one before.
        self._last = self._outcome = None
        self._broken.append(Unfinished(path))
        return f'repair it: {self._broken[-1].command}'

    def _throw(self, path: Path) -> None:
        self._move(path, self.root / DISCARDED / path.name)

    def _thrown(self, what: str) -> Answer:
        self._may_discard = False
        return Answer(True, f'discarded {what}; it is in {self.root / DISCARDED}')

    def _hint(self) -> str:
        return f'; the last episode is {self._last.name}' if self._last else ''

    def _free_path(self) -> Path:
        moment = datetime.fromtimestamp(self._wall_ns() / 1e9).astimezone()
        begin = f'{self._robot}_{moment:%Y%m%d_%H%M%S}'
        number = self._count + 1
        while any(
            (folder / f'{begin}_{number:02d}').exists()
            for folder in (self.root, self.root / DISCARDED)
        ):
            number += 1
        return self.root / f'{begin}_{number:02d}'


def _no(text: str) -> Answer:
    return Answer(False, text)


def _label(path: Path, outcome: Outcome) -> None:
    update_custom_data(path, {OUTCOME_KEY: outcome})


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
