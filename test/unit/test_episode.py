"""An Episode refuses what does not belong together, and names all of it at once."""

from typing import Any

import numpy as np
import pytest
from vqbet_ros.data.episode import Episode
from vqbet_ros.errors import BadDataset
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec


@pytest.fixture
def spec():
    return RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))


def rows(steps, width):
    return np.zeros((steps, width), np.float32)


def images(steps, height=96, width=96):
    return {'top': np.zeros((steps, height, width, 3), np.uint8)}


def test_a_whole_episode_fits_its_spec(spec):
    episode = Episode(rows(5, 2), rows(5, 2), images(5), rows(5, 16))
    assert episode.length == 5
    assert episode.misfits(spec, ['k'] * 16) == []


def test_every_problem_is_named():
    action = rows(5, 2)
    action[3, 1] = np.nan
    with pytest.raises(BadDataset) as caught:
        Episode(rows(4, 2).astype(np.float64), action, images(6), rows(5, 3)[0])
    message = str(caught.value)
    assert 'state: got dtype float64, expected float32' in message
    assert 'action: 1 value(s) are NaN or infinite, the first in row 3, column 1' in message
    assert 'targets: got shape (3,), expected 2 dimensions' in message
    assert 'lengths differ: state 4, action 5, targets 3, top 6' in message


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('name', ['state', 'action', 'targets'])
def test_values_must_be_finite(name, value):
    arrays = {'state': rows(5, 2), 'action': rows(5, 2), 'targets': rows(5, 2)}
    arrays[name][4, 0] = value
    with pytest.raises(BadDataset, match=f'{name}: 1 value'):
        Episode(**arrays)


def test_an_episode_has_steps():
    with pytest.raises(BadDataset, match='no steps'):
        Episode(rows(0, 2), rows(0, 2))


def test_images_are_uint8_rgb():
    grey: Any = {'top': np.zeros((5, 96, 96, 1), np.float32)}
    with pytest.raises(BadDataset) as caught:
        Episode(rows(5, 2), rows(5, 2), grey)
    assert 'got dtype float32, expected uint8' in str(caught.value)
    assert 'got 1 channels, expected 3' in str(caught.value)


def test_misfits_lists_widths_cameras_and_sizes(spec):
    side = {'side': np.zeros((5, 96, 96, 3), np.uint8)}
    episode = Episode(rows(5, 3), rows(5, 1), side)
    assert episode.misfits(spec, ['a']) == [
        'state: got 3 columns, expected 2',
        'action: got 1 columns, expected 2',
        'targets: got 0 columns, expected 1',
        "images of 'top': missing",
        "images of 'side': the spec has no such camera",
    ]
    small = Episode(rows(5, 2), rows(5, 2), images(5, height=48))
    assert small.misfits(spec) == ["images of 'top': got 48x96, expected 96x96 (height x width)"]
