"""Real-time priority for the threads that must be in time, as long as the node is active."""

import itertools
import os
import threading
import time

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

import cv2
import fault_robot as fault
from lifecycle_msgs.msg import Transition
import numpy as np
from vqbet_ros.ros.thread_priority import ThreadPriority

pytest_plugins = ['fault_rig']
PRIORITY = 7


def kind(thread):
    return os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK


def priority(thread):
    return os.sched_getparam(thread).sched_priority


def in_thread(work):
    """Return what work returns in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture
def allowed():
    """Skip where the system gives real-time priority to nobody."""

    def ask():
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError as error:
            return str(error)
        return ''

    refused = in_thread(ask)
    if refused:
        pytest.skip(f'real-time priority: {refused}; needs CAP_SYS_NICE or rtprio')


@pytest.fixture
def control():
    """Give the id of a thread that waits."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    yield thread.native_id
    end.set()
    thread.join()


@pytest.mark.usefixtures('allowed')
def test_each_thread_is_one_less_and_their_children_are_ordinary(control):
    def work():
        caller = threading.get_native_id()
        warnings: list[str] = []
        threads = ThreadPriority(warnings.append)
        threads.begin([control, caller], PRIORITY)
        during = [(kind(thread), priority(thread)) for thread in (control, caller)]
        child = in_thread(lambda: kind(0))
        threads.end()
        return during, child, [kind(thread) for thread in (control, caller)], warnings

    during, child, after, warnings = in_thread(work)
    assert during == [(os.SCHED_FIFO, PRIORITY), (os.SCHED_FIFO, PRIORITY - 1)]
    assert child == os.SCHED_OTHER
    assert after == [os.SCHED_OTHER] * 2
    assert warnings == []


@pytest.mark.usefixtures('allowed')
def test_a_thread_that_has_ended_is_let_go():
    threads = ThreadPriority(pytest.fail)
    in_thread(lambda: threads.begin([threading.get_native_id()], PRIORITY))
    threads.end()  # of a thread that is gone


def test_where_it_is_not_allowed_one_warning_says_so(control, monkeypatch):
    asked = []

    def refuse(thread, policy, param):
        asked.append(thread)
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'sched_setscheduler', refuse)
    warnings: list[str] = []
    threads = ThreadPriority(warnings.append)
    for _ in range(2):
        threads.begin([control], PRIORITY)
        threads.end()
    assert asked == [control] * 2
    (warning,) = warnings
    assert f'thread_priority {PRIORITY}' in warning
    assert 'Operation not permitted' in warning


def test_priority_0_asks_for_nothing(control, monkeypatch):
    monkeypatch.setattr(os, 'sched_setscheduler', lambda *_: pytest.fail('asked'))
    ThreadPriority(pytest.fail).begin([control], 0)


@pytest.mark.ros
@pytest.mark.usefixtures('allowed')
def test_a_nodes_threads_while_it_is_active(rig):
    one = rig(thread_priority=PRIORITY)

    def preferred():
        threads = {thread.native_id: thread.name for thread in threading.enumerate()}
        return sorted(
            (priority(thread), name)
            for thread, name in threads.items()
            if kind(thread) == os.SCHED_FIFO
        )

    assert one.change(Transition.TRANSITION_CONFIGURE)
    assert preferred() == []
    for _ in range(2):
        assert one.change(Transition.TRANSITION_ACTIVATE)
        inference, executor, control = preferred()
        assert control == (PRIORITY, 'control')
        assert executor[0] == PRIORITY - 1
        assert inference == (PRIORITY - 2, 'inference')
        assert one.change(Transition.TRANSITION_DEACTIVATE)
        assert preferred() == []


@pytest.mark.ros
@pytest.mark.usefixtures('allowed')
def test_a_goal_is_encoded_by_an_ordinary_thread(rig, tmp_path, monkeypatch):
    policy, kinds = fault.Circle(goal_steps=1), []
    one = rig(policy=policy, thread_priority=PRIORITY)
    one.activate()
    monkeypatch.setattr(policy, 'set_goal', lambda *_: kinds.append(kind(0)))
    camera = fault.SPEC.cameras[0]
    cv2.imwrite(str(tmp_path / 'goal.png'), np.zeros((camera.height, camera.width, 3), np.uint8))
    assert one.set('goal', str(tmp_path / 'goal.png')).successful  # disarmed: the answer waits
    assert kinds == [os.SCHED_OTHER]


@pytest.mark.ros
def test_ticks_that_take_longer_than_their_period_leave_something_to_others(rig, monkeypatch):
    one, times = rig(), []
    one.activate()
    decide = one.node.pipeline.supervisor.tick

    def tick(*arguments):
        begin_s = time.monotonic()
        outcome = decide(*arguments)
        while time.monotonic() - begin_s < 2 * one.judge.period_s:
            pass
        times.append((begin_s, time.monotonic()))
        return outcome

    monkeypatch.setattr(one.node.pipeline.supervisor, 'tick', tick)
    one.wait_ticks(20)
    rests_s = [begin - end for (_, end), (begin, _) in itertools.pairwise(times)]
    assert min(rests_s) >= 0.09 * one.judge.period_s
