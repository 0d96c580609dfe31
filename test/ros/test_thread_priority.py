"""Real-time priority for the threads that must be in time, as long as the node is active."""

import os
import threading

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from lifecycle_msgs.msg import Transition
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
def test_control_goes_first_then_the_caller_and_their_children_are_ordinary(control):
    def work():
        caller = threading.get_native_id()
        warnings: list[str] = []
        threads = ThreadPriority(warnings.append)
        threads.begin(control, PRIORITY)
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
    in_thread(lambda: threads.begin(None, PRIORITY))
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
        threads.begin(control, PRIORITY)
        threads.end()
    assert asked == [control] * 2
    (warning,) = warnings
    assert f'thread_priority {PRIORITY}' in warning
    assert 'Operation not permitted' in warning


def test_priority_0_asks_for_nothing(control, monkeypatch):
    monkeypatch.setattr(os, 'sched_setscheduler', lambda *_: pytest.fail('asked'))
    ThreadPriority(pytest.fail).begin(control, 0)


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
        (executor, control) = preferred()
        assert control == (PRIORITY, 'control')
        assert executor[0] == PRIORITY - 1
        assert one.change(Transition.TRANSITION_DEACTIVATE)
        assert preferred() == []
