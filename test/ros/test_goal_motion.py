"""policy_node gets another goal while its robot moves, over real topics."""

from dataclasses import dataclass, replace
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64MultiArray, Header
from std_srvs.srv import SetBool
from vqbet_ros.resources import resource
from vqbet_ros.ros.policy_node import PolicyNode
from vqbet_ros.runtime.gate import ReasonKind
from vqbet_ros.runtime.outcome import Hold
from vqbet_ros.spec import JointLimits, RobotSpec

pytestmark = pytest.mark.ros

VELOCITY, ACCELERATION, RATE_HZ = 150.0, 600.0, 50.0
_PUSHT = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
_LIMITS = JointLimits((0.0, 512.0), VELOCITY, ACCELERATION)
SPEC = replace(
    _PUSHT,
    action=replace(_PUSHT.action, limits={'x': _LIMITS, 'y': _LIMITS}),
    # The machine may be busy.
    cameras=tuple(replace(camera, max_age_s=2.0) for camera in _PUSHT.cameras),
    state=tuple(replace(part, max_age_s=2.0) for part in _PUSHT.state),
)
START, FIRST, SECOND = 100, 200, 50


@dataclass(frozen=True)
class Output:
    actions: np.ndarray
    codes: np.ndarray
    confidence: float = 0.5


class Follower:
    """Goes at 100 px/s to the place that the goal's grey says; waits where it is told to."""

    where = 'a test'

    def __init__(self):
        self.spec, self.history, self.chunk = SPEC, 2, 10
        self.goal_steps, self.goal_state = 1, False
        self.target = float(FIRST)
        self.may_encode, self.may_plan = threading.Event(), threading.Event()
        self.may_encode.set()
        self.may_plan.set()
        self.encodes, self.plans = threading.Event(), threading.Event()
        self.resets = 0
        self.seen: list[Any] = []  # target and validity of each plan

    def reset(self):
        self.resets += 1

    def warm_up(self):
        pass

    def close(self):
        pass

    def set_goal(self, images, state=None):
        if images is not None:
            self.encodes.set()
            assert self.may_encode.wait(20.0)
            self.target = float(images['top'][0, 0, 0, 0])

    def look(self, observation):
        pass

    def plan(self, observation, **_):
        if not self.may_plan.is_set():
            self.plans.set()
            assert self.may_plan.wait(20.0)
        self.seen.append((self.target, observation.valid.tolist()))
        at = observation.state[-1].astype(np.float64)
        way = self.target - at
        steps = np.minimum(10.0 * np.arange(1, 11), np.abs(way).max())  # px
        far = max(np.abs(way).max(), 1e-9)
        actions = at + steps[:, None] * way / far
        return Output(actions.astype(np.float32), np.zeros(2, np.int64))


class Rig:
    """A robot that does what it is told at once, the node, and the operator."""

    def __init__(self, graph):
        self.graph, self.engine = graph, Follower()
        self.ticks: list[tuple[int, Any]] = []  # time of the steady clock, what was decided
        self.news = threading.Condition()
        self.position = np.full(2, float(START))
        self.status = graph.listen(DiagnosticStatus, '/policy_node/status')
        node = graph.node
        node.create_subscription(
            Float64MultiArray, SPEC.action.command_topic, self._on_command, 10
        )
        self._images = node.create_publisher(Image, SPEC.cameras[0].topic, 5)
        self._joints = node.create_publisher(JointState, SPEC.state[0].topic, 5)
        self.goal = node.create_publisher(Image, '/policy_node/goal/image/top', 1)
        self.estop = node.create_publisher(Bool, '/policy_node/estop', 1)
        node.create_timer(0.1, lambda: self._images.publish(self.picture(0)))
        node.create_timer(0.01, self._send_joints)
        self.node: Any = PolicyNode(
            load=lambda *_: self.engine,
            context=graph.context,
            parameter_overrides=[
                Parameter(name, value=value)
                for name, value in (
                    ('checkpoint', 'stand-in'),
                    ('control_rate_hz', RATE_HZ),
                    ('plan_every', 1),
                )
            ],
        )
        graph.add(self.node)

    def header(self):
        return Header(stamp=self.graph.node.get_clock().now().to_msg())

    def picture(self, grey):
        data = np.full((96, 96, 3), grey, np.uint8).tobytes()
        return Image(
            header=self.header(), height=96, width=96, encoding='rgb8', step=288, data=data
        )

    def start(self):
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=transition))
            assert self.graph.call(ChangeState, '/policy_node/change_state', request).success
            if transition == Transition.TRANSITION_CONFIGURE:
                self.watch_ticks()
        self.status.wait(lambda s: 'disarmed' in s.message and 'data' not in s.message)
        self.wait(lambda: self.goal.get_subscription_count() == 1)
        answer = self.graph.call(SetBool, '/policy_node/enable', SetBool.Request(data=True))
        assert answer.success, answer.message
        return self

    def wait(self, condition):
        with self.news:
            assert self.news.wait_for(condition, 20.0), self.node.pipeline.recent

    def watch_ticks(self):
        """Take note of every tick, as the supervisor times it."""
        supervisor = self.node.pipeline.supervisor
        tick = supervisor.tick

        def noted(now_ns, reasons, facts):
            outcome = tick(now_ns, reasons, facts)
            self.ticks.append((facts.steady_ns, outcome))
            return outcome

        supervisor.tick = noted

    def _on_command(self, message):
        with self.news:
            self.position = np.array(message.data)
            self.news.notify_all()

    def _send_joints(self):
        position = self.position.tolist()
        message = JointState(header=self.header(), name=['x', 'y'], position=position)
        self._joints.publish(message)
        with self.news:
            self.news.notify_all()


@pytest.fixture
def rig(graph):
    made = Rig(graph)
    yield made
    made.engine.may_encode.set()
    made.engine.may_plan.set()
    made.node.close()


def test_a_goal_image_turns_a_robot_that_moves(rig):
    rig.start()
    engine = rig.engine
    rig.wait(lambda: rig.position[0] > START + 30)
    epoch = rig.node.pipeline.supervisor.epoch
    # While the goal is encoded, the robot goes on to the old one.
    engine.may_encode.clear()
    rig.goal.publish(rig.picture(SECOND))
    assert engine.encodes.wait(20.0)
    before = rig.position[0]
    rig.wait(lambda: rig.position[0] > before + 15)
    # Then nothing but slowing down, until a chunk for the new goal is there.
    engine.may_plan.clear()
    engine.may_encode.set()
    rig.wait(lambda: rig.node.pipeline.supervisor.epoch == epoch + 1)
    changed = len(rig.ticks)
    assert engine.plans.wait(20.0)
    rig.wait(lambda: len(rig.ticks) > changed + 25)
    waiting = [outcome for _, outcome in rig.ticks[changed + 2 :]]
    assert all(isinstance(outcome, Hold) for outcome in waiting)
    assert {outcome.reasons[0].kind for outcome in waiting} == {ReasonKind.NO_PLAN}
    engine.may_plan.set()
    rig.wait(lambda: abs(rig.position[0] - SECOND) < 1.0)
    times_ns, outcomes = zip(*rig.ticks, strict=True)
    moves = [
        # A tick is taken to be half its period long at least.
        (outcome.values - before.values, max((later_ns - at_ns) / 1e9, 0.5 / RATE_HZ))
        for at_ns, later_ns, before, outcome in zip(
            times_ns, times_ns[1:], outcomes, outcomes[1:], strict=False
        )
        if before.values is not None and outcome.values is not None
    ]
    assert len(moves) > 50
    assert all(np.abs(step).max() <= VELOCITY * tick_s * (1 + 1e-6) for step, tick_s in moves)
    # What was seen before belongs to the run still: the policy has its history at once.
    first = next(valid for target, valid in engine.seen if target == SECOND)
    assert first == [True, True]
    assert engine.resets == 1


def test_an_emergency_stop_does_not_wait_for_a_goal(rig):
    rig.start()
    rig.wait(lambda: rig.position[0] > START + 30)
    rig.engine.may_encode.clear()
    rig.goal.publish(rig.picture(SECOND))
    assert rig.engine.encodes.wait(20.0)
    rig.estop.publish(Bool(data=True))
    rig.status.wait(lambda s: 'emergency stop' in s.message)
    assert not rig.engine.may_encode.is_set()
