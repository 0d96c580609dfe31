"""Normalisation: ranges, constants, and the statistics' file."""

import json

import numpy as np
import pytest
import torch
from vqbet_ros.errors import BadCheckpoint
from vqbet_ros.policy.normalizer import Normalizer, Stats, stats_from_mapping

ROWS = np.random.default_rng(0).normal([0.0, 300.0, -2.0], [1.0, 50.0, 1e-3], (500, 3))


def test_statistics_are_numpys():
    stats = Stats.of(ROWS.astype(np.float32))
    np.testing.assert_allclose(stats.min, ROWS.min(0), rtol=1e-5)
    np.testing.assert_allclose(stats.max, ROWS.max(0), rtol=1e-5)
    np.testing.assert_allclose(stats.mean, ROWS.mean(0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(stats.std, ROWS.std(0), rtol=1e-3)


def test_min_max_fills_minus_one_to_one():
    y = Normalizer(Stats.of(ROWS), 'min_max')(torch.tensor(ROWS, dtype=torch.float32))
    torch.testing.assert_close(y.amin(0), -torch.ones(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(y.amax(0), torch.ones(3), rtol=0, atol=1e-3)


def test_mean_std_gives_zero_mean_and_unit_variance():
    y = Normalizer(Stats.of(ROWS), 'mean_std')(torch.tensor(ROWS, dtype=torch.float32))
    torch.testing.assert_close(y.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(3), rtol=0, atol=1e-3)


@pytest.mark.parametrize('mode', ['min_max', 'mean_std'])
def test_what_is_normalised_comes_back(mode):
    normalizer = Normalizer(Stats.of(ROWS), mode)
    x = torch.tensor(ROWS, dtype=torch.float32).reshape(5, 100, 3)
    torch.testing.assert_close(normalizer.inverse(normalizer(x)), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('mode', ['min_max', 'mean_std'])
@pytest.mark.parametrize('constant', [0.0, 1.0, -3.7, 1e6, 1e-9])
def test_constant_channels_are_safe(mode, constant):
    rows = ROWS.copy()
    rows[:, 1] = constant
    normalizer = Normalizer(Stats.of(rows.astype(np.float32)), mode)
    x = torch.tensor(rows, dtype=torch.float32)
    y = normalizer(x)
    assert not y[:, 1].any()
    assert torch.isfinite(y).all()
    # Whatever a robot measures or a policy predicts there.
    assert not normalizer(x + 5.0)[:, 1].any()
    torch.testing.assert_close(normalizer.inverse(y + 5.0)[:, 1], x[:, 1])


def test_a_channel_with_a_small_range_is_no_constant():
    rows = np.array([[1e-3, 5.0], [2e-3, 5.00001]])
    y = Normalizer(Stats.of(rows))(torch.tensor(rows, dtype=torch.float32))
    torch.testing.assert_close(y, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), rtol=0, atol=0.05)


def test_statistics_are_not_in_the_weights():
    # stats.json is the one place where they are kept.
    assert Normalizer(Stats.of(ROWS)).state_dict() == {}


def test_statistics_survive_json():
    stats = Stats.of(ROWS)
    text = json.dumps({'action': stats.to_mapping()})
    assert stats_from_mapping(json.loads(text), 'stats.json', {'action': 3}) == {'action': stats}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'max': (1.0,)}, 'same length'),
        ({'mean': (float('nan'), 0.0)}, 'finite'),
        ({'std': (float('inf'), 0.0)}, 'finite'),
        ({'min': (9.0, 0.0)}, 'min <= max'),
        ({'std': (-1.0, 0.0)}, 'std >= 0'),
    ],
)
def test_impossible_statistics_are_refused(change, message):
    good = {'min': (0.0, 0.0), 'max': (1.0, 1.0), 'mean': (0.5, 0.5), 'std': (0.1, 0.1)}
    Stats(**good)
    with pytest.raises(ValueError, match=message):
        Stats(**{**good, **change})


def test_every_problem_of_the_file_is_named():
    good = Stats.of(ROWS).to_mapping()
    mapping = {
        'short': {key: value[:2] for key, value in good.items()},
        'partial': {'min': [0.0]},
        'text': {**good, 'mean': ['a', 'b', 'c']},
        'null': {**good, 'std': None},
        'nan': json.loads(json.dumps({**good, 'min': [float('nan')] * 3})),
    }
    dims = dict.fromkeys([*mapping, 'absent'], 3)
    with pytest.raises(BadCheckpoint) as caught:
        stats_from_mapping(mapping, 'somewhere/stats.json', dims)
    text = str(caught.value)
    assert 'somewhere/stats.json' in text
    assert 'short: 2 channels, expected 3' in text
    for name in dims:
        assert f'- {name}: ' in text


@pytest.mark.parametrize('mapping', [None, [], 'text', {}, {'action': []}])
def test_a_file_with_something_else_is_refused(mapping):
    with pytest.raises(BadCheckpoint, match='action: expected min, max, mean and std'):
        stats_from_mapping(mapping, 'stats.json', {'action': 3})
