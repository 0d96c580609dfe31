"""`vqbet bench control` as a user runs it, for a few seconds."""

import json
from pathlib import Path
import subprocess
import sys

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_the_node_is_measured_beside_its_publishers(tmp_path):
    file = tmp_path / 'results' / 'control.json'
    command = [sys.executable, '-m', 'vqbet_ros.cli.main', 'bench', 'control', '--seconds', '2']
    options = ['--rate', '20', '--joints-hz', '100', '--out', str(tmp_path / 'out')]
    result = subprocess.run(
        [*command, *options, '--json', str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text())
    # How well the rate is kept says something of the machine; that it is measured, of the code.
    assert figures['rate_hz'] == 20.0
    assert 20 < figures['ticks'] < 200
    assert figures['missed_ticks'] >= 0
    assert figures['period_ms']['p50'] == pytest.approx(50, abs=20)
    assert figures['joints_hz'] > 20
    assert figures['commands_hz'] > 5
    assert 0 < figures['latency_ms']['p50'] <= figures['latency_ms']['max']
    assert figures['threads']['last'] >= 3
