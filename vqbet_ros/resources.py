"""Finds the files that come with the package: config/, models/."""

import os
from pathlib import Path
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


def _roots() -> list[Path]:
    # The source tree (also with colcon's --symlink-install), then ROS 2's install space, then pip.
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    installed = [Path(prefix) / 'share' / 'vqbet_ros' for prefix in prefixes if prefix]
    return [Path(__file__).resolve().parents[1], *installed]
