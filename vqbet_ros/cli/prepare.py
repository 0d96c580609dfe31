"""`vqbet prepare`: turns rosbag2 bags into a dataset."""

import argparse
from collections import Counter
import importlib.util
from pathlib import Path
import sys
import time
from typing import Any, TYPE_CHECKING

from vqbet_ros.cli.figures import write_json

if TYPE_CHECKING:
    from vqbet_ros.data.prepare import Done, Preparation


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet`."""
    parser = subparsers.add_parser(
        'prepare',
        help='turn rosbag2 bags into a dataset',
        description='Turn rosbag2 bags into a dataset, aligned to the rate of the spec. A second '
        'run adds only the bags that are new. A bag that cannot be used is reported and left '
        'out. Ctrl-C keeps the bags that are done.',
    )
    parser.add_argument(
        'bags', metavar='BAG', type=Path, nargs='+', help='a bag, or a folder that holds bags'
    )
    parser.add_argument(
        'dataset', metavar='DATASET', type=Path, help='directory to make, or to continue'
    )
    parser.add_argument(
        '--spec',
        metavar='YAML',
        help="what to read of the bags (default: each bag's own spec, which the recorder wrote "
        'into it)',
    )
    parser.add_argument(
        '--gaps',
        choices=('cut', 'drop', 'fail'),
        default='cut',
        help='where data is older than max_age_s: cut the episode in two there, drop the episode, '
        'or take the bag for broken (default: %(default)s)',
    )
    parser.add_argument(
        '--min-steps',
        metavar='N',
        type=int,
        default=5,
        help='leave out what is shorter (default: %(default)s)',
    )
    parser.add_argument(
        '--jobs',
        metavar='N',
        type=int,
        default=0,
        help='bags at a time, a process each; 0 for one on each CPU (default: %(default)s)',
    )
    parser.add_argument(
        '--backend',
        metavar='KIND=ADDRESS',
        help='work on a cluster that sees the same files: dask=ADDRESS or ray=ADDRESS',
    )
    parser.add_argument(
        '--strict', action='store_true', help='stop at the first bag that cannot be used'
    )
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the result here')
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Prepare the dataset; returns the exit status."""
    from vqbet_ros.data.bag_folders import find_bags
    from vqbet_ros.data.prepare import Preparation
    from vqbet_ros.resources import named
    from vqbet_ros.spec import RobotSpec

    for name, low in (('min_steps', 1), ('jobs', 0)):
        if getattr(args, name) < low:
            option = name.replace('_', '-')
            args.parser.error(f'--{option} must be at least {low}, got {getattr(args, name)}')
    bags = find_bags(args.bags)
    with Preparation(
        bags,
        args.dataset,
        spec=RobotSpec.from_yaml(named(args.spec)) if args.spec else None,
        gaps=args.gaps,
        min_steps=args.min_steps,
    ) as preparation:
        return _prepare(args, preparation)


def _prepare(args: argparse.Namespace, preparation: 'Preparation') -> int:
    import joblib
    from vqbet_ros.cli.progress import gauge
    from vqbet_ros.data.cluster import cluster
    from vqbet_ros.data.prepare import Done, expected_steps
    from vqbet_ros.errors import BadBag

    before, started_s = preparation.num_frames, time.monotonic()
    steps = {bag: expected_steps(bag, preparation.spec.rate_hz) for bag in preparation.bags}
    finished: list[Done] = []

    def look() -> tuple[int, int]:
        ready = sum(steps[done.bag] for done in finished if done.status != 'known')
        known = sum(steps[done.bag] for done in finished if done.status == 'known')
        return ready + preparation.frames_under_way(), sum(steps.values()) - known

    on = cluster(args.backend) if args.backend else None
    with gauge('frames', look):
        for done in preparation.run(args.jobs or joblib.cpu_count(), on):
            finished.append(done)
            _tell(done)
            if done.status == 'failed' and args.strict:
                raise BadBag(f'{done.error}\n(stopped by --strict; the bags before are kept)')
    seconds = time.monotonic() - started_s
    _finish(args, preparation, finished, preparation.num_frames - before, seconds)
    return 0 if any(done.status != 'failed' for done in finished) else 1


def _tell(done: 'Done') -> None:
    """Say what must not be overlooked."""
    problems = [done.error or ''] if done.status == 'failed' else []
    if done.status in ('added', 'empty') and done.entry is not None:
        problems = list(done.entry.problems)
    if done.status == 'empty':
        problems.append('nothing of it could be used')
    for problem in problems:
        what = 'left out' if done.status == 'failed' else 'note'
        print(f'{what}: {done.bag}: {problem}', file=sys.stderr, flush=True)


def _finish(
    args: argparse.Namespace,
    preparation: 'Preparation',
    finished: 'list[Done]',
    frames: int,
    seconds: float,
) -> None:
    """Write the dataset's report, print and write the result."""
    if preparation.num_episodes and (frames or not (args.dataset / 'report.html').exists()):
        _report(args.dataset)
    count = Counter(done.status for done in finished)
    print(
        f'{args.dataset}: {preparation.num_episodes} episodes, {preparation.num_frames} frames; '
        + ', '.join(f'{number} bag(s) {status}' for status, number in count.items())
        + (f'; {frames / seconds:.0f} frames/s' if frames else '')
    )
    if args.json:
        result = {
            'dataset': str(args.dataset),
            'episodes': preparation.num_episodes,
            'frames': preparation.num_frames,
            'added_frames': frames,
            'frames_per_s': frames / seconds,
            'bags': [_mapping(done) for done in finished],
        }
        write_json(result, args.json)


def _report(dataset: Path) -> None:
    from vqbet_ros.resources import how_to_install
    from vqbet_ros.training.dataset_report import write_dataset_report

    if importlib.util.find_spec('matplotlib') is None:
        print(
            f'no report.html: it needs matplotlib; {how_to_install("train")}',
            file=sys.stderr,
        )
        return
    write_dataset_report(dataset)


def _mapping(done: 'Done') -> dict[str, Any]:
    from vqbet_ros.structured import to_mapping

    return {
        'bag': str(done.bag),
        'status': done.status,
        'error': done.error,
        'frames': done.frames,
        'entry': to_mapping(done.entry),
    }
