"""Write the tables of docs/benchmarks.md from the newest measurements in benchmarks/results/.

    python benchmarks/table.py            writes them
    python benchmarks/table.py --check    says whether they are as the measurements have them

A measurement is what `--json` of `vqbet bench inference`, `vqbet bench train`,
`benchmarks/peers_lerobot.py` or `benchmarks/step_profile.py` wrote, kept as
YYYY-MM-DD_KIND_DEVICE.json.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
import json
from pathlib import Path
import re
import sys
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCUMENT = ROOT / 'benchmarks/results', ROOT / 'docs/benchmarks.md'
BLOCK = re.compile(r'(<!-- table: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)
DEVICES = {'cpu': 'CPU', 'cuda': 'GPU'}
OPEN = 'not yet measured'
SCALES = ('batch', 'history', 'cameras', 'width')  # of `vqbet bench train --vary`
Result = dict[str, Any]
Row = tuple[str, ...]


def newest(kind: str, device: str, results: Path) -> Result | None:
    """Return the newest measurement of a kind on a device."""
    paths = sorted(results.glob(f'????-??-??_{kind}_{device}.json'))
    return json.loads(paths[-1].read_text(encoding='utf-8')) if paths else None


def markdown(head: Row, rows: Iterable[Row]) -> str:
    """Return a table."""
    lines = [head, tuple('---' for _ in head), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def milliseconds(value: float) -> str:
    """Return a duration with about three digits."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f'{value:,.{digits}f}'.replace(',', ' ')


def where(result: Result) -> str:
    """Name the device and its threads."""
    if result['device'] == 'cpu':
        return f'CPU, {result["threads"]} threads'
    return str(result['gpu'])


def peers(kind: str, results: Path, note: str = '') -> str:
    """Return the table of one comparison with the peers."""
    head = ('where', 'policy', 'parameters', 'median, ms', 'p99, ms', 'calls', 'times ours')
    rows: list[Row] = []
    for device, name in DEVICES.items():
        result = newest(kind, device, results)
        if result is None:
            rows.append((f'{name}{note}', 'all', '', OPEN, '', '', ''))
            continue
        rows += [
            (
                where(result),
                row['name'],
                f'{row["parameters"] / 1e6:.1f} M',
                milliseconds(row['p50_ms']),
                milliseconds(row['p99_ms']),
                str(row['calls']),
                f'{row["times_ours"]:.1f}' if row['times_ours'] != 1 else '',
            )
            for row in result['rows']
        ]
    return markdown(head, rows)


def inference(results: Path) -> str:
    """Return the table of decisions of ours alone."""
    head = ('where', 'cameras', 'by', 'numbers', 'asked', 'median, ms', 'p99, ms', 'calls')
    kinds = {
        'inferenceonnx': ('one of 96x96', 'ONNX Runtime'),
        'inferenceonnx10hz': ('one of 96x96', 'ONNX Runtime'),
        'inference': ('one of 96x96', 'PyTorch'),
        'inference10hz': ('one of 96x96', 'PyTorch'),
        'inferencefloat32': ('one of 96x96', 'PyTorch'),
        'inference224onnx': ('two of 224x224', 'ONNX Runtime'),
        'inference224': ('two of 224x224', 'PyTorch'),
    }
    rows: list[Row] = []
    for device, name in DEVICES.items():
        for kind, (cameras, runtime) in kinds.items():
            result = newest(kind, device, results)
            if result is not None:
                figures = (milliseconds(result[key]) for key in ('p50_ms', 'p99_ms'))
                calls = str(result['calls'])
                numbers = result.get('numbers', result['dtype'])
                rate = result.get('rate_hz')
                asked = f'{rate:g} a second' if rate else 'at once'
                rows.append((where(result), cameras, runtime, numbers, asked, *figures, calls))
            elif device == 'cpu' or kind in ('inference', 'inference224'):
                rows.append((name, cameras, runtime, '', '', OPEN, '', ''))
    return markdown(head, rows)


def scaling(results: Path) -> str:
    """Return how training grows with batch, window, cameras and width."""
    head = ('where', 'varied', 'value', 'parameters', 'steps a second', 'memory, MB')
    rows: list[Row] = []
    for device, name in DEVICES.items():
        result = newest('train', device, results)
        if result is None:
            rows.append((name, 'all', '', '', OPEN, ''))
            continue
        for varied in SCALES:
            several = result['scaling'].get(varied)
            if not several:
                rows.append((where(result), varied, '', '', OPEN, ''))
                continue
            rows += [
                (
                    where(result),
                    varied,
                    str(row[varied]),
                    f'{row["parameters"] / 1e6:.1f} M',
                    f'{row["steps_per_s"]:.2f}',
                    f'{row["peak_memory_mb"]:.0f}',
                )
                for row in several
            ]
    return markdown(head, rows)


def profile(results: Path) -> str:
    """Return where the time of a training step goes."""
    head = ('part of a step', 'ms', 'share', 'GFLOP', 'GFLOP a second')
    result = newest('profile', 'cpu', results)
    if result is None:
        return markdown(head, [('all', OPEN, '', '', '')])
    total = sum(part['ms'] for part in result['parts'])
    rows = [
        (
            part['name'],
            milliseconds(part['ms']),
            f'{part["ms"] / total:.0%}',
            f'{part["gflop"]:.1f}' if part['gflop'] else '',
            f'{part["gflop"] / part["ms"] * 1e3:.0f}' if part['gflop'] else '',
        )
        for part in result['parts']
    ]
    gflop = sum(part['gflop'] for part in result['parts'])
    best = result['matrix_product_gflop_per_s']
    floor = ('all of it as fast as a large matrix product', milliseconds(gflop / best * 1e3))
    rows.append(('together', milliseconds(total), '', f'{gflop:.1f}', ''))
    rows.append((*floor, '', f'{gflop:.1f}', f'{best:.0f}'))
    return markdown(head, rows)


def sources(results: Path) -> str:
    """Return what was measured where and when."""
    head = ('measurement', 'day', 'machine', 'load before', 'versions')
    rows: list[Row] = []
    for path in newest_of_all(results):
        result = json.loads(path.read_text(encoding='utf-8'))
        versions = (f'{name} {version}' for name, version in result['versions'].items())
        machine = f'{result["cpus"]} CPUs, {result["cpu"]}'
        if result['gpu']:
            machine += f'; {result["gpu"]}'
        load = str(result['load_before'])
        rows.append((f'`{path.name}`', result['date'][:10], machine, load, ', '.join(versions)))
    return markdown(head, rows)


def newest_of_all(results: Path) -> Iterator[Path]:
    """Yield the newest measurement of each kind and device."""
    found = {path.stem.partition('_')[2]: path for path in sorted(results.glob('*.json'))}
    yield from (found[name] for name in sorted(found))


TABLES: dict[str, Callable[[Path], str]] = {
    'peers_inference': lambda results: peers('peers_inference', results),
    'peers_training': lambda results: peers('peers_training', results, ', batch 8'),
    'peers_training64': lambda results: peers('peers_training64', results, ', batch 64'),
    'inference': inference,
    'scaling': scaling,
    'profile': profile,
    'sources': sources,
}


def filled(text: str, results: Path = RESULTS) -> str:
    """Return a document with its tables made anew."""
    return BLOCK.sub(lambda block: block[1] + TABLES[block[2]](results) + block[3], text)


def main() -> int:
    """Write or check the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--check', action='store_true', help='write nothing')
    args = parser.parse_args()
    before = DOCUMENT.read_text(encoding='utf-8')
    after = filled(before)
    if args.check:
        if before != after:
            print('docs/benchmarks.md is old: run python benchmarks/table.py', file=sys.stderr)
        return int(before != after)
    DOCUMENT.write_text(after, encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
