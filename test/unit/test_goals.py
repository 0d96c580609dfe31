"""Goals from datasets and pictures."""

import cv2
import numpy as np
import pytest
from vqbet_ros.data.episode import Episode
from vqbet_ros.data.goals import read_goal
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.errors import BadDataset, ConfigError, SpecMismatch
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec

SPEC = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
KEYPOINTS = RobotSpec.from_yaml(resource('config/robots/pusht_keypoints.yaml'))


@pytest.fixture
def dataset(tmp_path):
    """Two episodes of 4 and 3 frames, whose every number is the frame's own."""
    with DatasetWriter(tmp_path / 'dataset', SPEC, 'a test') as writer:
        for start, length in ((0, 4), (4, 3)):
            numbers = np.arange(start, start + length)
            values = np.repeat(numbers[:, None], 2, axis=1).astype(np.float32)  # (N, 2)
            images = np.broadcast_to(numbers[:, None, None, None], (length, 96, 96, 3))
            writer.add(Episode(values, values, {'top': images.astype(np.uint8)}))
    return tmp_path / 'dataset'


@pytest.mark.parametrize(
    ('frame', 'expected'),
    [('', [4, 5, 6]), (':3', [1, 2, 3]), (':5', [4, 4, 5]), (':4', [4, 4, 4]), (':0', [0, 0, 0])],
)
def test_frames_before_the_goal_are_of_its_own_episode(dataset, frame, expected):
    goal = read_goal(f'{dataset}{frame}', SPEC, steps=3)
    assert goal.images['top'].shape == (3, 96, 96, 3)
    assert goal.images['top'][:, 0, 0, 0].tolist() == expected
    assert goal.state is not None
    assert goal.state[:, 0].tolist() == expected


def test_a_picture_is_repeated_in_rgb(tmp_path):
    rgb = np.zeros((192, 192, 3), np.uint8)
    rgb[..., 0] = 200
    cv2.imwrite(str(tmp_path / 'goal.png'), rgb[..., ::-1])
    goal = read_goal(str(tmp_path / 'goal.png'), SPEC, steps=2)
    np.testing.assert_array_equal(goal.images['top'], np.stack([rgb[:96, :96]] * 2))
    assert goal.state is None


def test_what_cannot_be_a_goal_is_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match='has 7 frames'):
        read_goal(f'{dataset}:7', SPEC, steps=1)
    with pytest.raises(ConfigError, match='no such dataset or picture'):
        read_goal(str(tmp_path / 'nowhere'), SPEC, steps=1)
    with pytest.raises(BadDataset):
        read_goal(str(tmp_path), SPEC, steps=1)
    with pytest.raises(SpecMismatch):
        read_goal(str(dataset), KEYPOINTS, steps=1)
    (tmp_path / 'text.png').write_text('no picture')
    with pytest.raises(ConfigError, match='not a picture'):
        read_goal(str(tmp_path / 'text.png'), SPEC, steps=1)
    cv2.imwrite(str(tmp_path / 'wide.png'), np.zeros((96, 192, 3), np.uint8))
    with pytest.raises(ConfigError, match='the picture is 192x96, expected 96x96'):
        read_goal(str(tmp_path / 'wide.png'), SPEC, steps=1)
    with pytest.raises(ConfigError, match='has no frame 3'):
        read_goal(f'{tmp_path}/wide.png:3', SPEC, steps=1)
    with pytest.raises(ConfigError, match='for one camera, but pusht has 0'):
        read_goal(str(tmp_path / 'wide.png'), KEYPOINTS, steps=1)
