"""Message definitions for bags: the .msg files of the installed packages, nested types with them.

A bag holds its messages' definitions, so that it can be read where the packages are not installed.
The text is rosbag2's `ros2msg`: the type's own .msg file, then each type that it uses, once,
below a line of 80 `=` and a line `MSG: package/Type`. Types that come as .idl files alone are
written the same way as `ros2idl`.
"""

from dataclasses import dataclass
import os
from pathlib import Path
import re
import sys

from rosbags.typesys import get_typestore, Stores
from rosbags.typesys.store import Typestore
from vqbet_ros.errors import UnknownType

ENCODINGS = ('ros2msg', 'ros2idl')
_TYPE = re.compile(r'([A-Za-z]\w*)/(msg|srv|action)/(\w+(?:/\w+)*)')
_DELIMITER = '\n' + 80 * '=' + '\n'
_PRIMITIVES = re.compile(r'bool|byte|char|float(32|64)|u?int(8|16|32|64)|w?string')
_INCLUDE = re.compile(r'^\s*#include\s+["<]([\w/]+)\.idl[">]', re.MULTILINE)


@dataclass(frozen=True)
class Definition:
    """A type's definition as a bag's schema holds it.

    Attributes:
        text: With all types that it uses.
        encoding: 'ros2msg' or 'ros2idl'.
    """

    text: str
    encoding: str = 'ros2msg'


def definition_of(type_name: str) -> Definition:
    """Find a type's definition.

    Args:
        type_name: For example 'sensor_msgs/msg/JointState'.

    Raises:
        UnknownType: Not a type's name; or neither installed nor among ROS 2's common types.
    """
    if not _TYPE.fullmatch(type_name):
        raise UnknownType(
            f"'{type_name}' is not the name of a message type, expected package/msg/Type"
        )
    missing: set[str] = set()
    for encoding, suffix in zip(ENCODINGS, ('.msg', '.idl'), strict=True):
        texts: dict[str, str] = {}
        absent = _collect(type_name, suffix, texts)
        if not absent:
            return Definition(_joined(type_name, texts, suffix), encoding)
        missing |= absent
    store = _typestore()
    if type_name in store.fielddefs:
        return Definition(store.generate_msgdef(type_name, ros_version=2)[0])
    needed = sorted(missing - {type_name})
    package = type_name.partition('/')[0]
    raise UnknownType(
        f"no definition of '{type_name}' is installed"
        + (f' (of what it uses: {", ".join(needed)})' if needed else '')
        + f': install ros-$ROS_DISTRO-{package.replace("_", "-")}, or source the workspace that '
        f'has {package} (install/setup.bash), then start again'
    )


def _collect(root: str, suffix: str, texts: dict[str, str]) -> set[str]:
    """Read a type and all that it uses into `texts`, in depth-first order; return the absent."""
    absent = set()
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name in texts or name in absent:
            continue
        file = _find(name, suffix)
        if file is None:
            absent.add(name)
            continue
        texts[name] = file.read_text(encoding='utf-8')
        uses = _uses_of_msg if suffix == '.msg' else _uses_of_idl
        waiting.extend(reversed(uses(texts[name], name)))
    return absent


def _find(type_name: str, suffix: str) -> Path | None:
    package, _, rest = type_name.partition('/')
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    for prefix in [prefix for prefix in prefixes if prefix] + [sys.prefix]:
        file = Path(prefix, 'share', package, rest + suffix)
        if file.is_file():
            return file
    return None


def _uses_of_msg(text: str, type_name: str) -> list[str]:
    package = type_name.partition('/')[0]
    uses = []
    for line in text.splitlines():
        field = line.partition('#')[0].split()
        if not field:
            continue
        # 'geometry_msgs/Point[<=4]' and 'string<=10' to what stands before the bounds.
        name = re.split(r'[\[<]', field[0], maxsplit=1)[0]
        if _PRIMITIVES.fullmatch(name):
            continue
        parts = name.split('/')
        uses.append('/'.join([parts[0] if len(parts) > 1 else package, 'msg', parts[-1]]))
    return uses


def _uses_of_idl(text: str, type_name: str) -> list[str]:
    return [name for name in _INCLUDE.findall(text) if name != type_name]


def _joined(root: str, texts: dict[str, str], suffix: str) -> str:
    if suffix == '.msg':
        parts = [texts[root]]
        parts += [f'MSG: {_short(name)}\n{text}' for name, text in texts.items() if name != root]
        return _DELIMITER.join(parts)
    return _DELIMITER.join(['', *(f'IDL: {name}\n{text}' for name, text in texts.items())])[1:]


def _short(type_name: str) -> str:
    package, _, rest = type_name.partition('/')
    return f'{package}/{rest.rpartition("/")[2]}'


def _typestore() -> Typestore:
    distro = f'ros2_{os.environ.get("ROS_DISTRO", "")}'
    known = {store.value: store for store in Stores}
    return get_typestore(known.get(distro, Stores.LATEST))
