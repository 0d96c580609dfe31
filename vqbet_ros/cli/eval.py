"""`vqbet eval`: runs a policy in a simulated world and judges it."""

import argparse
from pathlib import Path
from typing import Any

from vqbet_ros.cli import eval_offline
from vqbet_ros.cli.figures import write_json


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet`."""
    parser = subparsers.add_parser(
        'eval',
        help='judge a policy in simulation, or beside demonstrations',
        description='Judge a policy in simulation, or beside demonstrations.',
    )
    worlds = parser.add_subparsers(title='worlds', metavar='WORLD', required=True)
    pusht = worlds.add_parser(
        'pusht',
        help='push a T-shaped block onto its goal',
        description='Run episodes of PushT (gym-pusht), at most 300 steps of 0.1 s each, side by '
        'side on one model. Success is a coverage above 0.95, which ends the '
        'episode.',
    )
    pusht.add_argument('checkpoint', metavar='CHECKPOINT', type=Path, help='checkpoint directory')
    _number(pusht, '--episodes', 100, 'how many')
    _number(pusht, '--seed', 100_000, 'of the first episode; each further one has the next')
    _number(pusht, '--batch', 50, 'episodes side by side')
    _number(pusht, '--execute', 0, 'steps of each chunk to execute; 0 for the whole chunk')
    pusht.add_argument(
        '--temperature',
        metavar='T',
        type=float,
        help="of drawing codes; 0 takes the most probable (default: the checkpoint's own)",
    )
    _number(pusht, '--threads', 0, 'CPU threads; 0 leaves it to torch, which takes all cores')
    pusht.add_argument(
        '--device',
        choices=('auto', 'cpu', 'cuda'),
        default='auto',
        help='where to run; auto takes a CUDA GPU where there is one (default: %(default)s)',
    )
    pusht.add_argument('--json', metavar='FILE', type=Path, help='write the figures here')
    pusht.add_argument('--video', metavar='DIR', type=Path, help='write an MP4 of each episode')
    pusht.set_defaults(parser=pusht, evaluate=_run_pusht)
    eval_offline.add_parser(worlds)


def _number(parser: Any, name: str, default: int, text: str) -> None:
    parser.add_argument(
        name,
        metavar='N',
        type=int,
        default=default,
        help=f'{text} (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate; returns the exit status."""
    status: int = args.evaluate(args)
    return status


def _run_pusht(args: argparse.Namespace) -> int:
    from vqbet_ros.cli.progress import track
    from vqbet_ros.cli.video import Videos
    from vqbet_ros.policy.device import pick_device
    from vqbet_ros.policy.engine import Engine
    from vqbet_ros.training.evaluate_pusht import evaluate

    for name, low in (
        ('episodes', 1),
        ('batch', 1),
        ('seed', 0),
        ('execute', 0),
        ('temperature', 0),
        ('threads', 0),
    ):
        value = getattr(args, name)
        if value is not None and not value >= low:
            args.parser.error(f'--{name} must be at least {low}, got {value}')
    engine = Engine.load(
        args.checkpoint,
        pick_device(args.device),
        args.threads or None,
        args.temperature,
        args.seed,
    )
    videos = Videos(args.video, rate_hz=10.0) if args.video else None
    figures, _ = evaluate(
        engine,
        episodes=args.episodes,
        seed=args.seed,
        batch=args.batch,
        execute=args.execute or None,
        watch=videos.add if videos else None,
        track=track,
    )
    if videos:
        videos.close()
    low, high = figures['success_ci95']
    below, above = figures['mean_max_overlap_ci95']
    print(
        f'episodes            {args.episodes}, seeds {args.seed} to '
        f'{args.seed + args.episodes - 1}'
    )
    print(f'mean max overlap    {figures["mean_max_overlap"]:.3f} [{below:.3f}, {above:.3f}]')
    print(f'mean final overlap  {figures["mean_final_overlap"]:.3f}')
    print(f'success rate        {figures["success_rate"]:.1%} [{low:.1%}, {high:.1%}]')
    print(f'jerk (rms)          {figures["jerk_rms"]:.1f} px/step^3')
    print(f'speed               {figures["steps_per_s"]:.0f} steps/s')
    write_json(figures, args.json)
    return 0
