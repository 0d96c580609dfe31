"""benchmarks/: the tables of docs/benchmarks.md are those of the measurements that are kept."""

import json
from pathlib import Path
import re
import runpy
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = runpy.run_path(str(ROOT / 'benchmarks/table.py'))
MACHINE = {
    'date': '2026-05-04T03:02:01+00:00',
    'cpu': 'Fast One (AVX2)',
    'cpus': 4,
    'gpu': None,
    'load_before': 0.5,
    'versions': {'torch': '2.9'},
    'device': 'cpu',
    'threads': 2,
}


def keep(folder, name, **figures):
    (folder / name).write_text(json.dumps({**MACHINE, **figures}))


def cells(table):
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines()]


def test_the_document_shows_the_newest_measurements():
    program = [sys.executable, str(ROOT / 'benchmarks/table.py'), '--check']
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_measurement_names_its_machine_and_nobody_else():
    for path in (ROOT / 'benchmarks/results').glob('*'):
        assert re.fullmatch(r'\d{4}-\d\d-\d\d_[a-z_0-9]+_(cpu|cuda)\.json', path.name)
        result = json.loads(path.read_text(encoding='utf-8'))
        keys = {'date', 'cpu', 'cpus', 'gpu', 'load_before', 'versions', 'device', 'seed'}
        assert result.keys() >= keys
        assert result['date'].startswith(path.name[:10])
        assert path.stem.endswith(f'_{result["device"]}')
        assert path.stat().st_size < 20_000


def test_the_newest_of_a_kind_counts_and_the_rest_says_that_it_is_open(tmp_path):
    ours = {'name': 'ours', 'parameters': 2e6, 'p50_ms': 8.0, 'p99_ms': 9.25, 'calls': 200}
    peer = {**ours, 'name': 'peer', 'p50_ms': 1234.5, 'times_ours': 154.31}
    old = {**ours, 'name': 'old', 'times_ours': 1}
    keep(tmp_path, '2026-05-03_peers_inference_cpu.json', rows=[old])
    rows = [{**ours, 'times_ours': 1.0}, peer]
    keep(tmp_path, '2026-05-04_peers_inference_cpu.json', rows=rows)
    keep(tmp_path, '2026-05-05_peers_training_cpu.json', rows=[])
    assert cells(TABLE['TABLES']['peers_inference'](tmp_path))[2:] == [
        ['CPU, 2 threads', 'ours', '2.0 M', '8.00', '9.25', '200', ''],
        ['CPU, 2 threads', 'peer', '2.0 M', '1 234', '9.25', '200', '154.3'],
        ['GPU', 'all', '', 'not yet measured', '', '', ''],
    ]
    assert [row[0] for row in cells(TABLE['TABLES']['sources'](tmp_path))[2:]] == [
        '`2026-05-04_peers_inference_cpu.json`',
        '`2026-05-05_peers_training_cpu.json`',
    ]


def test_the_floor_of_a_step_is_its_operations_at_the_best_rate(tmp_path):
    parts = [{'name': 'one', 'ms': 300.0, 'gflop': 30.0}, {'name': 'two', 'ms': 100.0, 'gflop': 0}]
    keep(tmp_path, '2026-05-04_profile_cpu.json', parts=parts, matrix_product_gflop_per_s=200.0)
    assert cells(TABLE['TABLES']['profile'](tmp_path))[2:] == [
        ['one', '300', '75%', '30.0', '100'],
        ['two', '100', '25%', '', ''],
        ['together', '400', '', '30.0', ''],
        ['all of it as fast as a large matrix product', '150', '', '30.0', '200'],
    ]


@pytest.mark.parametrize('name', sorted(TABLE['TABLES']))
def test_without_measurements_every_table_says_so(name, tmp_path):
    table = TABLE['TABLES'][name](tmp_path)
    rows = cells(table)
    assert {len(row) for row in rows} == {len(rows[0])}
    assert name == 'sources' or 'not yet measured' in table


def test_only_what_is_between_the_marks_is_written(tmp_path):
    text = 'before\n<!-- table: sources -->\nold\n<!-- end -->\nafter\n'
    found = TABLE['filled'](text, tmp_path)
    assert found.startswith('before\n<!-- table: sources -->\n| measurement |')
    assert found.endswith('|\n<!-- end -->\nafter\n')
    assert 'old' not in found
    assert TABLE['filled'](found, tmp_path) == found
