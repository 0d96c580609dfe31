"""Goals from files: frames of a dataset, or one picture."""

from dataclasses import dataclass
from pathlib import Path
import re

import cv2
import numpy as np
from numpy.typing import NDArray
from vqbet_ros.data.pictures import to_spec_size
from vqbet_ros.data.store import Dataset
from vqbet_ros.errors import BadMessage, ConfigError
from vqbet_ros.spec import RobotSpec


@dataclass(frozen=True)
class GoalData:
    """What the robot is to see in the end, oldest first.

    Attributes:
        images: (g, height, width, 3) uint8 RGB by camera name.
        state: (g, S) float32 in the spec's units; None where it is not known.
    """

    images: dict[str, NDArray[np.uint8]]
    state: NDArray[np.float32] | None


def read_goal(text: str, spec: RobotSpec, steps: int) -> GoalData:
    """Read a goal.

    Args:
        text: `PATH[:frame]`. PATH is a dataset, whose frames are counted over all episodes from 0
            (without a number: its last one); or a picture, for robots with one camera.
        spec: The robot.
        steps: Goal frames g: the named one and those before it in the same episode, where the
            episode's first is repeated if there are too few; a picture is repeated.

    Raises:
        ConfigError: There is no such file or frame, or a picture does not fit the robot.
        BadDataset: PATH is a directory, but no dataset.
        SpecMismatch: The dataset is of another robot.
    """
    path, frame = _split(text)
    if path.is_dir():
        return _from_dataset(path, frame, spec, steps)
    if not path.is_file():
        raise ConfigError(f"goal '{text}': no such dataset or picture: {path}")
    if frame is not None:
        raise ConfigError(f"goal '{text}': {path} is a picture, which has no frame {frame}")
    return _from_picture(path, spec, steps)


def _split(text: str) -> tuple[Path, int | None]:
    named = re.fullmatch(r'(.+):(\d+)', text)
    if named is None or Path(text).exists():
        return Path(text), None
    return Path(named[1]), int(named[2])


def _from_dataset(path: Path, frame: int | None, spec: RobotSpec, steps: int) -> GoalData:
    dataset = Dataset.open(path)
    spec.require_equal(dataset.spec, ours='policy', theirs='dataset')
    if frame is None:
        frame = dataset.num_frames - 1
    if frame >= dataset.num_frames:
        raise ConfigError(f"goal '{path}:{frame}': the dataset has {dataset.num_frames} frames")
    episode = int(np.searchsorted(dataset.episode_ends, frame, side='right'))
    first = dataset.episode(episode).start
    rows = np.maximum(np.arange(frame - steps + 1, frame + 1), first)  # (g,)
    return GoalData(
        images={name: np.array(images[rows]) for name, images in dataset.images.items()},
        state=np.array(dataset.state[rows], dtype=np.float32),
    )


def _from_picture(path: Path, spec: RobotSpec, steps: int) -> GoalData:
    if len(spec.cameras) != 1:
        raise ConfigError(
            f"goal '{path}': a picture is a goal for one camera, but {spec.robot} has "
            f'{len(spec.cameras)}; use PATH:frame of a dataset'
        )
    camera = spec.cameras[0]
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ConfigError(f"goal '{path}': not a picture that can be read (JPEG, PNG, ...)")
    try:
        image = to_spec_size(pixels[..., ::-1].astype(np.uint8, copy=False), camera)
    except BadMessage as error:
        raise ConfigError(f"goal '{path}': {error}") from error
    return GoalData({camera.name: np.repeat(image[None], steps, axis=0)}, state=None)
