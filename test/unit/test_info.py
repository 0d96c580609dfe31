"""`vqbet info` tells bags, datasets, checkpoints and specs apart, and what is in them."""

import json

import pytest
from vqbet_ros.cli.info import describe
from vqbet_ros.cli.main import main
from vqbet_ros.errors import BadBag, BadDataset, ConfigError
from vqbet_ros.resources import resource


def test_a_bag(tmp_path, write_bag, capsys):
    bag = write_bag(tmp_path / 'twig', 2.0, outcome='success')
    assert main(['info', str(bag), '--json', str(tmp_path / 'bag.json')]) == 0
    found = json.loads((tmp_path / 'bag.json').read_text())
    assert (found['kind'], found['messages']) == ('bag', 100 + 20 + 20)
    assert found['duration_s'] == pytest.approx(1.98, abs=0.01)
    assert '50.0 Hz' in found['topics']['/joint_states']
    assert found['custom_data'] == {'outcome': 'success', 'task': 'swing'}
    assert found['spec']['robot'] == 'twig'
    assert '/joint_states' in capsys.readouterr().out
    assert describe(bag / 'metadata.yaml') == describe(bag)


def test_a_dataset(tmp_path, write_bag, capsys):
    write_bag(tmp_path / 'bags/twig', 2.0, outcome='failure')
    assert main(['prepare', str(tmp_path / 'bags'), str(tmp_path / 'set'), '--jobs', '1']) == 0
    found = describe(tmp_path / 'set')
    assert (found['kind'], found['episodes']) == ('dataset', 1)
    assert found['outcomes'] == {'failure': 1}
    assert found['prepared']['gaps'] == 'cut'
    assert found['bags'][0]['bag'] == 'twig'
    assert main(['info', str(tmp_path / 'set')]) == 0
    assert 'bag twig, episodes 1' in capsys.readouterr().out


def test_a_spec_and_a_checkpoint():
    found = describe(resource('config/robots/pusht.yaml'))
    assert (found['kind'], found['robot'], found['rate_hz']) == ('spec', 'pusht', 10.0)
    found = describe(resource('models/pusht_image'))
    assert (found['kind'], found['chunk']) == ('checkpoint', 5)
    assert found['spec']['robot'] == 'pusht'


def test_what_is_none_of_them(tmp_path, write_bag, capsys):
    (tmp_path / 'notes.txt').write_text('hello')
    (tmp_path / 'notes.yaml').write_text('hello: 1')
    (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
    for path, said in (
        (tmp_path / 'absent', 'no such file or directory'),
        (tmp_path / 'notes.txt', 'is none of what is known: a bag'),
        (tmp_path, 'is none of what is known: a bag'),
        (tmp_path / 'notes.yaml', "unknown key 'hello'"),
        (tmp_path / 'run', f'vqbet info {tmp_path / "run"}/checkpoints/last'),
    ):
        with pytest.raises(ConfigError) as caught:
            describe(path)
        assert said in str(caught.value)
    bag = write_bag(tmp_path / 'twig', 1.0)
    (bag / 'metadata.yaml').unlink()
    with pytest.raises(BadBag, match=f'vqbet recover {bag}'):
        describe(bag)
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set' / 'dataset.json').write_text('{')
    with pytest.raises(BadDataset):
        describe(tmp_path / 'set')
    assert main(['info', str(tmp_path / 'absent')]) == 1
    assert 'vqbet: error: no such file' in capsys.readouterr().err
