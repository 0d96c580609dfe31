"""Launch tests need ROS 2's launch, which has no wheels; the package itself need not be built.

Import launch inside tests and fixtures only: a module that imports it at its top is not skipped
but fails where launch is absent.
"""

import importlib
import os
from pathlib import Path
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLES = ('policy_node', 'recorder_keys', 'recorder_node', 'sim_node')


@pytest.fixture(scope='session', autouse=True)
def needs_launch():
    """Skip where launch is not installed."""
    try:
        # Not `launch` alone: this repository's folder of that name satisfies it.
        importlib.import_module('launch.actions')
        importlib.import_module('launch_ros.actions')
    except ImportError as error:
        pytest.skip(f"ROS 2's launch is not installed ({error}): source a ROS 2")


@pytest.fixture(scope='session')
def ament_prefix(needs_launch, tmp_path_factory):
    """Make an install space out of links to this source tree, and return its path.

    What launch finds there by name is the code under test, whether or not colcon has built it.
    """
    prefix = tmp_path_factory.mktemp('prefix')
    marker = prefix / 'share/ament_index/resource_index/packages/vqbet_ros'
    marker.parent.mkdir(parents=True)
    marker.touch()
    share = prefix / 'share/vqbet_ros'
    # Links to files in real folders: `ros2 launch` does not look into linked folders.
    for name in ('package.xml', 'launch', 'config', 'models'):
        for path in (ROOT / name, *(ROOT / name).rglob('*')):
            if path.is_file():
                link = share / path.relative_to(ROOT)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
    programs = prefix / 'lib/vqbet_ros'
    programs.mkdir(parents=True)
    for name in EXECUTABLES:
        program = programs / name
        program.write_text(
            f'#!{sys.executable}\n'
            'import sys\n'
            f'sys.path.insert(0, {str(ROOT)!r})\n'
            f'from vqbet_ros.ros.{name} import main\n'
            'sys.exit(main())\n',
            encoding='utf-8',
        )
        program.chmod(0o755)
    before = os.environ.get('AMENT_PREFIX_PATH')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('AMENT_PREFIX_PATH', os.pathsep.join(filter(None, [str(prefix), before])))
        yield prefix
