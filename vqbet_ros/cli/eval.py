"""`vqbet eval`: runs a policy in a simulated world and judges it."""

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet`."""
    parser = subparsers.add_parser(
        'eval', help='judge a policy in simulation', description='Judge a policy in simulation.'
    )
    worlds = parser.add_subparsers(title='worlds', metavar='WORLD', required=True)
    pusht = worlds.add_parser(
        'pusht',
        help='push a T-shaped block onto its goal',
        description='Run episodes of PushT (gym-pusht), at most 300 steps of 0.1 s each, side by '
        'side on one model. Success is a coverage of at least 0.95.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    pusht.add_argument('checkpoint', metavar='CHECKPOINT', type=Path, help='checkpoint directory')
    pusht.add_argument('--episodes', type=int, default=100, help='how many')
    pusht.add_argument('--seed', type=int, default=100_000, help='of the first; then + 1 each')
    pusht.add_argument('--batch', type=int, default=50, help='episodes side by side')
    pusht.add_argument(
        '--execute', type=int, default=0, help='steps of each chunk to execute; 0: the whole chunk'
    )
    pusht.add_argument(
        '--temperature', type=float, default=0.0, help='of drawing codes; 0: the most probable'
    )
    pusht.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto', help='where')
    pusht.add_argument('--threads', type=int, default=0, help='CPU threads; 0: all cores')
    pusht.add_argument('--json', metavar='FILE', type=Path, help='write the figures here')
    pusht.add_argument('--video', metavar='DIR', type=Path, help='write an MP4 of each episode')


def run(args: argparse.Namespace) -> int:
    """Evaluate; returns the exit status."""
    from vqbet_ros.cli.progress import track
    from vqbet_ros.cli.video import Videos
    from vqbet_ros.policy.engine import Engine
    from vqbet_ros.training.evaluate_pusht import evaluate
    from vqbet_ros.training.trainer import pick_device

    if min(args.episodes, args.batch) < 1 or min(args.execute, args.temperature) < 0:
        print(
            'vqbet eval: --episodes and --batch must be at least 1, --execute and --temperature '
            'at least 0'
        )
        return 2
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
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + '\n', encoding='utf-8')
    return 0
