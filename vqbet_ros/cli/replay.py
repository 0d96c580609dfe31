"""`vqbet replay`: a bag's messages through the runtime, beside what was recorded."""

import argparse
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

from vqbet_ros.cli.figures import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vqbet_ros.data.bag import Bag
    from vqbet_ros.runtime.observation import Observation
    from vqbet_ros.runtime.replay import Arrival
    from vqbet_ros.spec import RobotSpec


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet`."""
    parser = subparsers.add_parser(
        'replay',
        help='run a policy on a bag and compare with what was recorded',
        description="Send a bag's messages through the runtime of policy_node, by the bag's own "
        'clock and as fast as the policy decides. Says how far its plans and commands are from '
        'the recorded actions, how late they come, and when and why nothing is sent.',
    )
    parser.add_argument('bag', metavar='BAG', type=Path, help='a bag')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', type=Path, help='checkpoint directory')
    parser.add_argument(
        '--spec',
        metavar='YAML',
        help="the robot's spec (default: the bag's own, else the checkpoint's)",
    )
    parser.add_argument(
        '--inference-ms',
        metavar='MS',
        type=float,
        help='how long a decision takes (default: as long as it takes here); with a given time '
        'the result is the same everywhere',
    )
    parser.add_argument(
        '--control-rate-hz',
        metavar='HZ',
        type=float,
        default=0.0,
        help="rate of commands; 0 for the spec's (default: %(default)s)",
    )
    parser.add_argument(
        '--plan-every',
        metavar='N',
        type=int,
        default=0,
        help='steps of a plan before the next one; 0 for all but the last (default: %(default)s)',
    )
    parser.add_argument(
        '--threads', metavar='N', type=int, default=1, help='CPU threads (default: %(default)s)'
    )
    parser.add_argument(
        '--device', choices=('auto', 'cpu', 'cuda'), default='cpu', help='(default: %(default)s)'
    )
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the figures here')
    parser.add_argument('--out', metavar='DIR', type=Path, help='write pictures here')
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Replay the bag; returns the exit status."""
    from vqbet_ros.data.align import align
    from vqbet_ros.data.bag import Bag
    from vqbet_ros.data.cdr import same_content, warm_up
    from vqbet_ros.data.messages import DECODERS
    from vqbet_ros.policy.device import pick_device
    from vqbet_ros.policy.engine import Engine
    from vqbet_ros.resources import named
    from vqbet_ros.runtime.replay import Replay
    from vqbet_ros.spec import RobotSpec
    from vqbet_ros.training.html import require_matplotlib

    for name, low in (('control_rate_hz', 0), ('plan_every', 0), ('threads', 1)):
        if not getattr(args, name) >= low:
            option = name.replace('_', '-')
            args.parser.error(f'--{option} must be at least {low}, got {getattr(args, name)}')
    if args.inference_ms is not None and not args.inference_ms >= 0:
        args.parser.error(f'--inference-ms must be at least 0, got {args.inference_ms}')
    require_matplotlib('vqbet replay')
    from vqbet_ros.training import replay_report

    bag = Bag.open(args.bag)
    engine = Engine.load(args.checkpoint, pick_device(args.device), args.threads)
    spec = RobotSpec.from_yaml(named(args.spec)) if args.spec else bag.spec or engine.spec
    engine.spec.require_equal(spec)
    bag.require(spec)
    recorded = replay_report.Recorded.of(align(bag.messages(spec.recorded_topics), spec), spec)
    engine.warm_up()
    warm_up(part.type for part in spec.streams)

    def infer(observation: 'Observation') -> tuple[Any, int]:
        started_ns = time.perf_counter_ns()
        output = engine.plan(observation)
        took_ns = time.perf_counter_ns() - started_ns
        fixed = args.inference_ms
        return output, took_ns if fixed is None else round(fixed * 1e6)

    replay = Replay(
        infer,
        spec,
        history=engine.history,
        chunk=engine.chunk,
        decoders=DECODERS,
        same=same_content,
        control_rate_hz=args.control_rate_hz or spec.rate_hz,
        plan_every=args.plan_every,
        look=engine.look,
        reset=engine.reset,
    )
    started_s = time.perf_counter()
    events = list(replay.run(arrivals(bag, spec)))
    seconds = time.perf_counter() - started_s
    found = replay_report.compare(events, recorded, engine.chunk, spec.runtime.interpolation)
    duration_s = (bag.end_ns - bag.start_ns) / 1e9
    result = {
        'bag': str(args.bag),
        'checkpoint': str(args.checkpoint),
        'duration_s': duration_s,
        'times_real_time': duration_s / seconds,
        **replay_report.figures(found, spec),
        'dropped_actions': replay.supervisor.dropped,
        'clamped': {f'{n}, {limit}': c for (n, limit), c in replay.supervisor.clips.items()},
        'refused_chunks': {k.value: c for k, c in replay.supervisor.rejected.items()},
        'motion': replay_report.motion(events, spec),
        'sensing': replay_report.sensing(events),
        'messages': {name: vars(counts) for name, counts in replay.buffer.counts().items()},
    }
    _print(result)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        errors = [('policy', found.plan_error), ('last action repeated', found.held_error)]
        (args.out / 'traces.png').write_bytes(replay_report.draw_traces(found, spec))
        (args.out / 'horizon.png').write_bytes(replay_report.draw_horizon(errors, spec))
    write_json(result, args.json)
    return 0


def arrivals(bag: 'Bag', spec: 'RobotSpec') -> 'Iterator[Arrival]':
    """Iterate over what the node's subscriptions would have received.

    Raises:
        BadBag: The clock of the recording was set back: there is no time to replay it by.
    """
    from vqbet_ros.data.align import DISORDER_NS
    from vqbet_ros.data.cdr import header_stamp_ns
    from vqbet_ros.data.tracks import seconds
    from vqbet_ros.errors import BadBag, BadMessage
    from vqbet_ros.runtime.replay import Arrival

    streams = {part.topic: part for part in spec.streams}
    newest_ns = 0
    for message in bag.messages(streams):
        if message.log_ns < newest_ns - DISORDER_NS:
            raise BadBag(
                f'{bag.path} cannot be replayed: its clock was set back from {seconds(newest_ns)} '
                f'to {seconds(message.log_ns)}. Replay another bag (`vqbet prepare` cuts the '
                'episode there)'
            )
        newest_ns = max(newest_ns, message.log_ns)
        stream = streams[message.topic].stream
        try:
            stamp_ns = header_stamp_ns(message.payload, message.type)
        except BadMessage as error:
            yield Arrival(stream, None, message.log_ns, message.payload, str(error))
            continue
        yield Arrival(stream, stamp_ns, message.log_ns, message.payload)


def _print(result: dict[str, Any]) -> None:
    print(f'{result["duration_s"]:.1f} s, {result["times_real_time"]:.1f} times real time')
    print(f'plans     {result["plans"]}, of which {result["refused_plans"]} refused')
    print(f'commands  {result["commands"]} in {result["ticks"]} ticks')
    for reason, count in result['holds'].items():
        print(f'holds     {count} ticks: {reason}')
    for what, count in {**result['clamped'], **result['refused_chunks']}.items():
        print(f'changed   {count} commands or chunks: {what}')
    for name, motion in result['motion'].items():
        print(f'motion    {name}: ' + ', '.join(f'{k} {_number(v)}' for k, v in motion.items()))
    for name in ('inference_ms', 'latency_ms', 'confidence'):
        unit = ' ms' if name.endswith('_ms') else ''
        print(f'{name.removesuffix("_ms"):<10} {_summary(result[name], unit)}')
    for name, sensed in result['sensing'].items():
        rate_hz = result['messages'][name]['received'] / result['duration_s']
        print(f'stream    {name}: {rate_hz:.1f} Hz; age {_summary(sensed["age_ms"], " ms")}')
        print(f'          behind the newest stream {_summary(sensed["skew_ms"], " ms")}')
    print(f'mean absolute error, {result["unit"]}: plan by horizon; (last action repeated); sent')
    for name, errors in result['error_by_horizon'].items():
        held = ' '.join(map(_number, result['error_if_held_by_horizon'][name]))
        print(
            f'  {name:<16}{" ".join(map(_number, errors))}; ({held}); '
            f'{_number(result["command_error"][name])}'
        )


def _summary(values: dict[str, float | None], unit: str) -> str:
    return ', '.join(f'{key} {_number(value)}{unit}' for key, value in values.items())


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.4g}'
