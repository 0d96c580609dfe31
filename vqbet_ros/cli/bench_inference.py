"""`vqbet bench inference`: how long a decision takes, from pictures to a chunk of actions."""

import argparse
from pathlib import Path
import tempfile
from typing import Any

from vqbet_ros.cli.bench_options import add_shape_arguments, check_shape
from vqbet_ros.cli.figures import write_json

LEAST_CALLS = 200  # for a 99th percentile


def add_parser(subparsers: Any) -> None:
    """Add the bench to `vqbet bench`."""
    parser = subparsers.add_parser(
        'inference',
        help='how long a decision takes',
        description='Measures decisions, each on an observation with one new '
        'frame a camera: from uint8 pictures and a state to a chunk of actions in memory. Without '
        "a checkpoint: random weights in the configuration of LeRobot's VQ-BeT for PushT (5 steps "
        'of history, chunks of 5, ResNet-18, 8 layers, 512 wide).',
    )
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        type=Path,
        nargs='?',
        help='a policy to measure; --cameras, --size and --set are not for it',
    )
    parser.add_argument(
        '--calls',
        type=int,
        default=1000,
        help=f'decisions, at least {LEAST_CALLS} (default: %(default)s)',
    )
    parser.add_argument(
        '--rate',
        metavar='HZ',
        type=float,
        help='decide this often, as on a robot: in between others use the caches (default: one '
        'decision after the other)',
    )
    parser.add_argument(
        '--precision',
        choices=('float32', 'bfloat16', 'float16'),
        help="of encoder and trunk, on a CPU float16 of the trunk's weights alone (default: "
        'float16; where a checkpoint has a graph for ONNX Runtime: that)',
    )
    parser.add_argument(
        '--onnx',
        action='store_true',
        help="in ONNX Runtime, of a graph that is made first; needs the extra 'onnx' and no GPU",
    )
    add_shape_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit status."""
    if args.calls < LEAST_CALLS:
        args.parser.error(f'--calls must be at least {LEAST_CALLS}, got {args.calls}')
    if args.rate is not None and args.rate <= 0:
        args.parser.error(f'--rate must be more than 0, got {args.rate}')
    if args.onnx and (args.checkpoint or args.precision or args.device == 'cuda'):
        args.parser.error('--onnx goes with neither a checkpoint, --precision nor cuda')
    check_shape(args)
    own = [
        f'--{n}'
        for n in ('cameras', 'size', 'set')
        if getattr(args, n) != args.parser.get_default(n)
    ]
    if args.checkpoint is not None and own:
        args.parser.error(f'a checkpoint has its own shape: leave out {", ".join(own)}')

    from vqbet_ros.cli.bench_machine import machine
    from vqbet_ros.cli.bench_policy import (
        EngineTimer,
        in_onnx_runtime,
        peer_config,
        peer_spec,
        random_policy,
        set_threads,
    )
    from vqbet_ros.policy.device import pick_device
    from vqbet_ros.policy.engine import Engine

    set_threads(args.threads)
    device = pick_device('cpu' if args.onnx else args.device)
    if args.checkpoint is not None:
        engine = Engine.load(args.checkpoint, device, seed=args.seed, precision=args.precision)
    else:
        model = peer_config(args.size, args.set).model
        policy = random_policy(model, peer_spec(args.cameras, args.size), args.seed)
        engine = Engine(policy.to(device), seed=args.seed, precision=args.precision)
        if args.onnx:
            with tempfile.TemporaryDirectory() as folder:
                engine = in_onnx_runtime(policy, Path(folder), args.seed)
    timer = EngineTimer(engine, args.seed)
    timer.warm_up()
    about = machine()
    timer.run(args.calls, 0.0 if args.rate is None else 1.0 / args.rate)
    figures = {
        'policy': 'peer' if args.checkpoint is None else str(args.checkpoint),
        **timer.figures(),
        'rate_hz': args.rate,
        'seed': args.seed,
        **about,
    }
    print(
        f'{figures["device"]}, {figures["threads"]} threads, {figures["runtime"]}, '
        f'{figures["numbers"]}: {about["cpu"]}'
    )
    print(f'parameters   {figures["parameters"] / 1e6:.2f} M')
    print(f'median       {figures["p50_ms"]:.2f} ms')
    print(f'p99          {figures["p99_ms"]:.2f} ms of {figures["calls"]} calls')
    write_json(figures, args.json)
    return 0
