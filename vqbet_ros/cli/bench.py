"""`vqbet bench`: measurements on the machine at hand, a module for each."""

import argparse
import importlib
from typing import Any

# Modules bench_<name>.py of this package. Each has add_parser(subparsers), and run(args) -> int,
# which imports what is slow to import.
BENCHES = ('control', 'data', 'inference', 'record', 'train')


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet`."""
    parser = subparsers.add_parser(
        'bench',
        help='measure what this machine can do',
        description='Measure what this machine can do. The results name the machine.',
    )
    benches = parser.add_subparsers(title='benches', dest='bench', metavar='BENCH', required=True)
    for name in BENCHES:
        _module(name).add_parser(benches)


def run(args: argparse.Namespace) -> int:
    """Run one of the benches; returns the exit status."""
    status: int = _module(args.bench).run(args)
    return status


def _module(name: str) -> Any:
    return importlib.import_module(f'vqbet_ros.cli.bench_{name}')
