"""Checkpoints: what is saved comes back, and what is broken is refused with one clear error."""

import dataclasses
import json
from pathlib import Path
import pickle
import resource as resource_limits
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file
import torch
from vqbet_ros.config import ModelConfig
from vqbet_ros.errors import BadCheckpoint, VqbetError
from vqbet_ros.policy.checkpoint import FILES, load_checkpoint, replace_directory, save_checkpoint
from vqbet_ros.policy.normalizer import Stats
from vqbet_ros.policy.policy import Policy
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec

SPEC = RobotSpec.from_yaml(resource('config/robots/pusht_keypoints.yaml'))
CONFIG = ModelConfig(
    history=2, chunk=3, latent=6, tokenizer_hidden=8, codebook_size=4, layers=1, heads=2, width=8
)


def make_policy(seed=0, config=CONFIG):
    torch.manual_seed(seed)
    stats = {
        'state': Stats.of(512 * torch.rand(50, SPEC.state_dim).numpy()),
        'action': Stats.of(512 * torch.rand(50, SPEC.action_dim).numpy()),
    }
    policy = Policy(config, SPEC, stats)
    chunks = torch.randn(32, config.chunk, SPEC.action_dim)
    policy.vqbet.tokenizer.loss(chunks, torch.ones(chunks.shape[:2], dtype=torch.bool))
    return policy.eval()


def decide(policy):
    state = 512 * torch.rand(3, 2, SPEC.state_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return policy.act(None, state)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp('run') / 'checkpoint'
    policy = make_policy()
    save_checkpoint(directory, policy, card='# card\n', training={'step': 7})
    return directory, policy


@pytest.fixture
def broken(saved, tmp_path):
    """A copy of a good checkpoint, to be broken."""
    return Path(shutil.copytree(saved[0], tmp_path / 'checkpoint'))


def test_outputs_are_the_same_bit_for_bit(saved):
    directory, policy = saved
    loaded = load_checkpoint(directory)
    assert not loaded.policy.training
    assert loaded.training == {'step': 7}
    assert loaded.policy.config == policy.config
    assert loaded.policy.spec == policy.spec
    assert loaded.policy.stats == policy.stats
    for one, other in zip(
        dataclasses.astuple(decide(loaded.policy)),
        dataclasses.astuple(decide(policy)),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_the_directory_holds_its_files_and_nothing_lies_beside_it(saved):
    directory, _ = saved
    assert sorted(p.name for p in directory.iterdir()) == sorted([*FILES, 'README.md'])
    assert [p.name for p in directory.parent.iterdir()] == ['checkpoint']
    assert (directory / 'README.md').read_text() == '# card\n'
    config = json.loads((directory / 'config.json').read_text())
    assert (config['format'], config['version']) == ('vqbet_ros', 1)


def test_half_storage_gives_nearly_the_same(saved, tmp_path):
    directory, policy = saved
    save_checkpoint(tmp_path / 'half', policy, card='', training={}, half=True)
    size, half_size = (
        (path / 'model.safetensors').stat().st_size for path in (directory, tmp_path / 'half')
    )
    assert half_size < 0.7 * size  # names and shapes take room too
    loaded = load_checkpoint(tmp_path / 'half').policy
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    ours, theirs = decide(loaded), decide(policy)
    assert torch.equal(ours.codes, theirs.codes)
    torch.testing.assert_close(ours.actions, theirs.actions, rtol=0, atol=2.0)  # of 512 px


def test_half_storage_keeps_numbers_beyond_its_range(tmp_path):
    policy = make_policy()
    policy.vqbet.tokenizer.rvq.assigned_sum[0, 0, 0] = 1e6
    save_checkpoint(tmp_path / 'half', policy, card='', training={}, half=True)
    assert load_checkpoint(tmp_path / 'half').policy.vqbet.tokenizer.rvq.assigned_sum.max() == 1e6


def test_other_weights_and_more_files_can_be_saved(tmp_path):
    policy, average = make_policy(), make_policy(seed=1)
    save_checkpoint(
        tmp_path / 'last',
        policy,
        card='',
        training={},
        weights=average.state_dict(),
        extra_tensors={'resume': {'moment': torch.arange(3.0)}},
        extra_json={'resume': {'step': 5}},
    )
    loaded = load_checkpoint(tmp_path / 'last').policy.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in average.state_dict().items())
    assert load_file(tmp_path / 'last' / 'resume.safetensors')['moment'].tolist() == [0, 1, 2]
    assert json.loads((tmp_path / 'last' / 'resume.json').read_text()) == {'step': 5}


def test_saving_again_replaces(tmp_path):
    target = tmp_path / 'last'
    for step in range(2):
        extra = {'resume': {'x': torch.zeros(1)}} if step == 0 else None
        save_checkpoint(
            target, make_policy(step), card='', training={'step': step}, extra_tensors=extra
        )
    assert load_checkpoint(target).training == {'step': 1}
    assert not (target / 'resume.safetensors').exists()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize('swaps', [True, False])
def test_replacing_a_directory(tmp_path, monkeypatch, swaps):
    if not swaps:  # as on a file system that cannot
        monkeypatch.setattr('vqbet_ros.policy.checkpoint._exchange', lambda a, b: False)
    new, target = tmp_path / 'new', tmp_path / 'target'
    for content in ('one', 'two'):
        new.mkdir()
        (new / 'file').write_text(content)
        replace_directory(new, target)
        assert (target / 'file').read_text() == content
        assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize('name', FILES)
def test_a_missing_file_is_named(broken, name):
    (broken / name).unlink()
    with pytest.raises(BadCheckpoint, match=rf'no whole checkpoint.*\n.*{name}'):
        load_checkpoint(broken)


def test_no_directory(tmp_path):
    with pytest.raises(BadCheckpoint, match='no such checkpoint directory'):
        load_checkpoint(tmp_path / 'absent')
    (tmp_path / 'file.pt').write_text('')
    with pytest.raises(BadCheckpoint, match='no such checkpoint directory'):
        load_checkpoint(tmp_path / 'file.pt')


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('share', [0.0, 0.5])
def test_a_truncated_file_is_refused(broken, name, share):
    path = broken / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadCheckpoint, match=str(broken)):
        load_checkpoint(broken)


@pytest.mark.parametrize('name', FILES)
def test_bytes_of_something_else_are_refused(broken, name):
    (broken / name).write_bytes(b'\x80\x04\xff\x00' * 100)
    with pytest.raises(BadCheckpoint, match=str(broken)):
        load_checkpoint(broken)


def test_no_pickle_is_opened(broken, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / 'sprung'), 'w'))

    for name in ('model.safetensors', 'config.json', 'stats.json', 'spec.yaml'):
        content = (broken / name).read_bytes()
        (broken / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(BadCheckpoint):
            load_checkpoint(broken)
        (broken / name).write_bytes(content)
    torch.save({'x': Trap()}, broken / 'model.safetensors')
    with pytest.raises(BadCheckpoint):
        load_checkpoint(broken)
    assert not (tmp_path / 'sprung').exists()


def edit(path, change):
    mapping = json.loads(path.read_text())
    change(mapping)
    path.write_text(json.dumps(mapping))


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('config.json', lambda c: c.update(format='lerobot'), "format 'lerobot'"),
        ('config.json', lambda c: c.pop('format'), 'format None'),
        ('config.json', lambda c: c.update(version=2), 'version 2, this package reads 1'),
        ('config.json', lambda c: c['model'].update(widht=3), "did you mean 'width'"),
        ('config.json', lambda c: c['model'].update(width=7), 'multiple of heads'),
        ('config.json', lambda c: c.update(model=None), 'expected a mapping'),
        ('config.json', lambda c: c['model'].update(width=16), r'shape \('),
        ('config.json', lambda c: c['model'].update(layers=2), 'missing vqbet.trunk.blocks.1'),
        ('config.json', lambda c: c['model'].update(query_token=False), 'unexpected vqbet.query'),
        ('stats.json', lambda s: s.pop('action'), 'action: expected min, max, mean and std'),
        ('stats.json', lambda s: s.clear(), 'state: expected min, max, mean and std'),
        ('stats.json', lambda s: s['action']['min'].pop(), 'same length'),
        ('stats.json', lambda s: s['state'].update(min=[float('nan')] * 18), 'finite'),
    ],
)
def test_contradictions_are_named(broken, name, change, message):
    edit(broken / name, change)
    with pytest.raises(BadCheckpoint, match=message):
        load_checkpoint(broken)


def test_a_json_list_is_refused(broken):
    (broken / 'config.json').write_text('[1, 2]')
    with pytest.raises(BadCheckpoint, match='expected a JSON object, got list'):
        load_checkpoint(broken)


def test_every_wrong_tensor_is_listed(broken):
    path = broken / 'model.safetensors'
    state = load_file(path)
    state['vqbet.query'][0] = float('nan')
    state['vqbet.code_head.joint.bias'][0] = float('inf')
    state['vqbet.position'] = torch.zeros(1)
    del state['vqbet.trunk.norm.bias']
    state['something.else'] = torch.zeros(1)
    save_file(state, path)
    with pytest.raises(BadCheckpoint) as caught:
        load_checkpoint(broken)
    lines = str(caught.value).splitlines()
    assert lines[1:] == [
        '  - missing vqbet.trunk.norm.bias',
        '  - unexpected something.else',
        '  - vqbet.code_head.joint.bias: holds numbers that are not finite',
        '  - vqbet.position: shape (1,), expected (2, 2, 8)',
        '  - vqbet.query: holds numbers that are not finite',
    ]


def test_a_foreign_safetensors_file_is_refused_briefly(broken):
    save_file({'model.diffusion.unet': torch.zeros(3)}, broken / 'model.safetensors')
    with pytest.raises(BadCheckpoint, match='do not fit the configuration') as caught:
        load_checkpoint(broken)
    assert len(str(caught.value).splitlines()) <= 12


@pytest.mark.parametrize('size', [0, 3000])
def test_a_disk_that_takes_no_more_keeps_the_old_checkpoint(saved, broken, size):
    limits = resource_limits.getrlimit(resource_limits.RLIMIT_FSIZE)
    resource_limits.setrlimit(resource_limits.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(VqbetError, match=r'could not save the checkpoint .*\n.*--resume'):
            save_checkpoint(broken, saved[1], card='', training={'step': 8})
    finally:
        resource_limits.setrlimit(resource_limits.RLIMIT_FSIZE, limits)
    assert load_checkpoint(broken).training == {'step': 7}
    assert list(broken.parent.iterdir()) == [broken]


def test_a_full_disk_is_called_so(saved, broken, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('vqbet_ros.policy.checkpoint._save_tensors', full)
    with pytest.raises(VqbetError, match='the disk is full'):
        save_checkpoint(broken, saved[1], card='', training={})
    assert load_checkpoint(broken).training == {'step': 7}


def test_a_directory_that_cannot_be_made_is_said(saved, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(VqbetError, match='could not save'):
        save_checkpoint(tmp_path / 'file' / 'last', saved[1], card='', training={})


WITHOUT_TRAINING = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith(('vqbet_ros.training', 'vqbet_ros.data', 'rclpy')):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from vqbet_ros.policy.engine import Engine
engine = Engine.load(sys.argv[1])
engine.warm_up()
print(engine.history, engine.chunk)
"""


def test_loads_without_the_training_code(saved):
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_TRAINING, saved[0]],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == '2 3\n', done.stderr
