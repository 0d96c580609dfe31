"""`vqbet`: finds the commands, runs one, and turns the user's mistakes into one clear message."""

import argparse
from collections.abc import Sequence
import errno
import importlib
import os
import sys
from typing import Any

from vqbet_ros import __version__
from vqbet_ros.errors import VqbetError
from vqbet_ros.resources import how_to_install

# Modules of this package, one per command (a keyword of Python as its name takes a trailing _).
# Each has add_parser(subparsers), and run(args) -> int, which imports what is slow to import.
COMMANDS = (
    'demo',
    'import_',
    'prepare',
    'train',
    'eval',
    'info',
    'replay',
    'recover',
    'export',
    'bench',
)

# Packages that only some commands need, and the extra that brings them.
EXTRAS = {
    'accelerate': 'distributed',
    'av': 'bench',
    'gym_pusht': 'sim',
    'matplotlib': 'train',
    'onnx': 'onnx',
    'onnxruntime': 'onnx',
    'onnxscript': 'onnx',
    'pyarrow': 'bench',
    'rclpy': 'ros',
    'rich': 'train',
    'tensorboard': 'train',
    'zarr': 'train',
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vqbet`.

    Args:
        arguments: What follows the program's name; None takes the process's own.

    Returns:
        Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    args = build_parser().parse_args(arguments)
    try:
        status: int = _module(args.command).run(args)
        sys.stdout.flush()
    except VqbetError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or '').partition('.')[0]
        if package not in EXTRAS:
            raise
        return _fail(
            f'this command needs {package}, which is not installed; '
            + how_to_install(EXTRAS[package])
        )
    except KeyboardInterrupt:
        print('vqbet: interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`vqbet ... | head`); Python's own flush at exit
        # would complain about it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in _DISK_FULL:
            raise
        return _fail(_describe(error))
    return status


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `vqbet` with all its commands."""
    parser = argparse.ArgumentParser(
        prog='vqbet', description='VQ-BeT for ROS 2: import, train, evaluate, run.'
    )
    parser.add_argument('--version', action='version', version=f'vqbet {__version__}')
    subparsers = parser.add_subparsers(
        title='commands', dest='command', metavar='COMMAND', required=True
    )
    for name in COMMANDS:
        _module(name.rstrip('_')).add_parser(subparsers)
    return parser


def _module(command: str) -> Any:
    name = next(name for name in COMMANDS if name.rstrip('_') == command)
    return importlib.import_module(f'vqbet_ros.cli.{name}')


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _describe(error: OSError) -> str:
    where = f': {error.filename}' if error.filename else ''
    what = f'{error.strerror or error}{where}'
    if error.errno in _DISK_FULL:
        what += '; free some space, or write to another place'
    return what


def _fail(message: str) -> int:
    print(f'vqbet: error: {message}', file=sys.stderr)
    return 1


if __name__ == '__main__':
    sys.exit(main())
