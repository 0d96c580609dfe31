"""`vqbet bench train`: how many steps a second a training takes, and how much memory."""

import argparse
import json
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any

from vqbet_ros.cli.bench_options import add_shape_arguments, check_shape, require_at_least
from vqbet_ros.cli.figures import write_json
from vqbet_ros.errors import VqbetError

# What each of the four is varied over, the others being as the command line says.
SCALES: dict[str, tuple[str, tuple[int, ...]]] = {
    'batch': ('--batch={}', (4, 8, 16, 32)),
    'history': ('--set=model.history={}', (1, 3, 5, 10)),
    'cameras': ('--cameras={}', (0, 1, 2)),
    'width': ('--set=model.width={}', (256, 512, 1024)),
}


def add_parser(subparsers: Any) -> None:
    """Add the bench to `vqbet bench`."""
    parser = subparsers.add_parser(
        'train',
        help='how many steps a second a training takes, and how much memory',
        description='Takes steps of a training as `vqbet train` does: batch, loss, gradient, '
        'optimiser, moving average, the image encoder included. On made-up demonstrations, in the '
        "configuration of LeRobot's VQ-BeT for PushT (5 steps of history, chunks of 5, ResNet-18, "
        '8 layers, 512 wide). Memory is the highest of the whole process, on a GPU of its '
        'tensors.',
    )
    parser.add_argument(
        '--phase',
        choices=('policy', 'tokenizer'),
        default='policy',
        help='of the training (default: %(default)s)',
    )
    parser.add_argument(
        '--batch', type=int, help='samples in a step (default: 8, of the tokenizer 256)'
    )
    parser.add_argument(
        '--steps', type=int, default=20, help='steps that count (default: %(default)s)'
    )
    parser.add_argument(
        '--vary',
        choices=tuple(SCALES),
        action='append',
        default=[],
        help='measure once more for several values of this; repeatable',
    )
    add_shape_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit status."""
    require_at_least(args, steps=1, **({} if args.batch is None else {'batch': 1}))
    check_shape(args)

    from vqbet_ros.cli.bench_machine import machine
    from vqbet_ros.cli.bench_policy import peer_config, set_threads
    from vqbet_ros.cli.bench_training import TrainingTimer, with_batch, write_walks
    from vqbet_ros.policy.device import pick_device

    set_threads(args.threads)
    device = pick_device(args.device)
    batch = args.batch or (8 if args.phase == 'policy' else 256)
    config = with_batch(peer_config(args.size, args.set, args.seed), args.phase, batch)
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_walks(Path(folder) / 'walks', args.cameras, args.size, args.seed)
        timer = TrainingTimer(dataset, config, device, args.phase)
        timer.warm_up()
        timer.run(args.steps)
    figures = {**timer.figures(), 'seed': args.seed}
    _show(figures)
    scaling = {
        name: [_again(args, name, value) for value in SCALES[name][1]] for name in args.vary
    }
    write_json({**figures, **about, **({'scaling': scaling} if scaling else {})}, args.json)
    return 0


def _again(args: argparse.Namespace, name: str, value: int) -> dict[str, Any]:
    """Measure one value in a process of its own, whose memory is its own too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'figures.json'
        words = [f'--{key}={getattr(args, key)}' for key in ('phase', 'steps', 'cameras', 'size')]
        words += [f'--{key}={getattr(args, key)}' for key in ('device', 'threads', 'seed')]
        words += [f'--batch={args.batch}'] if args.batch else []
        words += [f'--set={override}' for override in args.set]
        words += [SCALES[name][0].format(value), f'--json={path}']
        program = [sys.executable, '-m', 'vqbet_ros.cli.main', 'bench', 'train', *words]
        print(f'\n{name} {value}', flush=True)
        status = subprocess.run(program, check=False).returncode
        if status:
            raise VqbetError(f'measuring {name} {value} ended with status {status}, as told above')
        figures = json.loads(path.read_text(encoding='utf-8'))
    kept = ('steps_per_s', 'peak_memory_mb', 'p50_ms', 'steps', 'parameters')
    return {name: value, **{key: figures[key] for key in kept}}


def _show(figures: dict[str, Any]) -> None:
    print(
        f'{figures["device"]}, {figures["threads"]} threads, phase {figures["phase"]}, batch '
        f'{figures["batch"]}, {figures["parameters"] / 1e6:.2f} M parameters'
    )
    print(f'steps        {figures["steps_per_s"]:.2f} per s, median {figures["p50_ms"]:.0f} ms')
    print(f'memory       {figures["peak_memory_mb"]:.0f} MB at most')
