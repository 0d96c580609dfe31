"""`vqbet eval offline`: a policy beside recorded demonstrations."""

import argparse
from pathlib import Path
from typing import Any

from vqbet_ros.cli.figures import write_json


def add_parser(worlds: Any) -> None:
    """Add the world to `vqbet eval`."""
    parser = worlds.add_parser(
        'offline',
        help='error against recorded demonstrations',
        description="Compare a policy's most probable chunks with the recorded ones: on the "
        'episodes that its training kept out, or on all episodes of another dataset. A small '
        'error does not make a good policy, but a large one a bad one.',
    )
    parser.add_argument('checkpoint', metavar='CHECKPOINT', type=Path, help='checkpoint directory')
    parser.add_argument('dataset', metavar='DATASET', type=Path, help='dataset directory')
    parser.add_argument(
        '--device',
        choices=('auto', 'cpu', 'cuda'),
        default='auto',
        help='where to run; auto takes a CUDA GPU where there is one (default: %(default)s)',
    )
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the figures here')
    parser.add_argument('--out', metavar='DIR', type=Path, help='write pictures here')
    parser.set_defaults(parser=parser, evaluate=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate; returns the exit status."""
    from vqbet_ros.data.store import Dataset
    from vqbet_ros.policy.checkpoint import load_checkpoint
    from vqbet_ros.policy.device import pick_device
    from vqbet_ros.training.evaluate_offline import evaluate, figures
    from vqbet_ros.training.html import require_matplotlib

    if args.out:
        require_matplotlib('--out')
    dataset = Dataset.open(args.dataset)
    checkpoint = load_checkpoint(args.checkpoint, pick_device(args.device))
    found = evaluate(checkpoint, dataset)
    result = figures(found, dataset)
    which = 'held-out' if found.held_out else 'all'
    print(f'{which} episodes: {result["episodes"]}, {result["frames"]} frames')
    print(f'mean absolute error, {result["unit"]}: by horizon; (last action repeated)')
    for name, errors in result['error_by_horizon'].items():
        held = ' '.join(
            '-' if error is None else f'{error:.4g}'
            for error in result['error_if_held_by_horizon'][name]
        )
        print(f'  {name:<16}{" ".join(f"{error:.4g}" for error in errors)}; ({held})')
    if args.out:
        from vqbet_ros.training.replay_report import draw_horizon

        args.out.mkdir(parents=True, exist_ok=True)
        lines = [('policy', found.error), ('last action repeated', found.held_error)]
        (args.out / 'horizon.png').write_bytes(draw_horizon(lines, dataset.spec))
    write_json(result, args.json)
    return 0
