"""Goals from datasets, bags and pictures."""

from dataclasses import replace

import cv2
from engine_parts import CONFIG, GOALS, make_engine
import numpy as np
import pytest
import torch
from vqbet_ros.data.align import align
from vqbet_ros.data.bag import Bag
from vqbet_ros.data.episode import Episode
from vqbet_ros.data.goals import GoalName, read_goal
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.errors import BadBag, BadDataset, ConfigError, SpecMismatch
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
    [
        ('', [4, 5, 6]),
        (':3', [1, 2, 3]),
        (':5', [4, 4, 5]),
        (':4', [4, 4, 4]),
        (':0', [0, 0, 0]),
        (':episode/0', [1, 2, 3]),
        (':episode/0:1', [0, 0, 1]),
        (':episode/1', [4, 5, 6]),
        (':episode/1:0', [4, 4, 4]),
    ],
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
    with pytest.raises(ConfigError, match='the dataset has 2 episode'):
        read_goal(f'{dataset}:episode/2', SPEC, steps=1)
    with pytest.raises(ConfigError, match='episode 1 has 3 frames'):
        read_goal(f'{dataset}:episode/1:3', SPEC, steps=1)
    with pytest.raises(ConfigError, match='no such dataset or picture, nor bag'):
        read_goal(str(tmp_path / 'nowhere'), SPEC, steps=1)
    with pytest.raises(ConfigError, match=r'too long|no such'):
        read_goal('x' * 5000, SPEC, steps=1)
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
    with pytest.raises(ConfigError, match='has no episode 3'):
        read_goal(f'{tmp_path}/wide.png:episode/3', SPEC, steps=1)
    with pytest.raises(ConfigError, match='for one camera, but pusht has 0'):
        read_goal(str(tmp_path / 'wide.png'), KEYPOINTS, steps=1)


@pytest.fixture(scope='module')
def bag(tmp_path_factory, write_bag):
    """A bag with a gap: an episode of 3 s, and one of 8 s, which comes in more than one piece."""
    return write_bag(tmp_path_factory.mktemp('bags') / 'twig', 12.0, lost=(3.0, 4.0))


@pytest.fixture(scope='module')
def rows(bag, bag_spec):
    """What preparing makes of it: number of the episode, state and image of each frame."""
    pieces = list(align(Bag.open(bag).messages(), bag_spec))
    numbers = np.concatenate([np.full(len(piece.state), piece.episode) for piece in pieces])
    assert set(numbers) == {0, 1}
    assert len(pieces) == 3
    state = np.concatenate([piece.state for piece in pieces])
    return numbers, state, np.concatenate([piece.images['top'] for piece in pieces])


def expected_rows(numbers, episode, frame, steps):
    """Find the rows of a goal one by one."""
    if episode is not None:
        inside = [row for row, number in enumerate(numbers) if number == episode]
        at = inside[-1] if frame is None else inside[frame]
    else:
        at = len(numbers) - 1 if frame is None else frame
    found = [at]
    while len(found) < steps:
        before = found[0] - 1
        same = before >= 0 and numbers[before] == numbers[at]
        found.insert(0, before if same else found[0])
    return found


@pytest.mark.parametrize('steps', [1, 3, 40])
@pytest.mark.parametrize('episode', [None, 0, 1])
@pytest.mark.parametrize('frame', [None, 0, 1, 20])
def test_frames_of_a_bag_are_those_that_preparing_makes(
    bag, bag_spec, rows, episode, frame, steps
):
    numbers, state, images = rows
    text = f'{bag}' + ('' if episode is None else f':episode/{episode}')
    goal = read_goal(text + ('' if frame is None else f':{frame}'), bag_spec, steps)
    wanted = expected_rows(numbers, episode, frame, steps)
    assert goal.state is not None
    np.testing.assert_array_equal(goal.state, state[wanted])
    np.testing.assert_array_equal(goal.images['top'], images[wanted])


def test_a_frame_is_found_in_any_piece(bag, bag_spec, rows):
    numbers, state, _ = rows
    for frame in range(0, len(numbers), 7):
        goal = read_goal(f'{bag}:{frame}', bag_spec, steps=2)
        assert goal.state is not None
        np.testing.assert_array_equal(goal.state[-1], state[frame])


def test_what_a_bag_does_not_have_is_refused(bag, bag_spec, rows, tmp_path, write_bag):
    frames = len(rows[0])
    with pytest.raises(ConfigError, match=f'the bag has {frames} frames'):
        read_goal(f'{bag}:{frames}', bag_spec, steps=1)
    with pytest.raises(ConfigError, match='the bag has 2 episode'):
        read_goal(f'{bag}:episode/2', bag_spec, steps=1)
    first = int((rows[0] == 0).sum())
    with pytest.raises(ConfigError, match=f'episode 0 has {first} frames'):
        read_goal(f'{bag}:episode/0:{first}', bag_spec, steps=1)
    with pytest.raises(SpecMismatch, match='robot: pusht, twig'):
        read_goal(str(bag), SPEC, steps=1)
    camera = replace(bag_spec.cameras[0], topic='/wrist')
    bare = write_bag(tmp_path / 'bare', 2.0, spec=None)
    with pytest.raises(BadBag, match='/wrist: not in the bag'):
        read_goal(str(bare), replace(bag_spec, cameras=(camera,)), steps=1)
    assert read_goal(str(bare), bag_spec, steps=1).images['top'].shape == (1, 8, 12, 3)


def test_a_bare_mcap_file_is_a_bag(bag, bag_spec):
    (file,) = bag.glob('*.mcap')
    assert GoalName.parse(f'{file}:3').kind == 'bag'
    ours, theirs = (read_goal(f'{path}:3', bag_spec, steps=2) for path in (file, bag))
    np.testing.assert_array_equal(ours.images['top'], theirs.images['top'])


def test_a_goal_that_nobody_wants_any_more_is_not_read_to_its_end(bag, bag_spec):
    asked = []

    def cancelled():
        asked.append(True)
        return len(asked) > 5

    with pytest.raises(ConfigError, match='nobody wants it any more'):
        read_goal(str(bag), bag_spec, 1, cancelled)
    assert len(asked) == 6


def test_a_path_may_look_like_a_number(tmp_path):
    path = tmp_path / 'at 12:30'
    path.mkdir()
    assert GoalName.parse(str(path)) == GoalName(str(path), path)
    for rest, episode, frame in ((':7', None, 7), (':episode/2', 2, None), (':episode/2:7', 2, 7)):
        assert GoalName.parse(f'{path}{rest}') == GoalName(f'{path}{rest}', path, episode, frame)


def test_a_policy_takes_what_is_read_and_keeps_it_when_the_next_does_not_fit(dataset, tmp_path):
    engine = make_engine(replace(CONFIG, temperature=0.0), SPEC)

    def decision():
        state = torch.full((1, CONFIG.history, 2), 100.0)
        return engine.decode(torch.zeros(1, CONFIG.history, 1, 6), state, None).actions

    without = decision()
    goal = read_goal(f'{dataset}:episode/1', SPEC, GOALS)
    engine.set_goal(goal.images, goal.state)
    with_goal = decision()
    assert not torch.equal(with_goal, without)
    cv2.imwrite(str(tmp_path / 'goal.png'), np.zeros((96, 96, 3), np.uint8))
    picture = read_goal(str(tmp_path / 'goal.png'), SPEC, GOALS)
    with pytest.raises(ConfigError, match='state: got nothing'):
        engine.set_goal(picture.images, picture.state)
    assert torch.equal(decision(), with_goal)
