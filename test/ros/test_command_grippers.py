"""Grippers behind actions: real action servers that are slow, refuse, fall silent or die."""

from dataclasses import replace
import gc
import itertools
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from command_parts import ACTION, GRIPPER, needed, NOW_NS, PERIOD_NS, until
import rclpy
from rclpy.action.server import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.task import Future
from vqbet_ros.ros.commands.commands import Commands
from vqbet_ros.ros.commands.gripper_action import GripperAction
from vqbet_ros.spec import GripperCommand

pytestmark = pytest.mark.ros
pytest_plugins = ['command_rig']

PLAIN = GripperCommand('gripper_command', '/jaw/gripper_cmd', min_change=0.1, max_rate_hz=10.0)
PARALLEL = replace(PLAIN, interface='parallel_gripper_command')
KINDS = {
    'gripper_command': 'control_msgs/action/GripperCommand',
    'parallel_gripper_command': 'control_msgs/action/ParallelGripperCommand',
}
TICK_NS = 10_000_000
PAUSE_NS = 100_000_000  # between two goals at most


class Server:
    """An action server of a gripper: takes every goal, and is done with it at once.

    Attributes:
        goals: What was asked for.
        refuse: Reject goals.
        answering: While it is cleared, goals wait for their answer.
        closing: While it is cleared, goals that were taken are not done.
    """

    def __init__(self, graph, kind):
        self.goals = []
        self.refuse = False
        self.answering, self.closing = threading.Event(), threading.Event()
        self.answering.set()
        self.closing.set()
        self.node = rclpy.create_node('gripper', context=graph.context)
        self._kind = kind
        self._executor = MultiThreadedExecutor(4, context=graph.context)
        self._server = ActionServer(
            self.node,
            kind,
            PLAIN.topic,
            self._close,
            goal_callback=self._answer,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=ReentrantCallbackGroup(),
            result_timeout=0,  # s: what is done is forgotten
        )
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _answer(self, goal):
        self.goals.append(goal)
        self.answering.wait(20.0)
        return GoalResponse.REJECT if self.refuse else GoalResponse.ACCEPT

    def _close(self, handle):
        self.closing.wait(20.0)
        handle.succeed()
        return self._kind.Result()

    def die(self):
        self.answering.set()
        self.closing.set()
        self._executor.shutdown()
        self._thread.join(20.0)
        self._server.destroy()
        self.node.destroy_node()


@pytest.fixture
def serve(graph):
    """Start a gripper."""
    servers = []

    def start(command=PLAIN):
        servers.append(Server(graph, needed(KINDS[command.interface])))
        return servers[-1]

    yield start
    for server in servers[-1:]:
        server.die()


@pytest.fixture
def gripper(sender):
    """Make what commands it."""
    made = []

    def make(command=PLAIN):
        one = GripperAction(GRIPPER, command)
        made.append(one)
        one.configure(sender)
        return one

    yield make
    for one in made:
        one.close()
        one.close()


class Ticks:
    """The control thread: asks for a target at each tick, by a clock of its own."""

    def __init__(self, gripper, now_ns=NOW_NS):
        self.gripper, self.now_ns, self.target = gripper, now_ns, 0.0

    def go(self, ticks=1):
        for _ in range(ticks):
            self.now_ns += TICK_NS
            self.gripper.send(np.array([self.target]), self.now_ns)

    def until(self, condition, what):
        """Tick until something has come."""

        def come():
            self.go()
            return condition()

        until(come, what)


def test_goals_are_sent_on_change_and_nothing_waits_for_them(serve, gripper):
    server, ticks = serve(), Ticks(gripper(replace(PLAIN, max_effort=20.0)))
    server.closing.clear()  # a gripper that takes its time
    for target in (0.2, 0.25, 0.9):
        ticks.target = target
        ticks.until(lambda t=target: server.goals or t != 0.2, 'a goal')
        ticks.go(PAUSE_NS // TICK_NS)
    ticks.until(lambda: len(server.goals) > 1, 'another goal')
    ticks.go(100)
    commands = [goal.command for goal in server.goals]
    assert [(one.position, one.max_effort) for one in commands] == [(0.2, 20.0), (0.9, 20.0)]
    # The same target is sent again after a stop: others may have moved the gripper.
    ticks.gripper.stop(ticks.now_ns)
    ticks.until(lambda: len(server.goals) == 3, 'the goal again')
    assert server.goals[2].command.position == 0.9
    assert ticks.gripper.rejected == ticks.gripper.unanswered == 0


@pytest.mark.parametrize('max_effort', [None, 5.0])
def test_goals_of_parallel_grippers(serve, gripper, max_effort):
    server = serve(PARALLEL)
    ticks = Ticks(gripper(replace(PARALLEL, max_effort=max_effort)))
    ticks.target = 0.3
    ticks.until(lambda: server.goals, 'a goal')
    state = server.goals[0].command
    assert (list(state.name), list(state.position)) == (['jaw'], [0.3])
    assert list(state.velocity) == []
    assert list(state.effort) == ([] if max_effort is None else [max_effort])


def test_a_slow_gripper_gets_the_newest_target_and_no_queue(serve, gripper):
    server, ticks = serve(), Ticks(gripper())
    server.answering.clear()
    ticks.target = 0.2
    ticks.until(lambda: server.goals, 'a goal')
    for ticks.target in (0.4, 0.6, 0.8):
        ticks.go(PAUSE_NS // TICK_NS)
    assert len(server.goals) == 1
    server.answering.set()
    ticks.until(lambda: len(server.goals) > 1, 'the newest target')
    ticks.go(100)
    assert [goal.command.position for goal in server.goals] == [0.2, 0.8]


def test_rejected_goals_are_sent_again_but_not_too_often(serve, gripper):
    server, ticks = serve(), Ticks(gripper())
    server.refuse, ticks.target = True, 0.5
    ticks.until(lambda: ticks.gripper.rejected == 1, 'a rejection')
    began_ns = ticks.now_ns
    ticks.until(lambda: ticks.gripper.rejected == 5, 'more rejections')
    assert ticks.now_ns - began_ns >= 3 * PAUSE_NS
    server.refuse = False
    sent = ticks.gripper.rejected
    ticks.until(lambda: len(server.goals) > sent, 'a goal that is taken')
    until(lambda: ticks.gripper._asked[0].done(), 'its answer')
    taken = len(server.goals)
    ticks.go(200)
    assert len(server.goals) == taken
    assert {goal.command.position for goal in server.goals} == {0.5}


def test_a_gripper_that_died_is_told_again_when_it_is_back(serve, gripper):
    first, ticks = serve(), Ticks(gripper())
    ticks.target = 0.5
    ticks.until(lambda: first.goals, 'a goal')
    first.die()
    ticks.until(lambda: not ticks.gripper._client.service_is_ready(), 'its end')
    ticks.go(10)
    second = serve()
    ticks.until(lambda: second.goals, 'the target, which has not changed')
    assert second.goals[0].command.position == 0.5
    assert len(first.goals) == 1


def test_a_goal_that_nobody_answers_is_sent_again(graph, gripper, sender):
    kind = needed(KINDS[PLAIN.interface])
    silent = rclpy.create_node('silent', context=graph.context)  # nothing spins it
    server: Any = ActionServer(silent, kind, PLAIN.topic, lambda _: None)
    one = gripper()
    until(one._client.service_is_ready, 'the server')
    ticks = Ticks(one)
    ticks.go(round(2e9 / TICK_NS))
    assert one.unanswered == 0
    ticks.go(2)
    assert one.unanswered == 1
    one.close()  # with a goal under way
    assert one._client not in list(sender.clients)
    server.destroy()
    silent.destroy_node()


def test_nothing_is_kept_of_goals(serve, gripper, sender):
    before = len(list(sender.clients)), len(list(sender.waitables))
    server, ticks = serve(), Ticks(gripper())

    def ask(count):
        for _ in range(count):
            ticks.target = 1.0 - ticks.target
            ticks.now_ns += PAUSE_NS
            wanted = len(server.goals) + 1
            ticks.until(lambda wanted=wanted: len(server.goals) == wanted, 'a goal')
        until(lambda: ticks.gripper._asked[0].done(), 'the last answer')
        gc.collect()
        return sum(isinstance(one, Future) for one in gc.get_objects())

    few = ask(5)
    assert ask(60) <= few + 20
    ticks.gripper.close()
    assert (len(list(sender.clients)), len(list(sender.waitables))) == before


def test_the_gripper_of_an_arm_has_its_number(sender, serve):
    server = serve(PARALLEL)
    commands = Commands(replace(ACTION, gripper=replace(GRIPPER, command=PARALLEL)), PERIOD_NS)
    commands.configure(sender)
    now_ns = itertools.count(NOW_NS, PERIOD_NS)

    def told():
        commands.send(np.array([0.1, 0.2, 0.7]), next(now_ns))
        return server.goals

    until(told, 'a goal')
    assert list(server.goals[0].command.position) == [0.7]
    commands.close()
    assert not [c for c in sender.clients if 'send_goal' in c.srv_name]
