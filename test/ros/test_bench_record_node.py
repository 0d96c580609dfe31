"""`vqbet bench record` as a user runs it, for a few seconds."""

import json
from pathlib import Path
import subprocess
import sys

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_the_load_is_recorded_and_compared(tmp_path):
    out, file = tmp_path / 'out', tmp_path / 'results' / 'record.json'
    command = [sys.executable, '-m', 'vqbet_ros.cli.main', 'bench', 'record', '--seconds', '3']
    result = subprocess.run(
        [*command, '--baseline-seconds', '2', '--out', str(out), '--json', str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if 'did not get ready' in result.stderr:
        pytest.skip('this machine is too busy to publish the load at its rates')
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text())
    # Whether anything is lost says something of the machine; that the sums agree, of the code.
    assert figures['published'] == figures['recorded'] + figures['lost'] > 300
    assert figures['recorded'] > 0
    assert figures['differing'] == 0
    assert figures['identical']['rosbags'] == figures['identical']['mcap_ros2']
    assert figures['identical']['rosbags'] >= figures['recorded']
    assert 0 < figures['cpu_core_share'] < 4
    assert figures['cpu_ratio_to_rosbags'] > 0
    assert 20 < figures['rss_mb'] < 2000
    assert figures['max_callback_ms'] > 0
    assert len(figures['memory_mb']['rows']) == 3
    assert 'lost' in result.stdout
    assert not (out / 'bags').exists()
