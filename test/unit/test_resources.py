"""Files of the package are found wherever it is installed."""

import importlib.util
from pathlib import Path
import shlex
import sys

import pytest
from vqbet_ros import resources
from vqbet_ros.errors import ConfigError
from vqbet_ros.resources import how_to_install, resource


def test_files_of_the_source_tree_are_found():
    assert resource('config/robots/pusht.yaml').is_file()
    assert resource('config/fastdds.xml').is_absolute()


def test_an_install_space_of_ros_is_searched(tmp_path, monkeypatch):
    share = tmp_path / 'share' / 'vqbet_ros'
    share.mkdir(parents=True)
    (share / 'only_here.yaml').touch()
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/nowhere:{tmp_path}')
    assert resource('only_here.yaml') == share / 'only_here.yaml'


def test_what_is_absent_names_the_places(monkeypatch):
    monkeypatch.setenv('AMENT_PREFIX_PATH', '/nowhere')
    with pytest.raises(ConfigError, match=r'lacks models/none; looked at .*/nowhere/share'):
        resource('models/none')


@pytest.mark.parametrize('pip', [True, False])
def test_what_brings_an_extra_can_be_run(monkeypatch, pip):
    """No index has the package; an environment that uv made has no pip."""
    find_spec = importlib.util.find_spec
    there = find_spec('json')
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name: (there if pip else None) if name == 'pip' else find_spec(name),
    )
    said, _, command = how_to_install('sim').partition(': ')
    assert said == "install the extra 'sim'"
    words = shlex.split(command)
    source = Path(__file__).resolve().parents[2]
    assert words[:3] == ['cd', str(source), '&&']
    tool = [sys.executable, '-m', 'pip', 'install'] if pip else ['uv', 'pip', 'install']
    assert words[3:] == [*tool, *([] if pip else ['--python', sys.executable]), '-e', '.[sim]']


def test_without_the_source_there_is_no_folder_to_name(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, '_roots', lambda: [tmp_path])
    assert str(tmp_path) not in how_to_install('sim')
    assert "in the folder of the package's source, " in how_to_install('sim')
