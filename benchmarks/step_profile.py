"""Say where the time of a training step goes on the CPU, and what this CPU could do at best.

    python benchmarks/step_profile.py --json out/bench/profile.json

Times are torch's profiler's, by operator; floating-point operations are torch's own count. What
no step can go below, whatever is done about the rest, is those operations at the rate of a large
matrix product, measured here too.
"""

from pathlib import Path
import sys
import tempfile
import time
from typing import Any

from measuring import parser_of, peer_training
import numpy as np
import torch
from torch.profiler import profile, ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode
from vqbet_ros.cli.bench_machine import machine
from vqbet_ros.cli.bench_training import TrainingTimer
from vqbet_ros.cli.figures import write_json

# Parts of a step and the operators whose names begin so; the first that fits takes it.
PARTS = {
    'convolutions, backward': ('aten::convolution_backward',),
    'convolutions, forward': ('aten::mkldnn_convolution', 'aten::convolution', 'aten::conv2d'),
    'other matrix products': ('aten::mm', 'aten::addmm', 'aten::bmm', 'aten::baddbmm'),
    'AdamW': ('aten::_fused_adamw_', 'Optimizer.step'),
    'norms of layers and groups': ('aten::native_group_norm', 'aten::native_layer_norm'),
    'clipping of the gradient': ('aten::linalg_vector_norm', 'aten::_foreach', 'aten::mul_'),
    'moving average of the weights': ('aten::lerp_',),
}
REST = 'all else: activations, dropout, attention, copies, Python'
GFLOP_OF = {
    'convolutions, backward': ('convolution_backward',),
    'convolutions, forward': ('convolution',),
    'other matrix products': ('mm', 'addmm', 'bmm', 'baddbmm'),
}


def matrix_product_gflop_per_s(size: int = 2048, times: int = 15) -> float:
    """Return the median rate of a product of two large matrices."""
    one, other = torch.randn(size, size), torch.randn(size, size)
    durations_s = []
    for _ in range(times):
        started_s = time.perf_counter()
        one @ other
        durations_s.append(time.perf_counter() - started_s)
    return 2 * size**3 / float(np.median(durations_s)) / 1e9


def parts_of(timer: TrainingTimer, steps: int) -> list[dict[str, Any]]:
    """Return name, ms and GFLOP of each part of a step, the longest first."""
    with FlopCounterMode(display=False) as counter:
        timer.run(1)
    counted = {
        str(op).rpartition('.')[2]: n for op, n in counter.get_flop_counts()['Global'].items()
    }
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        timer.run(steps)
    spent_ms = dict.fromkeys((*PARTS, REST), 0.0)
    for event in profiler.key_averages():
        part = next((p for p, names in PARTS.items() if event.key.startswith(names)), REST)
        spent_ms[part] += event.self_cpu_time_total / 1e3 / steps
    gflop = {p: sum(counted.get(name, 0) for name in ops) / 1e9 for p, ops in GFLOP_OF.items()}
    return [
        {'name': part, 'ms': round(ms, 2), 'gflop': round(gflop.get(part, 0.0), 2)}
        for part, ms in sorted(spent_ms.items(), key=lambda item: -item[1])
    ]


def main() -> int:
    """Measure; returns the exit status."""
    parser = parser_of(__doc__)
    parser.add_argument('--steps', type=int, default=10, help='steps that are looked at')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    about = machine()
    best = matrix_product_gflop_per_s()
    with tempfile.TemporaryDirectory() as folder:
        timer = peer_training(Path(folder), args, 'cpu')
        timer.warm_up()
        parts = parts_of(timer, args.steps)
    for part in parts:
        print(f'{part["name"]:<60}{part["ms"]:8.1f} ms {part["gflop"]:8.1f} GFLOP')
    print(f'a large matrix product: {best:.0f} GFLOP/s')
    result = {
        'device': 'cpu',
        'threads': args.threads,
        'batch': args.batch,
        'steps': args.steps,
        'seed': args.seed,
        'matrix_product_gflop_per_s': round(best, 1),
        'parts': parts,
        **about,
    }
    write_json(result, args.json)
    return 0


if __name__ == '__main__':
    sys.exit(main())
