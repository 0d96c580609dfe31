"""`vqbet bench record`: what the recorder takes of the machine, and whether it loses anything."""

import argparse
import os
from pathlib import Path
import shutil
import tempfile
import time
from typing import Any

from vqbet_ros.cli.bench_machine import machine
from vqbet_ros.cli.bench_options import add_node_arguments, require_at_least
from vqbet_ros.cli.figures import write_json
from vqbet_ros.errors import VqbetError

# Messages that were sent in the last moment before the end may be under way when it comes.
_UNDER_WAY_NS = 200_000_000
_WARM_UP_S = 3


def add_parser(subparsers: Any) -> None:
    """Add the bench to `vqbet bench`."""
    parser = subparsers.add_parser(
        'record',
        help='record four cameras and joint states at 500 Hz; compare with a plain recorder',
        description='Publishes 2 raw VGA and 2 JPEG cameras at 30 Hz and joint states at 500 Hz '
        'over DDS, and records them with recorder_node (58 MB/s on the disk); then once more with '
        'a node that takes deserialised messages into a rosbags writer. Every recorded message is '
        'compared with what was sent.',
    )
    add_node_arguments(parser, seconds=300, out='out/bench_record')
    parser.add_argument(
        '--baseline-seconds',
        type=int,
        default=60,
        help='length of the recording that is compared with, in s; 0 leaves it out '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--keep', action='store_true', help='keep the bags, in a new folder of the working folder'
    )


def run(args: argparse.Namespace) -> int:
    """Measure; returns the exit status.

    Raises:
        VqbetError: A process ended or did not answer, or what was recorded is not what was sent.
    """
    from vqbet_ros.cli.bench_record_check import compare
    from vqbet_ros.recording.bench_load import read_ledger

    require_at_least(args, seconds=1, baseline_seconds=0)
    args.out.mkdir(parents=True, exist_ok=True)
    # A folder of its own, so that nothing is taken away that was there before.
    work = Path(tempfile.mkdtemp(prefix='recorded-', dir=args.out))
    about = machine()
    try:
        measured = _measure(args, work)
        episode = Path(measured.pop('episode'))
        ledger = read_ledger(work / 'ledger.npy')
        window = (measured.pop('from_ns'), measured.pop('until_ns') - _UNDER_WAY_NS)
        compared = compare(episode, ledger, window)
    finally:
        if not args.keep:
            shutil.rmtree(work)
    figures = {**about, 'seconds': args.seconds, **compared, **measured}
    _compare_cpu(figures)
    _show(figures)
    if args.keep:
        print(f'bags               {work / "bags"}')
    write_json(figures, args.json)
    if compared['differing']:
        raise VqbetError(f'{compared["differing"]} recorded messages differ from what was sent')
    return 0


def _measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run publisher, recorder and baseline; what they write goes into the folder `work`."""
    from vqbet_ros.cli.processes import module_command, node_command, private_graph, Processes
    from vqbet_ros.recording.bench_load import spec

    environment = private_graph()
    os.environ.update(environment)
    # rclpy reads the environment when it is imported.
    from std_srvs.srv import Trigger
    from vqbet_ros.ros.bench_client import BenchClient

    bags, spec_file = work / 'bags', work / 'spec.yaml'
    bags.mkdir()
    spec_file.write_text(spec().to_yaml(), encoding='utf-8')
    with Processes(args.out) as processes:
        ledger = ['--ledger', str(work / 'ledger.npy')]
        processes.start('publisher', [*module_command('bench_publisher'), *ledger], environment)
        command = node_command('recorder_node', spec=str(spec_file), root=str(bags))
        processes.start('recorder', command, environment)
        services = {'start': Trigger, 'stop': Trigger}
        control = BenchClient('/recorder_node', services, processes.check)
        try:
            control.wait_for(
                lambda status: status['state'] == 'idle' and not status['problems'],
                'did not get ready',
                60.0,
            )
            result = _record(control, processes.pid('recorder'), args.seconds)
        except VqbetError as error:
            raise VqbetError(f'{error}; {processes.last_lines("recorder")}') from error
        finally:
            control.close()
        processes.stop('recorder')
        (episode,) = bags.iterdir()
        if args.baseline_seconds:
            baseline = [*module_command('bench_baseline'), str(bags / 'baseline')]
            processes.start('baseline', baseline, environment)
            result['baseline'] = _baseline(processes, args.baseline_seconds)
    return {'episode': episode, **result}


def _record(control: Any, pid: int, seconds: int) -> dict[str, Any]:
    """Record one episode and watch the recorder's process."""
    used_s, began_s = cpu_s(pid), time.monotonic()
    control.call('start')
    from_ns = time.time_ns()
    memory = []
    statuses = []
    for second in _seconds(seconds, 'recording'):
        statuses.append(control.status())
        memory.append([second, *memory_mb(pid)])
    statuses.append(control.status())
    until_ns = time.time_ns()
    control.call('stop')
    share = (cpu_s(pid) - used_s) / (time.monotonic() - began_s)
    return {
        'cpu_core_share': round(share, 4),
        'cpu_ratio_to_rosbags': None,
        'rss_mb': max(rss for _, rss, _ in memory),
        'rss_shared_mb': max(shared for _, _, shared in memory),
        'max_callback_ms': max(float(status['max_callback_ms']) for status in statuses),
        'memory_mb': {'columns': ['second', 'rss', 'of it shared memory'], 'rows': memory},
        'last_status': statuses[-1],
        'from_ns': from_ns,
        'until_ns': until_ns,
    }


def _baseline(processes: Any, seconds: int) -> dict[str, Any]:
    """Let the plain recorder work and watch its process."""
    pid = processes.pid('baseline')
    for _ in _seconds(_WARM_UP_S, 'baseline starts'):
        processes.check()
    used_s, began_s = cpu_s(pid), time.monotonic()
    written = _written(processes.log('baseline'))
    rss_mb = 0.0
    for _ in _seconds(seconds, 'baseline'):
        processes.check()
        rss_mb = max(rss_mb, memory_mb(pid)[0])
    share = (cpu_s(pid) - used_s) / (time.monotonic() - began_s)
    written = _written(processes.log('baseline')) - written
    processes.stop('baseline')
    return {
        'seconds': seconds,
        'cpu_core_share': round(share, 4),
        'messages_per_s': round(written / seconds, 1),
        'rss_mb': rss_mb,
    }


def _written(log: Path) -> int:
    """Return how many messages the plain recorder says it has written."""
    lines = [line.split() for line in log.read_text(encoding='utf-8').splitlines()]
    counts = [int(line[1]) for line in lines if line[:1] == ['written']]
    return counts[-1] if counts else 0


def _compare_cpu(figures: dict[str, Any]) -> None:
    """Add the ratio of CPU time per message: one of the two may have been too slow for all."""
    baseline = figures.get('baseline')
    if baseline and figures['recorded'] and baseline['messages_per_s']:
        ours = figures['cpu_core_share'] / (figures['recorded'] / figures['seconds'])
        theirs = baseline['cpu_core_share'] / baseline['messages_per_s']
        figures['cpu_ratio_to_rosbags'] = round(ours / theirs, 3)


def _seconds(count: int, what: str) -> Any:
    """Yield once a second, at absolute times, and show the progress."""
    from vqbet_ros.cli.progress import track

    began_s = time.monotonic()
    for second in track(range(1, count + 1), count, f'{what}, s'):
        time.sleep(max(0.0, began_s + second - time.monotonic()))
        yield second


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process took so far, in s."""
    fields = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()
    user, system = int(fields[11]), int(fields[12])  # 14 and 15 in proc(5), behind the name
    return (user + system) / os.sysconf('SC_CLK_TCK')


def memory_mb(pid: int) -> tuple[float, float]:
    """Return a process's resident memory in MB, and how much of it is shared memory (of DDS)."""
    values = {}
    for line in Path(f'/proc/{pid}/status').read_text(encoding='utf-8').splitlines():
        key, _, value = line.partition(':')
        values[key] = value.split()
    return tuple(round(int(values[key][0]) * 1024 / 1e6, 1) for key in ('VmRSS', 'RssShmem'))  # type: ignore[return-value]


def _show(figures: dict[str, Any]) -> None:
    print(f'published          {figures["published"]}')
    print(f'recorded           {figures["recorded"]}')
    print(f'lost               {figures["lost"]}')
    for reader, count in figures['identical'].items():
        text = 'not installed' if count is None else f'{count} identical'
        print(f'  {reader:<17}{text}')
    print(f'differing          {figures["differing"]}')
    print(f'CPU                {figures["cpu_core_share"]:.1%} of a core')
    if figures['cpu_ratio_to_rosbags'] is not None:
        print(
            f'  of a plain one   {figures["cpu_ratio_to_rosbags"]:.2f} per message; it took '
            f'{figures["baseline"]["cpu_core_share"]:.1%} for '
            f'{figures["baseline"]["messages_per_s"]:.0f} of '
            f'{figures["published"] / figures["seconds"]:.0f} messages/s'
        )
    print(f'memory             {figures["rss_mb"]:.0f} MB at most')
    print(f'longest callback   {figures["max_callback_ms"]:.2f} ms')
