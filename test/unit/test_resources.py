"""Files of the package are found wherever it is installed."""

import pytest
from vqbet_ros.errors import ConfigError
from vqbet_ros.resources import resource


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
