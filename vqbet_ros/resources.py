"""Finds the files that come with the package (config/, models/), and what brings its extras."""

import importlib.util
import os
from pathlib import Path
import shlex
import sys

from vqbet_ros.errors import ConfigError


def resource(relative: str) -> Path:
    """Find a file or folder of the package, from a source tree or installed.

    Args:
        relative: Path below the package's share folder, for example 'config/robots/pusht.yaml'.

    Returns:
        The absolute path.

    Raises:
        ConfigError: It is in none of the places; lists them.
    """
    candidates = [root / relative for root in _roots()]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    places = ', '.join(str(candidate) for candidate in candidates)
    raise ConfigError(f'the package lacks {relative}; looked at {places}')


def named(path: str) -> Path:
    """Find a file that a user names: where it says, or else among those of the package."""
    if Path(path).exists() or not path.startswith(('config/', 'models/')):
        return Path(path)
    return resource(path)


def how_to_install(extra: str) -> str:
    """Say what brings an extra of the package into this environment; no index has the package."""
    if importlib.util.find_spec('pip') is not None:
        pip = f'{shlex.quote(sys.executable)} -m pip install'
    else:  # as in the environments that uv makes
        pip = f'uv pip install --python {shlex.quote(sys.executable)}'
    source = _roots()[0]
    if (source / 'setup.py').is_file():
        where, command = f'cd {shlex.quote(str(source))} && ', f"{pip} -e '.[{extra}]'"
    else:
        where, command = "in the folder of the package's source, ", f"{pip} '.[{extra}]'"
    return f"install the extra '{extra}': {where}{command}"


def _roots() -> list[Path]:
    # The source tree (also with colcon's --symlink-install), then ROS 2's install space, then pip.
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    installed = [Path(prefix) / 'share' / 'vqbet_ros' for prefix in prefixes if prefix]
    return [Path(__file__).resolve().parents[1], *installed]
