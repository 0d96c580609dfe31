"""`vqbet bench control`: whether the policy node keeps its rate beside cameras and inference."""

import argparse
import dataclasses
import os
from pathlib import Path
import tempfile
import time
from typing import Any, TYPE_CHECKING

from vqbet_ros.cli.bench_machine import machine
from vqbet_ros.cli.bench_options import add_node_arguments, require_at_least
from vqbet_ros.cli.figures import write_json
from vqbet_ros.errors import VqbetError

if TYPE_CHECKING:
    from vqbet_ros.spec import RobotSpec

_WARM_UP_S = 3


def add_parser(subparsers: Any) -> None:
    """Add the bench to `vqbet bench`."""
    parser = subparsers.add_parser(
        'control',
        help='run the policy node beside two VGA cameras; measure how well it keeps its rate',
        description='Publishes 2 raw VGA cameras at 30 Hz and joint states at 200 Hz over DDS, '
        'and lets policy_node run a small policy with random weights on them.',
    )
    add_node_arguments(parser, seconds=60, out='out/bench_control')
    for option, kind, default, what in (
        ('--rate', float, 50.0, 'rate of the commands in Hz'),
        ('--policy-rate', float, 10.0, "the policy's, in Hz"),
        ('--joints-hz', float, 200.0, 'of the joint states'),
        ('--thread-priority', int, 50, "the node's parameter; 0: ordinary"),
    ):
        parser.add_argument(
            option, type=kind, default=default, help=f'{what} (default: %(default)s)'
        )


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit status.

    Raises:
        VqbetError: A process ended or did not answer.
    """
    require_at_least(args, seconds=1, rate=0.1, policy_rate=0.1, joints_hz=0.1)
    args.out.mkdir(parents=True, exist_ok=True)
    # A folder of its own, so that nothing is taken away that was there before.
    with tempfile.TemporaryDirectory(prefix='policy-', dir=args.out) as folder:
        checkpoint = Path(folder) / 'checkpoint'
        figures = {
            'seconds': args.seconds,
            'rate_hz': args.rate,
            'parameters': _save_policy(checkpoint, _robot(args)),
            **machine(),
            **_measure(args, checkpoint),
        }
    _show(figures)
    write_json(figures, args.json)
    return 0


def _robot(args: argparse.Namespace) -> 'RobotSpec':
    """Return the arm of `vqbet bench record` with two cameras, and limits to keep."""
    from vqbet_ros.command_spec import JointLimits
    from vqbet_ros.recording.bench_load import JOINTS, spec
    from vqbet_ros.spec import IMAGE

    robot = spec()
    cameras = [
        dataclasses.replace(camera, height=96, width=128)
        for camera in robot.cameras
        if camera.type == IMAGE
    ]
    limits = JointLimits(position=(-3.2, 3.2), velocity=1.5, acceleration=6.0, jerk=60.0)
    action = dataclasses.replace(robot.action, limits=dict.fromkeys(JOINTS, limits))
    (joints,) = robot.state
    return dataclasses.replace(
        robot,
        rate_hz=args.policy_rate,
        cameras=tuple(cameras),
        state=(dataclasses.replace(joints, rate_hz=args.joints_hz),),
        action=action,
    )


def _save_policy(path: Path, robot: 'RobotSpec') -> int:
    """Save a small policy with random weights; returns how many there are."""
    import torch
    from vqbet_ros.config import ModelConfig, VisionConfig
    from vqbet_ros.policy.checkpoint import save_checkpoint
    from vqbet_ros.policy.normalizer import Stats
    from vqbet_ros.policy.policy import Policy

    torch.manual_seed(0)

    def stats(size: int, largest: float) -> Stats:
        ends = (largest,) * size
        return Stats(min=(-largest,) * size, max=ends, mean=(0.0,) * size, std=ends)

    config = ModelConfig(
        history=3,
        layers=4,
        heads=4,
        width=128,
        relative_actions=True,
        vision=VisionConfig(weights='none', stages=2, features=64),
    )
    # Small movements about where the arm is: the node refuses what random weights do else.
    statistics = {'state': stats(robot.state_dim, 3.2), 'action': stats(robot.action_dim, 0.02)}
    policy = Policy(config, robot, statistics).eval()
    save_checkpoint(path, policy, card='random weights, to measure with', training={})
    return sum(parameter.numel() for parameter in policy.parameters())


def _measure(args: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """Run publisher and node."""
    from vqbet_ros.cli.bench_record import cpu_s, memory_mb
    from vqbet_ros.cli.processes import module_command, node_command, private_graph, Processes
    from vqbet_ros.cli.progress import track

    environment = private_graph()
    os.environ.update(environment)
    # rclpy reads the environment when it is imported.
    from std_srvs.srv import SetBool
    from vqbet_ros.recording.bench_load import JOINTS_TOPIC
    from vqbet_ros.ros.bench_client import BenchClient
    from vqbet_ros.ros.bench_listener import listen

    robot = _robot(args)
    with Processes(args.out) as processes, listen(robot.action.command_topic) as heard:
        topics = ['--topics', *(part.topic for part in robot.streams)]
        load = [*module_command('bench_publisher'), '--joints-hz', str(args.joints_hz), *topics]
        processes.start('publisher', load, environment)
        command = node_command(
            'policy_node',
            checkpoint=str(checkpoint),
            control_rate_hz=args.rate,
            thread_priority=args.thread_priority,
            autostart=True,
            device='cpu',
        )
        processes.start('policy', command, environment)
        node = BenchClient('/policy_node', {'enable': SetBool}, processes.check)
        try:
            what = 'did not get ready'
            node.wait_for(lambda s: s.get('reason') == 'not enabled', what, 60.0)
            node.call('enable', data=True)
            node.wait_for(lambda s: s['state'] == 'running', 'did not command', 20.0)
            for _ in range(_WARM_UP_S):
                node.diagnostics()
            pids = _family(processes.pid('policy'))
            node.call('enable', data=False)
            node.wait_for(lambda s: s['state'] == 'disarmed', 'did not stop', 10.0)
            node.call('enable', data=True)  # the figures begin here
            node.diagnostics()
            before, began_s = node.diagnostics(), time.monotonic()
            used_s, count = sum(map(cpu_s, pids)), heard.count
            real_time = _real_time_threads(pids)
            memory, threads = [], []
            for _ in track(range(args.seconds), args.seconds, 'control, s'):
                after = node.diagnostics()
                memory.append(round(sum(memory_mb(pid)[0] for pid in pids), 1))
                threads.append(len(_threads(pids)))
            elapsed_s = time.monotonic() - began_s
        except VqbetError as error:
            raise VqbetError(f'{error}; {processes.last_lines("policy")}') from error
        finally:
            node.close()
        joints = f'observation/{JOINTS_TOPIC}'
        received = int(after[joints]['received']) - int(before[joints]['received'])
        return {
            'ticks': int(after['control']['ticks']),
            'missed_ticks': int(after['control']['missed_ticks']),
            'period_ms': _times(after['control']),
            'p99_period_error_ms': float(after['control']['p99_error_ms']),
            'joints_hz': round(received / elapsed_s, 1),
            'joints_lost': int(after[joints]['lost']) - int(before[joints]['lost']),
            'commands_hz': round((heard.count - count) / elapsed_s, 1),
            'latency_ms': _times(after['latency']),
            'inference_ms': _times(after['inference']),
            'cpu_core_share': round((sum(map(cpu_s, pids)) - used_s) / elapsed_s, 3),
            'rss_mb': {'first': memory[0], 'last': memory[-1], 'max': max(memory)},
            'threads': {'first': threads[0], 'last': threads[-1], 'max': max(threads)},
            'real_time_threads': real_time,
        }


def _family(pid: int) -> list[int]:
    """Return a process and those that it started: the node, and its policy."""
    children = [Path(f'/proc/{pid}/task/{task}/children') for task in _threads([pid])]
    return [pid, *(int(one) for path in children for one in path.read_text().split())]


def _threads(pids: list[int]) -> list[int]:
    """Return the threads of processes."""
    return [int(path.name) for pid in pids for path in Path(f'/proc/{pid}/task').iterdir()]


def _real_time_threads(pids: list[int]) -> int:
    """Count the threads that run before all ordinary ones."""
    policies = [os.sched_getscheduler(t) & ~os.SCHED_RESET_ON_FORK for t in _threads(pids)]
    return sum(policy == os.SCHED_FIFO for policy in policies)


def _times(component: dict[str, str]) -> dict[str, float]:
    return {key: float(component[f'{key}_ms']) for key in ('p50', 'p99', 'max')}


def _show(figures: dict[str, Any]) -> None:
    period, latency, inference = (
        ', '.join(f'{key} {value:.2f}' for key, value in figures[name].items())
        for name in ('period_ms', 'latency_ms', 'inference_ms')
    )
    print(f'ticks        {figures["ticks"]}, {figures["missed_ticks"]} missed')
    print(f'period       {period} ms; p99 of its error {figures["p99_period_error_ms"]:.2f} ms')
    print(f'commands     {figures["commands_hz"]} Hz heard')
    print(f'joints       {figures["joints_hz"]} Hz received, {figures["joints_lost"]} lost')
    print(f'inference    {inference} ms')
    print(f'latency      {latency} ms, observation to command')
    print(f'CPU          {figures["cpu_core_share"]:.0%} of a core')
    print(f'memory       {figures["rss_mb"]["first"]:.0f} to {figures["rss_mb"]["last"]:.0f} MB')
    print(
        f'threads      {figures["threads"]["first"]} to {figures["threads"]["last"]}, '
        f'{figures["real_time_threads"]} in real time'
    )
