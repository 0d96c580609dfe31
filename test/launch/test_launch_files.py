"""The launch files as a user starts them: a process of its own, real nodes, real signals."""

import os
from pathlib import Path
import queue
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

LAUNCH_FILES = sorted((Path(__file__).resolve().parents[2] / 'launch').glob('*.launch.py'))
TIMEOUT_S = 60.0

# What `ros2 launch` does, where its command line is not installed.
PROGRAM = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

path, *arguments = sys.argv[1:]
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(path),
    launch_arguments=[argument.split(':=', 1) for argument in arguments],
)]))
sys.exit(service.run())
"""


class Launched:
    """A running launch file, whose output is waited for line by line."""

    def __init__(self, path, *arguments):
        self.output = ''
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, '-u', '-c', PROGRAM, str(path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern):
        """Return the match of the first new line that has one."""
        deadline = time.monotonic() + TIMEOUT_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                pytest.fail(f'it ended without {pattern!r}; its output:\n{self.output}')
            self.output += line
            if match := re.search(pattern, line):
                return match
        pytest.fail(f'no {pattern!r} in {TIMEOUT_S:g} s; its output:\n{self.output}')

    def end(self):
        """Wait for its own end; returns its exit status."""
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        while (line := self._lines.get()) is not None:
            self.output += line
        return status

    def kill(self):
        """End what is left of it and of its nodes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.end()


@pytest.fixture
def start(ament_prefix):
    launched = []

    def start(path, *arguments):
        launched.append(Launched(path, *arguments))
        return launched[-1]

    yield start
    for one in launched:
        one.kill()


def named(name):
    return next(path for path in LAUNCH_FILES if path.name == name)


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_every_argument_is_described(path, ament_prefix):
    from launch.launch_description_sources import (
        get_launch_description_from_python_launch_file as load,
    )

    arguments = load(str(path)).get_launch_arguments()
    assert arguments
    assert not [a.name for a in arguments if 'no description' in a.description.lower()]
    assert not [a.name for a in arguments if a.default_value is None]


def test_the_simulation_ends_cleanly_on_ctrl_c(start):
    launched = start(named('sim.launch.py'))
    launched.wait_for(r'\[sim_node\]: .*commands on')
    launched.process.send_signal(signal.SIGINT)
    assert launched.end() == 0
    assert 'process has finished cleanly' in launched.output
    assert 'Traceback' not in launched.output


def test_the_end_of_a_required_node_ends_the_launch(start):
    launched = start(named('sim.launch.py'))
    pid = int(launched.wait_for(r'process started with pid \[(\d+)\]')[1])
    launched.wait_for(r'\[sim_node\]: .*commands on')
    os.kill(pid, signal.SIGTERM)
    launched.end()
    assert 'process has finished cleanly' in launched.output


def test_a_policy_without_a_checkpoint_says_so_and_stays_unconfigured(start, tmp_path):
    launched = start(named('policy.launch.py'), f'checkpoint:={tmp_path / "absent"}')
    launched.wait_for(rf'\[policy_node\]: .*{re.escape(str(tmp_path / "absent"))}')
    launched.process.send_signal(signal.SIGINT)
    assert launched.end() == 0
    assert 'process has finished cleanly' in launched.output
    assert 'Traceback' not in launched.output


def test_the_recorder_takes_its_arguments_and_keeps_nothing_without_an_episode(start, tmp_path):
    launched = start(
        named('record.launch.py'), f'root:={tmp_path / "episodes"}', 'task:=stack', 'goal:='
    )
    launched.wait_for(rf'\[recorder_node\]: pusht: episodes go to {tmp_path}/episodes')
    launched.process.send_signal(signal.SIGINT)
    assert launched.end() == 0
    assert 'process has finished cleanly' in launched.output
    assert 'Traceback' not in launched.output
    assert not (tmp_path / 'episodes').exists()
