"""A policy in a process of its own decides as it does here, and its end is noticed."""

from dataclasses import replace
from multiprocessing import Pipe
import os
import signal
import subprocess
import sys
import threading

from engine_parts import CONFIG, GOALS, make_engine, Recording
import numpy as np
import pytest
from vqbet_ros.errors import ConfigError, VqbetError
from vqbet_ros.policy.checkpoint import save_checkpoint
from vqbet_ros.policy.engine import Engine
from vqbet_ros.policy.remote import EngineProcess, PolicyLost, RemoteTraceback
from vqbet_ros.policy.server import _sendable, Server

TIMEOUT_S = 20.0


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('checkpoint') / 'tiny'
    policy = make_engine(replace(CONFIG, temperature=2.0)).policy
    save_checkpoint(path, policy, card='random weights', training={})
    return path


@pytest.fixture(scope='module')
def there(checkpoint):
    """Start one process for all tests: it has to import torch."""
    engine = EngineProcess(str(checkpoint), 'cpu', threads=1)
    yield engine
    engine.close()


def test_it_decides_as_the_engine_does(there, checkpoint):
    here, recording = Engine.load(checkpoint, threads=1), Recording()
    facts = ('spec', 'history', 'chunk', 'goal_steps', 'goal_state')
    assert [getattr(there, name) for name in facts] == [getattr(here, name) for name in facts]
    assert there.where == 'cpu, PyTorch'

    def compare(step, running=None, **changes):
        observation = recording.observation(step, **changes)
        one, other = (
            engine.plan(observation, running=running, hysteresis=0.2) for engine in (here, there)
        )
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(other, name), value, err_msg=name)

    for engine in (here, there):
        engine.warm_up()
    for step in range(5):
        compare(step)
    goal = {name: images[:GOALS] for name, images in recording.images.items()}
    for images in (goal, None):
        for engine in (here, there):
            engine.reset()
            engine.set_goal(images, recording.state[:GOALS])
        for step in (4, 5, 6):
            compare(step, running=1, missing=(step - 1,), start=3)


def test_a_picture_travels_once(there):
    recording, sent = Recording(), []
    connection = there._connection

    class Counting:
        def send(self, message):
            sent.append(message)
            connection.send(message)

        recv = connection.recv

    there._connection = Counting()
    pictures = []
    for step in range(5):
        sent.clear()
        there.plan(recording.observation(step, start=0))
        pictures.append(sum(isinstance(message, np.ndarray) for message in sent))
    assert pictures == [2] * 5  # one of each camera
    sent.clear()
    there.look(recording.observation(5))
    assert sum(isinstance(message, np.ndarray) for message in sent) == 2
    sent.clear()
    there.plan(recording.observation(5))
    assert not any(isinstance(message, np.ndarray) for message in sent)
    there.reset()
    there.plan(recording.observation(4, start=2))
    assert sum(isinstance(message, np.ndarray) for message in sent) == 2 * 3


def test_a_mistake_arrives_as_it_is_and_the_next_question_is_answered(there):
    recording = Recording()
    with pytest.raises(ConfigError, match='the goal does not fit the policy: camera top'):
        there.set_goal({}, None)
    with pytest.raises(ValueError, match='the newest step of an observation') as caught:
        there.plan(recording.observation(2, missing=(2,)))
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert 'engine.py' in str(caught.value.__cause__)
    assert there.plan(recording.observation(3)).actions.shape == (CONFIG.chunk, 2)


def test_signals_of_a_terminal_do_not_end_it(there):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(there.pid, number)
    assert there.plan(Recording().observation(3)).codes.shape == (2,)


def test_closing_ends_one_that_hangs_and_its_end_is_noticed(checkpoint):
    engine, raised = EngineProcess(str(checkpoint), 'cpu', threads=1), []

    def ask():
        try:
            engine.plan(Recording().observation(3))
        except PolicyLost as error:
            raised.append(str(error))

    os.kill(engine.pid, signal.SIGSTOP)
    thread = threading.Thread(target=ask)
    thread.start()
    engine.close()
    engine.close()
    thread.join(TIMEOUT_S)
    ask()
    wanted = 'the process of the policy was ended by signal 9; configure the node anew'
    assert raised == [wanted] * 2


def test_it_does_not_outlive_who_started_it(checkpoint):
    program = (
        'import os, sys\n'
        'from vqbet_ros.policy.remote import EngineProcess\n'
        f'engine = EngineProcess({str(checkpoint)!r}, "cpu", 1)\n'
        'assert "torch" not in sys.modules\n'
        'print(engine.pid, flush=True)\n'
        'os.kill(os.getpid(), 9)\n'
    )
    # Its standard output stays open as long as one of the two processes lives.
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert int(done.stdout) > 0


def test_errors_of_classes_that_may_be_unknown_are_told_in_words():
    class Local(Exception):
        pass

    assert isinstance(_sendable(VqbetError('a')), VqbetError)
    told = _sendable(Local('why'))
    assert type(told) is RuntimeError
    assert str(told) == 'Local: why'


class Failing(Server):
    """Comes to what is hard to tell."""

    def _reset(self):
        raise EOFError('a file ends too early')

    def _warm_up(self):
        return threading.Lock()

    def _set_goal(self, images, state):
        raise ValueError(threading.Lock())


def test_only_a_closed_connection_ends_it():
    here, there = Pipe()
    thread = threading.Thread(target=Failing(there).serve)
    thread.start()
    for name, arguments, kind, text in (
        ('reset', (), EOFError, 'a file ends too early'),
        ('warm_up', (), RuntimeError, 'what warm_up came to cannot be sent: TypeError'),
        ('set_goal', (None, None), RuntimeError, 'ValueError: <unlocked _thread.lock'),
    ):
        here.send((name, arguments))
        assert here.poll(TIMEOUT_S), name
        answer, (error, trace) = here.recv()
        assert (answer, type(error)) == ('error', kind)
        assert text in str(error)
        assert 'Traceback' in trace
    here.close()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    there.close()
