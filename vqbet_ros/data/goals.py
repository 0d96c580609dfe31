"""Goals from files: frames of a dataset or of a bag, or one picture.

g: goal steps, S: state channels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
import re

import cv2
import numpy as np
from numpy.typing import NDArray
from vqbet_ros.data.align import align, Piece
from vqbet_ros.data.bag import Bag, BagMessage
from vqbet_ros.data.bag_opening import METADATA, STORAGES
from vqbet_ros.data.layout import INDEX
from vqbet_ros.data.pictures import to_spec_size
from vqbet_ros.data.store import Dataset
from vqbet_ros.errors import BadMessage, ConfigError
from vqbet_ros.spec import RobotSpec

_NAME = re.compile(r'(?P<path>.+?)(:episode/(?P<episode>\d+))?(:(?P<frame>\d+))?')


@dataclass(frozen=True)
class GoalData:
    """What the robot is to see in the end, oldest first.

    Attributes:
        images: (g, height, width, 3) uint8 RGB by camera name.
        state: (g, S) float32 in the spec's units; None where it is not known.
    """

    images: dict[str, NDArray[np.uint8]]
    state: NDArray[np.float32] | None


@dataclass(frozen=True)
class GoalName:
    """Where a goal is: `PATH[:episode/E][:FRAME]`.

    Attributes:
        text: All of it.
        path: A dataset, a bag or a picture.
        episode: Counted from 0; None for all of them.
        frame: Counted from 0, over the episode or over all of them; None for the last one.
    """

    text: str
    path: Path
    episode: int | None = None
    frame: int | None = None

    @classmethod
    def parse(cls, text: str) -> 'GoalName':
        """Take a goal's name apart; cheap, reads nothing.

        Raises:
            ConfigError: There is nothing at the path that may be read, or a picture with a frame.
        """
        try:
            return cls._parsed(text)
        except OSError as error:  # no permission, or no name that a file can have
            raise ConfigError(f"goal '{text}': {error}") from error

    @classmethod
    def _parsed(cls, text: str) -> 'GoalName':
        named = _NAME.fullmatch(text)
        if named is None or Path(text).exists():
            name = cls(text, Path(text))
        else:
            episode, frame = (
                None if number is None else int(number)
                for number in named.group('episode', 'frame')
            )
            name = cls(text, Path(named['path']), episode, frame)
        if not name.path.exists():
            raise name.error(f'no such dataset or picture, nor bag: {name.path}')
        numbered = name.episode is not None or name.frame is not None
        if name.kind == 'picture' and numbered:
            what = f'frame {name.frame}' if name.episode is None else f'episode {name.episode}'
            raise name.error(f'{name.path} is a picture, which has no {what}')
        return name

    @property
    def kind(self) -> str:
        """'dataset', 'bag' or 'picture', by what the path looks like."""
        if self.path.is_file():
            return 'bag' if self.path.suffix in STORAGES else 'picture'
        inside = {file.name for file in self.path.iterdir()}
        is_bag = METADATA in inside or any(Path(file).suffix in STORAGES for file in inside)
        return 'bag' if is_bag and INDEX not in inside else 'dataset'

    def error(self, what: str) -> ConfigError:
        """Say what is wrong with it."""
        return ConfigError(f"goal '{self.text}': {what}")


def read_goal(
    text: str, spec: RobotSpec, steps: int, cancelled: Callable[[], bool] = lambda: False
) -> GoalData:
    """Read a goal.

    Args:
        text: `PATH[:episode/E][:FRAME]`. PATH is a dataset, or a bag, of which the frames are made
            as `vqbet prepare` makes them (short episodes count too), or a picture, for robots with
            one camera. Without FRAME it is the last one of the episode, or of all.
        spec: The robot; for a bag that holds no spec also how to read it.
        steps: Goal frames g: the named one and those before it in the same episode, where the
            episode's first is repeated if there are too few; a picture is repeated.
        cancelled: Asked now and then while a bag is read: whether nobody wants the goal any more.

    Raises:
        ConfigError: There is no such file, episode or frame, a picture does not fit the robot, or
            the reading was cancelled.
        BadDataset: PATH is a directory, but neither a bag nor a dataset.
        BadBag: The bag is broken, or lacks what the spec names; lists all of it.
        SpecMismatch: The dataset or bag is of another robot; lists every difference.
    """
    name = GoalName.parse(text)
    try:
        if name.kind == 'dataset':
            return _from_dataset(name, spec, steps)
        if name.kind == 'bag':
            return _from_bag(name, spec, steps, cancelled)
        return _from_picture(name, spec, steps)
    except OSError as error:
        raise name.error(f'cannot be read: {error}') from error


def _from_dataset(name: GoalName, spec: RobotSpec, steps: int) -> GoalData:
    dataset = Dataset.open(name.path)
    spec.require_equal(dataset.spec, ours='policy', theirs='dataset')
    if name.episode is None:
        length = dataset.num_frames
        frame = length - 1 if name.frame is None else name.frame
        _require_within(name, frame, length, 'the dataset')
        episode = int(np.searchsorted(dataset.episode_ends, frame, side='right'))
        first = dataset.episode(episode).start
    else:
        _require_episode(name, dataset.num_episodes, 'the dataset')
        rows_of = dataset.episode(name.episode)
        first, length = rows_of.start, rows_of.stop - rows_of.start
        frame = length - 1 if name.frame is None else name.frame
        _require_within(name, frame, length, f'episode {name.episode}')
        frame += first
    rows = np.maximum(np.arange(frame - steps + 1, frame + 1), first)  # (g,)
    return GoalData(
        images={camera: np.array(images[rows]) for camera, images in dataset.images.items()},
        state=np.array(dataset.state[rows], dtype=np.float32),
    )


def _from_bag(
    name: GoalName, spec: RobotSpec, steps: int, cancelled: Callable[[], bool]
) -> GoalData:
    bag = Bag.open(name.path)
    bag_spec = bag.spec or spec
    spec.require_equal(bag_spec, ours='policy', theirs='bag')
    bag_spec = bag.require(bag_spec)

    def messages() -> Iterator[BagMessage]:
        for message in bag.messages(bag_spec.recorded_topics):
            if cancelled():
                raise name.error('nobody wants it any more')
            yield message

    tail, counted, episodes = _Tail(steps), 0, 0
    for piece in align(messages(), bag_spec):
        if piece.episode == episodes:  # a new one begins
            tail, episodes = _Tail(steps), episodes + 1
            counted = counted if name.episode is None else 0
        if name.episode is not None and piece.episode != name.episode:
            continue
        length = len(piece.stamps_ns)
        if name.frame is not None and name.frame < counted + length:
            tail.add(piece, name.frame - counted + 1)
            return tail.goal()
        tail.add(piece, length)
        counted += length
        if piece.last and piece.episode == name.episode:
            break
    if name.episode is not None:
        _require_episode(name, episodes, 'the bag')
    what = 'the bag' if name.episode is None else f'episode {name.episode}'
    _require_within(name, counted - 1 if name.frame is None else name.frame, counted, what)
    return tail.goal()


class _Tail:
    """The last g frames of an episode whose pieces pass by."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._state: NDArray[np.float32] | None = None
        self._images: dict[str, NDArray[np.uint8]] = {}

    def add(self, piece: Piece, count: int) -> None:
        """Go on by the first rows of a piece."""
        first = max(0, count - self._steps)
        state = piece.state[first:count]
        images = {camera: rows[first:count] for camera, rows in piece.images.items()}
        if self._state is not None:
            state = np.concatenate([self._state, state])
            images = {
                name: np.concatenate([self._images[name], new]) for name, new in images.items()
            }
        self._state = state[-self._steps :]
        self._images = {name: rows[-self._steps :] for name, rows in images.items()}

    def goal(self) -> GoalData:
        """Return them, the episode's first repeated where there are too few."""
        assert self._state is not None  # noqa: S101 - a frame was found
        lacking = self._steps - len(self._state)
        rows = np.maximum(np.arange(self._steps) - lacking, 0)  # (g,)
        images = {camera: images[rows] for camera, images in self._images.items()}
        return GoalData(images, self._state[rows])


def _from_picture(name: GoalName, spec: RobotSpec, steps: int) -> GoalData:
    if len(spec.cameras) != 1:
        raise name.error(
            f'a picture is a goal for one camera, but {spec.robot} has {len(spec.cameras)}; '
            'use PATH:frame of a dataset or bag, or the topics ~/goal/image/<camera>'
        )
    camera = spec.cameras[0]
    pixels = cv2.imread(str(name.path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise name.error('not a picture that can be read (JPEG, PNG, ...)')
    try:
        image = to_spec_size(pixels[..., ::-1].astype(np.uint8, copy=False), camera)
    except BadMessage as error:
        raise name.error(str(error)) from error
    return GoalData({camera.name: np.repeat(image[None], steps, axis=0)}, state=None)


def _require_episode(name: GoalName, episodes: int, what: str) -> None:
    if name.episode is not None and name.episode >= episodes:
        raise name.error(f'{what} has {episodes} episode(s), counted from 0')


def _require_within(name: GoalName, frame: int, length: int, what: str) -> None:
    if frame >= length:
        raise name.error(f'{what} has {length} frames, counted from 0')
