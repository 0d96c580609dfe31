"""report.html: whole, self-contained, small, and its numbers are those of the policy."""

import base64
from html.parser import HTMLParser
import importlib.util
import re

import numpy as np
import pytest

pytest.importorskip('rich', reason="needs the extra 'train'")
pytest.importorskip('tensorboard', reason="needs the extra 'train'")
pytest.importorskip('matplotlib', reason="needs the extra 'train'")

import cv2
import torch
from vqbet_ros.errors import VqbetError
from vqbet_ros.policy.checkpoint import load_checkpoint
from vqbet_ros.training.data import load_data
from vqbet_ros.training.report import measure, write_report
from vqbet_ros.training.trainer import Trainer

VOID = {'meta', 'img', 'br'}


class Outline(HTMLParser):
    """Checks that tags are closed, and collects what the page shows."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.texts: list[str] = []
        self.pictures: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == 'img':
            values = dict(attrs)
            assert values['alt']
            self.pictures.append(values['src'])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


@pytest.fixture(scope='module')
def dataset(tmp_path_factory, make_dataset):
    return make_dataset(tmp_path_factory.mktemp('data') / 'dataset')


@pytest.fixture(scope='module')
def run(tmp_path_factory, dataset, tiny_config):
    path = tmp_path_factory.mktemp('runs') / 'run'
    assert Trainer(dataset, tiny_config, path, 'cpu').run()
    return path


def test_the_page_holds_all_that_it_shows(run):
    path = run / 'report.html'
    assert path.stat().st_size < 2e6
    text = path.read_text(encoding='utf-8')
    assert not re.search(r'(src|href)="(?!data:)', text)
    page = Outline(text)
    assert page.seen.count('table') == 3
    assert page.seen.count('h2') == 6
    assert len(page.pictures) == 4
    for source in page.pictures:
        kind, _, data = source.partition(',')
        assert kind == 'data:image/png;base64'
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1)
        assert picture is not None
        assert picture.shape[1] == 960
        assert np.mean(picture < 128) > 0.002  # something is drawn
    for shown in ('policy.state_noise', 'model.vision.crop', 'perplexity_1', 'combinations'):
        assert shown in page.texts


def test_measured_errors_are_those_of_a_plain_loop(run, dataset, tiny_config):
    policy = load_checkpoint(run / 'checkpoints' / 'last').policy
    data = load_data(dataset, tiny_config, torch.device('cpu'))
    found = measure(policy, data)
    assert found.held_out
    number = int(data.val.episode[0])
    rows = dataset.episode(number)
    missed, coded = [], []
    for at in range(rows.start, rows.stop - 2):
        past = [max(at - 1, rows.start), at]
        present = torch.tensor([[at > rows.start, True]])
        images = torch.from_numpy(dataset.images['top'][past])[None, :, None]
        with torch.no_grad():
            features = policy.encode(images)
            state = torch.from_numpy(dataset.state[past])[None]
            actions = policy.act(features, state, present).actions[0].numpy()
            recorded = torch.from_numpy(dataset.action[at : at + 3].copy())
            codes = policy.vqbet.tokenizer.encode(policy.normalize_action(recorded)[None])
            decoded = policy.normalize_action.inverse(policy.vqbet.tokenizer.decode(codes))[0]
        missed.append(np.abs(actions - recorded.numpy()))
        coded.append(np.abs(decoded.numpy() - recorded.numpy()))
    assert found.frames == len(missed)
    assert found.policy_error == pytest.approx(np.mean(missed, axis=(0, 1)), rel=1e-4)
    assert found.tokenizer_error == pytest.approx(np.mean(coded, axis=(0, 1)), rel=1e-4)
    assert found.code_share.shape == (2, 4)
    assert found.code_share.sum(1) == pytest.approx([1, 1])
    assert found.titles[0] == f'episode {number}, step 0'
    assert np.array_equal(found.recorded[0], dataset.action[rows.start : rows.start + 3])
    assert found.horizon_s.tolist() == [0.0, 0.1, 0.2]


def test_without_held_out_episodes_training_frames_are_shown(
    run, tmp_path, make_dataset, tiny_config
):
    policy = load_checkpoint(run / 'checkpoints' / 'last').policy
    alone = make_dataset(tmp_path / 'alone', lengths=[9])
    found = measure(policy, load_data(alone, tiny_config, torch.device('cpu')))
    assert not found.held_out
    assert found.frames == 7


def test_a_run_without_checkpoint(run, tmp_path, dataset):
    (tmp_path / 'config.yaml').write_text((run / 'config.yaml').read_text())
    with pytest.raises(VqbetError, match='no such checkpoint directory'):
        write_report(tmp_path, dataset)


def test_a_missing_matplotlib_is_told_before_the_training(
    tmp_path, dataset, tiny_config, monkeypatch
):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    trainer = Trainer(dataset, tiny_config, tmp_path / 'run', 'cpu')
    with pytest.raises(VqbetError, match=r"needs matplotlib.*install .*'\.\[train\]'"):
        trainer.run()
    assert not (tmp_path / 'run').exists()
