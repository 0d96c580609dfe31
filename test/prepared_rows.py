"""What the tests of one decoding share: a dataset's rows of messages, beside an observation."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from vqbet_ros.data.align import align
from vqbet_ros.data.bag import BagMessage
from vqbet_ros.runtime.observation import Observation
from vqbet_ros.spec import RobotSpec

Rows = tuple[Any, Any, dict[str, Any]]


def rows_of(messages: Iterable[BagMessage], spec: RobotSpec) -> Rows:
    """Prepare messages of one episode: stamps in ns, states, and images by camera."""
    pieces = list(align(messages, spec))
    assert {piece.episode for piece in pieces} == {0}
    images = {
        camera.name: np.concatenate([piece.images[camera.name] for piece in pieces])
        for camera in spec.cameras
    }
    stamps_ns = np.concatenate([piece.stamps_ns for piece in pieces])
    return stamps_ns, np.concatenate([piece.state for piece in pieces]), images


def require_same(observation: Observation, row: int, rows: Rows) -> None:
    """Compare every step of an observation with the rows up to `row`, bit for bit."""
    _, state, images = rows
    first = row - len(observation.valid) + 1
    for step, frames in enumerate(observation.frames):
        if first + step < 0:
            continue  # before the dataset's first row; the node may know more
        assert observation.valid[step]
        np.testing.assert_array_equal(observation.state[step], state[first + step])
        assert frames is not None
        assert set(frames) == set(images)
        for name, frame in frames.items():
            np.testing.assert_array_equal(frame.image, images[name][first + step])
