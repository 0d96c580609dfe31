"""What the programs that measure beside `vqbet bench` share."""

import argparse
from pathlib import Path
from typing import Literal

from vqbet_ros.cli.bench_policy import peer_config
from vqbet_ros.cli.bench_training import TrainingTimer, with_batch, write_walks

SIDE_PX = 96


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all have, described by a module's first line."""
    parser = argparse.ArgumentParser(
        description=(doc or '').partition('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--batch', type=int, default=8, help='samples in a step of training')
    parser.add_argument('--threads', type=int, default=2, help='CPU threads')
    parser.add_argument('--seed', type=int, default=0, help='of weights and inputs')
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the figures here')
    return parser


def peer_training(
    folder: Path, args: argparse.Namespace, device: Literal['cpu', 'cuda']
) -> TrainingTimer:
    """Return a training in the configuration `peer`, on demonstrations made in a folder.

    In float32, as the peers' trainings are.
    """
    dataset = write_walks(folder / 'walks', 1, SIDE_PX, args.seed)
    config = peer_config(SIDE_PX, ('bf16=false',), seed=args.seed)
    config = with_batch(config, 'policy', args.batch)
    return TrainingTimer(dataset, config, device)
