"""`vqbet import`: turns demonstrations of other programs into a dataset."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet`."""
    parser = subparsers.add_parser(
        'import',
        help="turn another program's demonstrations into a dataset",
        description="Turn another program's demonstrations into a dataset.",
    )
    sources = parser.add_subparsers(title='sources', metavar='SOURCE', required=True)
    pusht = sources.add_parser(
        'pusht',
        help='PushT demonstrations of diffusion policy (zarr)',
        description='Turn the PushT demonstrations of diffusion policy into a dataset: 10 Hz, '
        'lengths in px of a table of 512 x 512 px, images 96 x 96. The corners of the block are '
        'stored as targets beside what the spec asks for.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    pusht.add_argument('zarr', metavar='ZARR', type=Path, help='folder with groups data and meta')
    pusht.add_argument(
        'dataset', metavar='DATASET', type=Path, help='directory to make; must not hold episodes'
    )
    pusht.add_argument(
        '--spec',
        metavar='YAML',
        default='config/robots/pusht.yaml',
        help='what the policy sees and does: a file, or one that comes with the package '
        '(config/robots/pusht.yaml: image and pusher; config/robots/pusht_keypoints.yaml: '
        'pusher and corners of the block, no image)',
    )
    pusht.add_argument(
        '--mirror',
        action='store_true',
        help='add the mirror image of each episode: table and goal are symmetric about a diagonal',
    )


def run(args: argparse.Namespace) -> int:
    """Import the demonstrations; returns the exit status."""
    # zarr takes a second to import, which `vqbet --help` must not cost.
    from vqbet_ros.cli.progress import track
    from vqbet_ros.data.importers.pusht import PushTZarr
    from vqbet_ros.data.writer import DatasetWriter
    from vqbet_ros.errors import BadDataset
    from vqbet_ros.resources import named
    from vqbet_ros.sim.pusht import KEYPOINT_NAMES
    from vqbet_ros.spec import RobotSpec

    spec = RobotSpec.from_yaml(named(args.spec))
    source = PushTZarr(args.zarr)
    episodes = source.episodes(spec, mirror=args.mirror)
    copies = 2 if args.mirror else 1
    name = args.zarr.resolve().name
    with DatasetWriter(args.dataset, spec, name, KEYPOINT_NAMES, copies) as writer:
        if writer.num_episodes:
            raise BadDataset(
                f'{args.dataset} already holds {writer.num_episodes} episodes, and importing '
                'would add them again; remove it first, or name another directory'
            )
        for episode in track(episodes, source.num_episodes * copies, 'episodes'):
            writer.add(episode)
        print(f'{args.dataset}: {writer.num_episodes} episodes, {writer.num_frames} frames')
    return 0
