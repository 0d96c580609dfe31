"""`vqbet export`: what was made here in the formats of other programs, a module for each."""

import argparse
import importlib
from typing import Any

# Modules export_<name>.py of this package. Each has add_parser(subparsers), and run(args) -> int,
# which imports what is slow to import.
FORMATS = ('onnx',)


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet`."""
    parser = subparsers.add_parser(
        'export',
        help='write checkpoints in formats of other programs',
        description='Write what was made here in the formats of other programs.',
    )
    formats = parser.add_subparsers(
        title='formats', dest='format', metavar='FORMAT', required=True
    )
    for name in FORMATS:
        _module(name).add_parser(formats)


def run(args: argparse.Namespace) -> int:
    """Export to one of the formats; returns the exit status."""
    status: int = _module(args.format).run(args)
    return status


def _module(name: str) -> Any:
    return importlib.import_module(f'vqbet_ros.cli.export_{name}')
