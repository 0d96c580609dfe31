"""What a training sees of a dataset: the split, statistics of the training part, pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from vqbet_ros.config import Outcome
from vqbet_ros.data.prepare import Preparation
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.errors import BadDataset
from vqbet_ros.training.data import load_data

CPU = torch.device('cpu')


def poke(path, row, value):
    """Overwrite one row of a dataset's .npy file."""
    array = np.load(path, mmap_mode='r+')
    array[row] = value
    array.flush()


def test_statistics_are_of_training_episodes_alone(tmp_path, make_dataset, tiny_config):
    dataset = make_dataset(tmp_path / 'dataset')
    before = load_data(dataset, tiny_config, CPU)
    assert len(before.val) > 0
    assert not set(before.val.episode.tolist()) & set(before.train.episode.tolist())
    for name in ('state', 'action', 'targets'):
        poke(tmp_path / 'dataset' / f'{name}.npy', int(before.val.at[0]), 1e6)
    after = load_data(Dataset.open(tmp_path / 'dataset'), tiny_config, CPU)
    assert after.stats == before.stats
    assert set(after.stats) == {'state', 'action', 'targets'}
    assert float(after.state[before.val.at[0]].max()) == 1e6
    poke(tmp_path / 'dataset' / 'state.npy', int(before.train.at[0]), 1e6)
    spoilt = load_data(Dataset.open(tmp_path / 'dataset'), tiny_config, CPU)
    assert spoilt.stats['state'].max == (1e6, 1e6)


def test_the_split_follows_its_own_seed(tmp_path, make_dataset, tiny_config):
    dataset = make_dataset(tmp_path / 'dataset', lengths=[5] * 12)

    def held_out(**changes):
        data = load_data(dataset, replace(tiny_config, **changes), CPU)
        return sorted(set(data.val.episode.tolist()))

    assert len(held_out()) == 3
    assert held_out() == held_out(seed=5)
    assert held_out() != held_out(split_seed=1)
    assert held_out(val_fraction=0.0) == []


def test_pictures_of_rows_of_any_shape(tmp_path, make_dataset, tiny_config):
    dataset = make_dataset(tmp_path / 'dataset')
    data = load_data(dataset, tiny_config, CPU)
    rows = np.array([[0, 5, 5], [13, 14, 45]])
    images = data.images(rows)
    assert images.shape == (2, 3, 1, 24, 24, 3)
    assert images.dtype == torch.uint8
    assert np.array_equal(images[1, 2, 0].numpy(), dataset.images['top'][45])
    assert np.array_equal(images[0, 1, 0].numpy(), dataset.images['top'][5])


def test_episodes_shorter_than_a_chunk_are_refused(tmp_path, make_dataset, tiny_config):
    dataset = make_dataset(tmp_path / 'dataset', lengths=[2, 2, 2])
    with pytest.raises(BadDataset, match='no training episode is as long as one chunk of 3'):
        load_data(dataset, tiny_config, CPU)


def test_a_dataset_with_nan_is_refused(tmp_path, make_dataset):
    make_dataset(tmp_path / 'dataset')
    poke(tmp_path / 'dataset' / 'action.npy', 7, np.nan)
    with pytest.raises(BadDataset, match=r'action.npy: 2 value\(s\) are NaN .* row 7, column 0'):
        Dataset.open(tmp_path / 'dataset')


def test_what_a_gap_cut_apart_is_not_split(tmp_path, write_bag, tiny_config):
    """Half of a demonstration says too much about the other half."""
    bags = [write_bag(tmp_path / f'{i}', 3.0, i, lost=(1.2, 1.9)) for i in range(4)]
    bags.append(write_bag(tmp_path / 'whole', 2.0, 4))
    with Preparation(bags, tmp_path / 'dataset') as preparation:
        assert [done.status for done in preparation.run(1)] == ['added'] * 5
    dataset = Dataset.open(tmp_path / 'dataset')
    assert dataset.num_episodes == 9
    model = replace(tiny_config.model, vision=replace(tiny_config.model.vision, crop=None))
    for seed in range(5):
        config = replace(tiny_config, model=model, val_fraction=0.4, split_seed=seed)
        data = load_data(dataset, config, CPU)
        train, val = ({e // 2 for e in part.episode.tolist()} for part in (data.train, data.val))
        assert train | val == set(range(5))
        assert not train & val
        assert len(val) == 2


def test_only_the_wanted_outcomes_are_used(tmp_path, make_dataset, tiny_config):
    make_dataset(tmp_path / 'dataset', lengths=[5] * 8)
    dataset = Dataset.open(tmp_path / 'dataset')
    outcomes: tuple[Outcome, ...] = ('success', 'failure', 'unmarked', 'incomplete') * 2
    with DatasetWriter(dataset.path, dataset.spec, dataset.source, dataset.target_names) as writer:
        for index, outcome in enumerate(outcomes):
            writer.relabel(range(index, index + 1), outcome)
    dataset = Dataset.open(dataset.path)
    assert dataset.outcomes == outcomes

    def used(**changes):
        data = load_data(dataset, replace(tiny_config, **changes), CPU)
        return sorted({*data.train.episode.tolist(), *data.val.episode.tolist()})

    assert used() == [0, 2, 4, 6]
    assert used(outcomes=('failure',)) == [1, 5]
    assert used(outcomes=outcomes[:4]) == list(range(8))
    writer.relabel(range(8), 'failure')
    with pytest.raises(BadDataset, match=r'no episode is success or unmarked .*8 failure'):
        load_data(Dataset.open(dataset.path), tiny_config, CPU)
