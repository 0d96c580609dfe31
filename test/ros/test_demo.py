"""`vqbet demo` as a user runs it: three processes, a real checkpoint, real signals."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")
pytest.importorskip('gym_pusht', reason="needs gym-pusht: extra 'sim'")

import cv2
import numpy as np
from vqbet_ros.sim.pusht import PushTWorld

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SEED = 3


def start_demo(checkpoint, out, *arguments):
    command = [sys.executable, '-m', 'vqbet_ros.cli.main', 'demo', '--checkpoint', str(checkpoint)]
    return subprocess.Popen(
        [*command, '--out', str(out), '--seed', str(SEED), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def run_demo(checkpoint, out, *arguments):
    process = start_demo(checkpoint, out, *arguments)
    try:
        text, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, text


def children_of(session):
    """Return the command lines, by process id, of the demo's nodes that are still there."""
    found = {}
    for path in Path('/proc').glob('[0-9]*/environ'):
        try:
            if f'VQBET_TEST_SESSION={session}'.encode() in path.read_bytes():
                line = path.with_name('cmdline').read_bytes().replace(b'\0', b' ').decode()
                found[int(path.parent.name)] = line
        except OSError:
            continue  # it ended while we looked, or is not ours
    return {pid: line for pid, line in found.items() if 'vqbet_ros.ros.' in line}


@pytest.fixture
def session(monkeypatch):
    """Mark the processes of this test by an environment variable that they inherit."""
    name = f'{os.getpid()}-{threading.get_ident()}'
    monkeypatch.setenv('VQBET_TEST_SESSION', name)
    return name


def test_a_policy_that_pushes_the_block(make_checkpoint, tmp_path, session):
    block = PushTWorld(SEED).state()[2:4]
    checkpoint = make_checkpoint(block)
    status, text = run_demo(
        checkpoint, tmp_path / 'out', '--episodes', '2', '--seconds', '3', '--rate', '20'
    )
    assert status == 0, text
    summary = json.loads((tmp_path / 'out/summary.json').read_text())
    assert [set(e) >= {'max_overlap', 'final_overlap', 'steps'} for e in summary['episodes']]
    assert [episode['seed'] for episode in summary['episodes']] == [SEED, SEED + 1]
    assert summary['episodes'][0]['moved_block']
    for episode in summary['episodes']:
        assert 28 <= episode['steps'] <= 33
        assert 0 <= episode['final_overlap'] <= episode['max_overlap'] <= 1
    for key in ('control_period_ms', 'inference_ms', 'latency_ms'):
        assert set(summary[key]) == {'p50', 'p99', 'max'}
        assert 0 < summary[key]['p50'] <= summary[key]['p99'] <= summary[key]['max']
    assert summary['control_period_ms']['p50'] == pytest.approx(50, abs=5)
    assert 100 <= summary['ticks'] <= 130
    assert 'observation to command' in text
    for index in range(2):
        video = cv2.VideoCapture(str(tmp_path / f'out/episode_{index}.mp4'))
        assert video.get(cv2.CAP_PROP_FRAME_COUNT) >= 20
        readable, frame = video.read()
        assert readable
        assert frame.shape == (384, 384, 3)
        video.release()
    assert not children_of(session)


def test_a_policy_that_never_moves_the_block_is_a_failure(make_checkpoint, tmp_path, session):
    pusher = PushTWorld(SEED).pusher()
    checkpoint = make_checkpoint(pusher)
    status, text = run_demo(checkpoint, tmp_path / 'out', '--episodes', '1', '--seconds', '2')
    assert status == 1, text
    assert 'vqbet: error: the policy never moved the block' in text
    assert 'Traceback' not in text
    episode = json.loads((tmp_path / 'out/summary.json').read_text())['episodes'][0]
    assert not episode['moved_block']
    assert not children_of(session)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_its_processes(make_checkpoint, tmp_path, session, number):
    checkpoint = make_checkpoint(np.array([100.0, 100.0]))
    process = start_demo(checkpoint, tmp_path / 'out')
    lines = []
    for line in process.stdout:
        lines.append(line)
        if 'sim_node runs' in line:
            break
    assert len(children_of(session)) == 2, lines
    process.send_signal(number)
    rest, _ = process.communicate(timeout=20)
    assert process.returncode == 130, rest
    assert 'Traceback' not in rest
    assert not children_of(session)


def test_a_node_that_dies_ends_the_demo_with_its_last_words(make_checkpoint, tmp_path, session):
    process = start_demo(make_checkpoint([100.0, 100.0]), tmp_path / 'out')
    for line in process.stdout:
        if 'policy_node has loaded' in line:
            break
    (pid,) = (pid for pid, line in children_of(session).items() if 'policy_node' in line)
    os.kill(pid, signal.SIGKILL)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 1, rest
    assert 'policy_node ended with status -9' in rest
    assert 'PyTorch, commands at 10 Hz' in rest  # from its log
    assert 'Traceback' not in rest
    assert not children_of(session)


def test_a_half_written_checkpoint_is_one_clear_error(make_checkpoint, tmp_path, session):
    checkpoint = make_checkpoint(np.array([100.0, 100.0]))
    weights = checkpoint / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:1000])
    status, text = run_demo(checkpoint, tmp_path / 'out')
    assert status == 1
    assert 'policy_node refused to configure' in text
    assert 'model.safetensors' in text
    assert not children_of(session)


def test_a_missing_checkpoint_is_told_before_anything_starts(tmp_path, session):
    status, text = run_demo(tmp_path / 'nowhere', tmp_path / 'out')
    assert status == 1
    assert f'{tmp_path}/nowhere is no checkpoint directory' in text
    assert not (tmp_path / 'out').exists()
