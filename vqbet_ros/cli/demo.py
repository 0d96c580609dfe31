"""`vqbet demo`: a simulated robot and the policy node, two processes, over real ROS 2."""

import argparse
import math
import os
from pathlib import Path
import signal
import statistics
import time
from typing import Any

from vqbet_ros.cli.demo_video import DemoVideo
from vqbet_ros.cli.figures import write_json
from vqbet_ros.cli.processes import node_command, private_graph, Processes
from vqbet_ros.errors import VqbetError
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec

_PACKAGED = Path('models/pusht_image')
_MOVED_PX, _MOVED_RAD = 1.0, 0.01  # far more than a block at rest ever moves
_MEASURES = {'control_period_ms': 'control', 'inference_ms': 'inference', 'latency_ms': 'latency'}
_TITLES = {
    'control_period_ms': 'control period',
    'inference_ms': 'inference',
    'latency_ms': 'observation to command',
}


def add_parser(subparsers: Any) -> None:
    """Add `vqbet demo`."""
    parser = subparsers.add_parser(
        'demo',
        help='watch the policy drive the simulated robot over ROS 2',
        description=(
            'Starts sim_node (PushT as a robot) and policy_node as processes of their own on a '
            'private ROS 2 domain of this machine, lets the policy push the block onto its goal, '
            'and measures what happens. Writes episode_<k>.mp4, summary.json and the logs.'
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        '--checkpoint',
        type=Path,
        default=_PACKAGED,
        help='checkpoint directory, here or in the package',
    )
    parser.add_argument('--episodes', type=_positive_int, default=2, help='how many episodes')
    parser.add_argument(
        '--seconds', type=_positive_float, default=30.0, help='longest episode, in s'
    )
    parser.add_argument(
        '--seed', type=int, default=100_000, help='of the first episode; then one more for each'
    )
    parser.add_argument(
        '--rate',
        type=_positive_float,
        default=argparse.SUPPRESS,
        help="rate of the commands, in Hz (default: the robot's, 10 for PushT)",
    )
    parser.add_argument(
        '--device', default='auto', choices=('auto', 'cpu', 'cuda'), help='of the inference'
    )
    parser.add_argument('--out', type=Path, default=Path('out/demo'), help='where results go')
    parser.add_argument(
        '--json', type=Path, default=argparse.SUPPRESS, help='write summary.json there too'
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; see `vqbet demo --help`.

    Raises:
        VqbetError: A process ended, something did not answer in time, or the policy never moved
            the block.
    """
    checkpoint = args.checkpoint
    if checkpoint == _PACKAGED and not checkpoint.exists():
        checkpoint = resource(str(_PACKAGED))
    if not (checkpoint / 'spec.yaml').is_file():
        raise VqbetError(f'{checkpoint} is no checkpoint directory: it has no spec.yaml')
    args.out.mkdir(parents=True, exist_ok=True)
    environment = private_graph()
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, _terminate)
    say = _Clock()
    say(
        f'ROS 2 domain {environment["ROS_DOMAIN_ID"]}, this machine only; '
        f'policy {checkpoint}; results in {args.out}'
    )
    spec = RobotSpec.from_yaml(checkpoint / 'spec.yaml')
    rate_hz = float(getattr(args, 'rate', spec.rate_hz))
    with Processes(args.out) as processes:
        spec_file = str(checkpoint / 'spec.yaml')
        processes.start(
            'sim_node', node_command('sim_node', spec=spec_file, seed=args.seed), environment
        )
        processes.start(
            'policy_node',
            node_command(
                'policy_node',
                checkpoint=str(checkpoint),
                device=args.device,
                control_rate_hz=rate_hz,
            ),
            environment,
        )
        summary = {'control_rate_hz': rate_hz, **_drive(args, spec, processes, say)}
    for path in (args.out / 'summary.json', getattr(args, 'json', None)):
        write_json(summary, path)
    print(_table(summary), flush=True)
    say(f'wrote {args.out}/summary.json and {args.episodes} video(s)')
    if not any(episode['moved_block'] for episode in summary['episodes']):
        raise VqbetError(
            'the policy never moved the block; look at '
            f'{args.out}/episode_0.mp4 and {processes.log("policy_node")}'
        )
    return 0


def _drive(
    args: argparse.Namespace, spec: RobotSpec, processes: Processes, say: '_Clock'
) -> dict[str, Any]:
    """Run all episodes and return the summary."""
    # rclpy reads the environment when it is imported.
    from vqbet_ros.ros.demo_monitor import DemoMonitor

    video = DemoVideo(spec.cameras[0].rate_hz if spec.cameras else 10.0)
    monitor = DemoMonitor(spec, processes.check, video.add)
    try:
        monitor.wait_for_simulator(30.0)
        say('sim_node runs: the block lies still until a command comes')
        try:
            monitor.configure(180.0)
        except VqbetError as error:
            raise VqbetError(f'{error}; {processes.last_lines("policy_node")}') from error
        say('policy_node has loaded its checkpoint and is active')
        episodes, measured = [], []
        for index in range(args.episodes):
            if index:
                monitor.reset()
            video.open(args.out / f'episode_{index}.mp4')
            episode, diagnostics = _run_episode(monitor, args.seconds, spec.rate_hz)
            video.close()
            episodes.append(episode)
            measured.append(diagnostics)
            say(
                f'episode {index + 1} of {args.episodes} (seed {episode["seed"]}): '
                f'overlap {episode["max_overlap"]:.3f} at best, '
                f'{episode["final_overlap"]:.3f} at the end, {episode["steps"]} steps'
                + (', success' if episode['success'] else '')
            )
    finally:
        video.close()
        monitor.close()
    return {
        'checkpoint': str(args.checkpoint),
        'seed': args.seed,
        'episodes': episodes,
        **{key: _pool(measured, component) for key, component in _MEASURES.items()},
        'ticks': sum(int(run['control']['ticks']) for run in measured),
        'missed_ticks': sum(int(run['control']['missed_ticks']) for run in measured),
    }


def _run_episode(
    monitor: Any, seconds: float, rate_hz: float
) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Enable, wait for success or the end of time, disable."""
    monitor.enable(20.0)
    start = monitor.score
    last_step = int(start['steps']) + round(seconds * rate_hz)
    monitor.wait_for_score(
        lambda score: score['success'] == 'true' or int(score['steps']) >= last_step,
        seconds + 15.0,
    )
    end = monitor.score
    diagnostics = monitor.disable()
    shift_px = math.dist(
        *((float(score['block_x']), float(score['block_y'])) for score in (start, end))
    )
    turn_rad = abs(float(end['block_angle']) - float(start['block_angle']))
    episode = {
        'seed': int(end['seed']),
        'max_overlap': float(end['max_coverage']),
        'final_overlap': float(end['coverage']),
        'initial_overlap': float(end['initial_coverage']),
        'steps': int(end['steps']) - int(start['steps']),
        'success': end['success'] == 'true',
        'moved_block': shift_px > _MOVED_PX or turn_rad > _MOVED_RAD,
    }
    return episode, diagnostics


def _pool(measured: list[dict[str, dict[str, str]]], component: str) -> dict[str, float]:
    """Join the episodes' figures: the median of their medians, the worst of the others."""
    p50, p99, largest = (
        [float(run[component][f'{key}_ms']) for run in measured] for key in ('p50', 'p99', 'max')
    )
    figures = {'p50': statistics.median(p50), 'p99': max(p99), 'max': max(largest)}
    return {name: round(value, 3) for name, value in figures.items()}


def _table(summary: dict[str, Any]) -> str:
    lines = ['', f'{"":26}{"p50":>9}{"p99":>9}{"max":>9}']
    for key, title in _TITLES.items():
        figures = ''.join(f'{summary[key][name]:9.1f}' for name in ('p50', 'p99', 'max'))
        lines.append(f'{title + ", ms":26}{figures}')
    share = f'{summary["missed_ticks"]} of {summary["ticks"]} at {summary["control_rate_hz"]:g} Hz'
    lines += [f'{"missed control ticks":26}   {share}', '']
    lines.append(f'{"episode":10}{"seed":>8}{"steps":>8}{"best overlap":>15}{"final overlap":>15}')
    for index, episode in enumerate(summary['episodes']):
        lines.append(
            f'{index:<10}{episode["seed"]:>8}{episode["steps"]:>8}'
            f'{episode["max_overlap"]:>15.3f}{episode["final_overlap"]:>15.3f}'
        )
    return '\n'.join([*lines, ''])


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt  # as Ctrl-C: the processes are ended on the way out


class _Clock:
    """Prints what happens, with the time since the start."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f'[{time.monotonic() - self._start_s:6.1f} s] {text}', flush=True)


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'got {text}, expected 1 or more')
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f'got {text}, expected more than 0')
    return value
