"""The report of a dataset: everything is in it, and what it counts is counted right."""

from dataclasses import replace
import re
from typing import Any

import numpy as np
import pytest
from vqbet_ros.cli.main import main
from vqbet_ros.data.episode import Episode
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.spec import JointLimits

pytest.importorskip('matplotlib', reason="needs matplotlib: extra 'train'")
from vqbet_ros.training import dataset_report


def test_prepare_writes_the_report(tmp_path, write_bag, capsys):
    for seed, outcome in enumerate(('success', 'failure')):
        write_bag(tmp_path / 'bags' / f'twig_{seed}', 3.0, seed, outcome=outcome)
    write_bag(tmp_path / 'bags' / 'twig_2', 4.0, 2, lost=(1.5, 2.5))
    path = tmp_path / 'dataset'
    assert main(['prepare', str(tmp_path / 'bags'), str(path), '--jobs', '1']) == 0
    page = (path / 'report.html').read_text(encoding='utf-8')
    for text in (
        'twig_0',
        'success',
        'failure',
        'not audited',
        'gap from',
        'swing',
        '/joint_states',
    ):
        assert text in page
    # Of each of the four episodes a strip and traces; lengths, and histograms of two arrays.
    assert len(re.findall(r'src="data:image/jpeg;base64,/9j/', page)) == 4
    assert len(re.findall(r'src="data:image/png;base64,iVBOR', page)) == 4 + 1 + 2
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    # Nothing is new: the page is left alone.
    (path / 'report.html').write_text('mine')
    assert main(['prepare', str(tmp_path / 'bags'), str(path), '--jobs', '1']) == 0
    assert (path / 'report.html').read_text() == 'mine'
    assert main(['info', str(path)]) == 0
    assert 'episodes' in capsys.readouterr().out


def test_passed_limits_are_counted(tmp_path, bag_spec):
    limits = {
        'a': JointLimits((-1.0, 1.0), velocity=2.0, acceleration=50.0),
        'b': JointLimits((-2.0, 2.0)),
    }
    spec = replace(bag_spec, cameras=(), action=replace(bag_spec.action, limits=limits))
    # Steps of 0.1 s: 0.1, 0.1, 0.5 and 0.3 in the first episode, nothing in the second.
    a = [0.5, 0.6, 0.7, 1.2, 1.5]
    with DatasetWriter(tmp_path / 'dataset', spec, 'made up') as writer:
        for column in (a, [-0.5] * 5):
            action = np.stack([column, np.full(5, 0.25)], axis=1).astype(np.float32)
            writer.add(Episode(action, action))
    rows = dataset_report.passed_limits(Dataset.open(tmp_path / 'dataset'))
    found: dict[tuple[str, str], Any] = {(row[0], row[1]): row[2:] for row in rows}
    assert set(found) == {('a', k) for k in ('position', 'velocity', 'acceleration')} | {
        ('b', 'position')
    }
    # 1.2 and 1.5 are beyond 1; 5 and 3 a second beyond 2; the border of the episodes counts not.
    assert found['a', 'position'] == (1.0, pytest.approx(1.5), 2, pytest.approx(2 / 10))
    assert found['a', 'velocity'] == (2.0, pytest.approx(5.0), 2, pytest.approx(2 / 8))
    assert found['a', 'acceleration'] == (50.0, pytest.approx(40.0), 0, 0)
    assert found['b', 'position'][2] == 0


def test_outliers_are_marked():
    values = np.concatenate([np.linspace(0, 1, 100), [8.0, -9.0]])[:, None].astype(np.float32)
    marked = dataset_report.outliers(values)
    assert np.flatnonzero(marked[:, 0]).tolist() == [100, 101]
