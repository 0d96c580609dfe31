"""Message types of packages that are not part of every ROS 2: imported when a spec asks."""

import importlib
from typing import Any

from vqbet_ros.errors import UnknownType

_HINTS = {
    'control_msgs': 'sudo apt install ros-$ROS_DISTRO-control-msgs',
    'interbotix_xs_msgs': 'build https://github.com/Interbotix/interbotix_ros_core (the branch of '
    'your ROS 2), then source its install/setup.bash',
}


def message_type(name: str, wanted_by: str) -> Any:
    """Import a message or action type.

    Args:
        name: For example 'control_msgs/msg/JointJog'.
        wanted_by: What needs it, for the error.

    Raises:
        UnknownType: The package is not there, or has no such type; says what to install.
    """
    package, group, kind = name.split('/')
    try:
        module = importlib.import_module(f'{package}.{group}')
    except ImportError as error:
        hint = _HINTS.get(package, 'install it')
        raise UnknownType(
            f'{wanted_by} needs {name}, but the package {package} cannot be imported here '
            f'({error}): {hint}'
        ) from error
    if not hasattr(module, kind):
        where = getattr(module, '__file__', package)
        raise UnknownType(
            f'{wanted_by} needs {name}, but the {package} in {where} has no {kind}: '
            'update that package'
        )
    return getattr(module, kind)
