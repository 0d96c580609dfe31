"""`vqbet train`: all phases of a training in one command."""

import argparse
from pathlib import Path
import shlex
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet`."""
    parser = subparsers.add_parser(
        'train',
        help='train a policy on a dataset',
        description='Train a policy: the image encoder where the configuration says so, the '
        'action tokenizer, then the policy. Ctrl-C saves; --resume goes on, on a CPU '
        'bit for bit.',
    )
    parser.add_argument(
        '--config', metavar='YAML', type=Path, required=True, help='see config/train/'
    )
    parser.add_argument(
        '--dataset',
        metavar='DATASET',
        type=Path,
        required=True,
        help='directory, as `vqbet import` writes it',
    )
    parser.add_argument(
        '--out', metavar='RUN', type=Path, required=True, help='run directory to write'
    )
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='override a configuration value, for example policy.steps=1000; repeatable',
    )
    parser.add_argument('--resume', action='store_true', help='go on with the run in --out')
    parser.add_argument(
        '--device',
        choices=('auto', 'cpu', 'cuda'),
        default='auto',
        help='where to train; auto takes a CUDA GPU where there is one (default: %(default)s)',
    )
    parser.add_argument(
        '--threads',
        type=int,
        default=0,
        help='CPU threads; 0 leaves it to torch, which takes all cores (default: %(default)s)',
    )
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Train; returns 0 also when the training was interrupted and saved."""
    import torch
    from vqbet_ros.config import TrainConfig
    from vqbet_ros.data.store import Dataset
    from vqbet_ros.policy.device import pick_device
    from vqbet_ros.training.processes import start
    from vqbet_ros.training.trainer import Trainer

    if args.threads < 0:
        args.parser.error(f'--threads must be at least 0, got {args.threads}')
    if args.threads > 0:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    config = TrainConfig.from_yaml(args.config, device, tuple(args.set))
    processes = start(device)
    try:
        trainer = Trainer(Dataset.open(args.dataset), config, args.out, device, processes)
        finished = trainer.run(resume=args.resume)
    finally:
        processes.leave()
    if not processes.main:
        return 0
    if finished:
        print(f'finished: {trainer.last}')
    else:
        words = ['vqbet', 'train', '--config', args.config, '--dataset', args.dataset]
        words += ['--out', args.out, '--resume', '--device', device]
        words += [word for override in args.set for word in ('--set', override)]
        words += ['--threads', args.threads] if args.threads else []
        print(f'go on with: {shlex.join(map(str, words))}')
    return 0
