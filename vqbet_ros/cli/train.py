"""`vqbet train`: all phases of a training in one command."""

import argparse
from pathlib import Path


def add_parser(subparsers: 'argparse._SubParsersAction[argparse.ArgumentParser]') -> None:
    """Describe the command's arguments."""
    parser = subparsers.add_parser(
        'train',
        help='train a policy on a dataset',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description='Train a policy: the image encoder where the configuration says so, the action '
        'tokenizer, then the policy. Ctrl-C saves; --resume goes on, bit for bit.',
    )
    parser.add_argument('--config', type=Path, required=True, help='YAML, see config/train/')
    parser.add_argument('--dataset', type=Path, required=True, help='dataset directory')
    parser.add_argument('--out', type=Path, required=True, help='run directory to write')
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='KEY=VALUE',
        help='override a configuration value, for example policy.steps=1000; repeatable',
    )
    parser.add_argument('--resume', action='store_true', help='go on with the run in --out')
    parser.add_argument(
        '--device', choices=('auto', 'cpu', 'cuda'), default='auto', help='where to train'
    )
    parser.add_argument('--threads', type=int, default=0, help='CPU threads; 0: all cores')


def run(args: argparse.Namespace) -> int:
    """Train; returns 0 also when the training was interrupted and saved."""
    import torch
    from vqbet_ros.config import TrainConfig
    from vqbet_ros.data.store import Dataset
    from vqbet_ros.training.trainer import pick_device, Trainer

    if args.threads > 0:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    config = TrainConfig.from_yaml(args.config, device, tuple(args.set))
    trainer = Trainer(Dataset.open(args.dataset), config, args.out, device)
    if trainer.run(resume=args.resume):
        print(f'finished: {trainer.last}')
    else:
        print(
            f'go on with: vqbet train --config {args.config} --dataset {args.dataset} '
            f'--out {args.out} --resume'
        )
    return 0
