"""Options that several benches share; quick to import, as `vqbet --help` does it."""

import argparse
from pathlib import Path

PEER_SIDE_PX, PEER_CROP_PX = 96, 84


def add_shape_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what varies the configuration `peer`."""
    parser.add_argument(
        '--cameras',
        type=int,
        default=1,
        help='cameras of the policy; 0 for one that sees its state alone (default: %(default)s)',
    )
    parser.add_argument(
        '--size',
        metavar='PX',
        type=int,
        default=PEER_SIDE_PX,
        help=f"sides of each camera's picture; of {PEER_SIDE_PX} px the middle {PEER_CROP_PX} are "
        'used, of others all (default: %(default)s)',
    )
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='another value of the configuration, for example model.width=256; repeatable',
    )
    parser.add_argument(
        '--device', choices=('auto', 'cpu', 'cuda'), default='auto', help='(default: %(default)s)'
    )
    parser.add_argument(
        '--threads',
        type=int,
        default=0,
        help='CPU threads; 0 leaves it to torch, which takes all cores (default: %(default)s)',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='of weights, pictures, draws (default: %(default)s)'
    )
    _add_json_argument(parser)


def check_shape(args: argparse.Namespace) -> None:
    """End with the usage where what `add_shape_arguments` added cannot be."""
    require_at_least(args, cameras=0, size=1, threads=0)


def add_node_arguments(parser: argparse.ArgumentParser, *, seconds: int, out: str) -> None:
    """Add what every bench of a running node has.

    Args:
        parser: Of the bench.
        seconds: Default of `--seconds`.
        out: Default of `--out`.
    """
    parser.add_argument(
        '--seconds', type=int, default=seconds, help='how long, in s (default: %(default)s)'
    )
    parser.add_argument(
        '--out', type=Path, default=Path(out), help='working folder (default: %(default)s)'
    )
    _add_json_argument(parser)


def require_at_least(args: argparse.Namespace, **lowest: float) -> None:
    """End with the usage where an option is below its lowest value."""
    for name, low in lowest.items():
        if not getattr(args, name) >= low:
            option = name.replace('_', '-')
            args.parser.error(f'--{option}: got {getattr(args, name)}, expected {low} or more')


def _add_json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the figures here')
    parser.set_defaults(parser=parser)
