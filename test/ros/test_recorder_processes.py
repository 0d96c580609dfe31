"""The recorder as programs: signals, kills, what the next one finds, and the keyboard."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from vqbet_ros.cli.main import main
from vqbet_ros.recording.bag import is_whole, read_custom_data

pytestmark = pytest.mark.ros


@pytest.fixture
def start_recorder(start_process, small_spec, tmp_path, remote_recorder):
    """Start recorder_node as a process; returns it and what calls it."""

    def start(**parameters):
        values = {'spec': small_spec, 'root': tmp_path / 'recordings', 'stop_free_gb': 0.0}
        process = start_process('recorder_node', **values, warn_free_gb=0.0, **parameters)
        return process, remote_recorder

    return start


def recorded(status):
    """Return how many joint states the status tells of."""
    text = next(item.value for item in status.values if item.key == 'stream /joint_states')
    return int(text.split(', ')[1].split()[0])


def killed_in_an_episode(start_recorder, robot):
    """Kill a recorder without warning; returns the bag and what was in it a second before."""
    robot.publish_all()
    process, recorder = start_recorder()
    recorder.start()
    recorder.status.clear()
    before = recorder.status.wait(lambda s: s.message.startswith('recording'), count=4)
    recorder.status.wait(lambda s: s.message.startswith('recording'), count=7)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    (bag,) = recorder.root.glob('small_*')
    assert not is_whole(bag)
    return bag, recorded(before)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_an_episode_keeps_it_within_two_seconds(
    start_recorder, robot, read_bag, number
):
    robot.publish_all()
    process, recorder = start_recorder()
    recorder.start()
    recorder.status.clear()
    last = recorder.status.wait(lambda s: s.message.startswith('recording'), count=3)
    began = time.monotonic()
    process.send_signal(number)
    text, _ = process.communicate(timeout=20)
    took = time.monotonic() - began
    assert process.returncode == 0, text
    assert 'Traceback' not in text
    assert 'verdict' in text
    (bag,) = recorder.root.glob('small_*')
    assert is_whole(bag)
    assert read_custom_data(bag)['vqbet.outcome'] == 'incomplete'
    assert len(read_bag(bag)['/joint_states']) >= recorded(last)
    assert took < 2.0


def test_a_killed_episode_is_told_of_and_recovered(start_recorder, robot, read_bag, capsys):
    bag, at_least = killed_in_an_episode(start_recorder, robot)
    process, recorder = start_recorder()
    status = recorder.wait('idle')
    assert f'vqbet recover {bag}' in status.message
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert f'vqbet recover {bag}' in text
    assert main(['recover', str(bag)]) == 0
    assert is_whole(bag)
    found = read_bag(bag)['/joint_states']
    sent = robot.sent['/joint_states']
    assert len(found) >= at_least
    first = sent.index(found[0])
    assert found == sent[first : first + len(found)]
    assert read_custom_data(bag)['vqbet.outcome'] == 'incomplete'


def test_a_killed_episode_is_recovered_at_the_start_if_that_is_wanted(
    start_recorder, robot, read_bag
):
    bag, at_least = killed_in_an_episode(start_recorder, robot)
    _, recorder = start_recorder(recover_on_start='true')
    recorder.status.clear()
    recorder.status.wait(lambda s: s.message == 'idle: ready')
    assert is_whole(bag)
    assert len(read_bag(bag)['/joint_states']) >= at_least


def test_a_running_episode_is_not_recovered(start_recorder, start_process, robot, capsys):
    robot.publish_all()
    process, recorder = start_recorder()
    recorder.start()
    (bag,) = recorder.root.glob('small_*')
    root = recorder.root
    second = start_process('recorder_node', root=root, recover_on_start='true', stop_free_gb=0.0)
    assert second.stdout is not None
    until_ready = []
    for line in second.stdout:
        until_ready.append(line)
        if 'episodes go to' in line:
            break
    assert 'never ended' not in ''.join(until_ready)
    assert main(['recover', str(bag)]) == 1
    assert 'is being recorded' in capsys.readouterr().err
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert is_whole(bag)
    assert list(root.iterdir()) == [bag]


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 120, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.shown = ''
        self._news = threading.Condition()
        self.process = subprocess.Popen(command, stdin=self.slave, stdout=self.slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while chunk := os.read(self.master, 4096).decode(errors='replace'):
            with self._news:
                # What the screen was cleared of is gone.
                self.shown = (self.shown + chunk).rpartition('\x1b[H\x1b[J')[2]
                self._news.notify_all()

    def wait(self, text):
        with self._news:
            assert self._news.wait_for(lambda: text in self.shown, 30), f'{text!r}: {self.shown}'

    def press(self, key):
        os.write(self.master, key.encode())

    def end(self):
        status = self.process.wait(20)
        assert termios.tcgetattr(self.slave) == self.before
        return status


@pytest.fixture
def terminal(graph, monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain_id))
    opened = []

    def start():
        opened.append(Terminal([sys.executable, '-m', 'vqbet_ros.ros.recorder_keys']))
        return opened[-1]

    yield start
    for one in opened:
        one.process.kill()
        one.process.wait()


def test_the_keyboard_commands_and_shows(record, robot, terminal):
    robot.publish_all()
    keys = terminal()
    keys.wait('waiting for /recorder_node/status')
    recorder = record(task='stack the cups')
    keys.wait('idle: ready')
    keys.wait('stack the cups')
    keys.press('s')
    keys.wait('start: recording')
    keys.wait('0 lost')
    keys.press('s')
    keys.wait('start: REFUSED: ')
    keys.press('e')
    keys.wait('stop: kept')
    keys.press('y')
    keys.wait('success: marked')
    (bag,) = recorder.root.glob('small_*')
    assert read_custom_data(bag)['vqbet.outcome'] == 'success'
    keys.press('n')
    keys.wait('failure: marked')
    keys.press('d')
    keys.wait('discard: discarded')
    assert not bag.exists()
    keys.press('q')
    assert keys.end() == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_terminal_is_as_it_was_after_a_signal(graph, terminal, number):
    keys = terminal()
    keys.wait('[q] quit')
    keys.process.send_signal(number)
    assert keys.end() == 0


def test_without_a_terminal_the_keyboard_says_what_to_do():
    program = [sys.executable, '-m', 'vqbet_ros.ros.recorder_keys']
    result = subprocess.run(
        program, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert 'needs a terminal' in result.stderr
    assert 'ros2 service call' in result.stderr
