"""A policy_node that drives the arm of fault_robot, and the record of all that it commanded."""

from collections.abc import Callable, Iterator
import itertools
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from fault_judge import Judge, Row, same, seconds, Tick
from fault_robot import Arm, Circle
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import pytest
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger
from vqbet_ros.ros.policy_node import PolicyNode
from vqbet_ros.runtime.supervisor import State
from vqbet_ros.spec import RobotSpec

SLACK_S = 0.5  # what a busy machine may add to any time: threads that wait for their turn
TIMEOUT_S = 20.0
STANDING = 5  # ticks


class Rig:
    """One node, its robot, and its record.

    Args:
        graph: Where both are added.
        monkeypatch: Of the test.
        policy: The policy, with its spec.
        values: Turns a DiagnosticStatus into a mapping.
        parameters: Of the node.

    Attributes:
        arm: The robot.
        judge: Knows its limits.
        ticks: Of the control thread, since the node was configured.
        status: What the node says.
        slack_s: What may be added to any time.
    """

    def __init__(
        self,
        graph: Any,
        monkeypatch: Any,
        policy: Circle,
        values: Callable[[Any], dict[str, str]],
        **parameters: Any,
    ) -> None:
        self.graph, self.policy, self.slack_s = graph, policy, SLACK_S
        self.spec: RobotSpec = policy.spec
        self.arm, self.judge = Arm(graph, self.spec, (0.5, -0.7)), Judge(self.spec)
        self.ticks: list[Tick] = []
        self.status = graph.listen(DiagnosticStatus, '/policy_node/status')
        self._values, self._monkeypatch = values, monkeypatch
        self._news = threading.Condition()
        given = {'checkpoint': 'stand-in', 'plan_every': 3, **parameters}
        self.node: PolicyNode = graph.add(
            PolicyNode(
                load=lambda checkpoint, device, threads: policy,
                context=graph.context,
                parameter_overrides=[Parameter(name, value=v) for name, v in given.items()],
            )
        )

    def name_of(self, topic: str) -> str:
        """Return the name of the stream of a topic."""
        return str(next(part.stream for part in self.spec.streams if part.topic == topic))

    # What a person does

    def change(self, transition: int) -> bool:
        """Ask for a transition of the lifecycle."""
        request = ChangeState.Request(transition=Transition(id=transition))
        answer = self.graph.call(ChangeState, '/policy_node/change_state', request).success
        if answer and transition == Transition.TRANSITION_CONFIGURE:
            self._note_ticks()
        return bool(answer)

    def lifecycle(self) -> int:
        """Return the state of the lifecycle."""
        return int(self.graph.call(GetState, '/policy_node/get_state').current_state.id)

    def enable(self, on: bool = True) -> Any:
        return self.graph.call(SetBool, '/policy_node/enable', SetBool.Request(data=on))

    def reset(self) -> Any:
        return self.graph.call(Trigger, '/policy_node/reset')

    def set(self, name: str, value: Any) -> Any:
        """Set a parameter."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        return self.graph.call(SetParameters, '/policy_node/set_parameters', request).results[0]

    def activate(self) -> None:
        assert self.change(Transition.TRANSITION_CONFIGURE)
        assert self.change(Transition.TRANSITION_ACTIVATE)

    def go(self) -> None:
        """Enable as soon as all streams are there, and wait until the robot moves."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (answer := self.enable()).success:
            assert time.monotonic() < deadline, answer.message
            self.wait_ticks(2)
        self.wait_motion()

    def recover(self) -> None:
        """Reset a fault as soon as its cause is gone, and go on."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (answer := self.reset()).success:
            assert time.monotonic() < deadline, answer.message
            self.wait_ticks(2)
        self.go()

    def start(self) -> 'Rig':
        """Bring the robot into motion."""
        self.activate()
        self.go()
        return self

    # What is waited for

    def wait(self, state: str, reason: str = '') -> Any:
        """Wait for a status, also one that has come since it was cleared."""
        return self.status.wait(
            lambda s: self._values(s)['state'] == state and reason in self._values(s)['reason'],
            what=f"'{state}' for '{reason}'",
        )

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for what a tick brings about."""
        with self._news:
            if not self._news.wait_for(condition, TIMEOUT_S):
                last = self.ticks[-1].outcome if self.ticks else 'none'
                pytest.fail(f'{what}: not within {TIMEOUT_S:g} s; the last tick: {last}')

    def wait_ticks(self, count: int) -> None:
        """Wait for so many more ticks."""
        end = len(self.ticks) + count
        self.until(lambda: len(self.ticks) >= end, f'{count} ticks')

    def wait_motion(self) -> None:
        """Wait until the policy moves the robot: faster than half of its limit."""
        begin = len(self.ticks)

        def moves() -> bool:
            recent = self.ticks[begin:][-10:]
            if len(recent) < 10 or not all(tick.is_policy for tick in recent):
                return False
            first, last = recent[0].outcome.values, recent[-1].outcome.values
            if self.spec.action.is_velocity:
                return bool((np.abs(last) > 0.5 * self.judge.high).any())
            fast = 0.5 * self.judge.velocity * seconds(recent[1:])
            return bool((np.abs(last - first) > fast).any())

        self.until(moves, 'in motion')

    def wait_rest(self) -> None:
        """Wait until the robot stands, because it was stopped."""

        def rests() -> bool:
            recent = self.ticks[-STANDING:]
            still = all(same(tick.values, recent[0].values) for tick in recent)
            return still and not any(tick.is_policy for tick in recent)

        self.until(rests, 'at rest')

    # What is judged

    def suffer(self, cause: Callable[[], Any], state: str, reason: str) -> Row:
        """Cause a fault while the robot moves, wait for what it leads to, and for standstill."""
        self.wait_motion()
        self.status.clear()
        began_s, first, heard = time.monotonic(), len(self.ticks), len(self.arm.commands)
        cause()
        self.wait(state, reason)
        self.wait_rest()
        return self.row(began_s, first, heard, reason)

    def row(self, began_s: float, first: int, heard: int, what: str) -> Row:
        """Return what became of the robot, with all limits checked.

        Args:
            began_s: When it began, by the monotonic clock.
            first: The first tick afterwards.
            heard: How many commands had come until then.
            what: What began.
        """
        self.check_limits()
        commands = self.arm.commands[max(0, heard - 1) :]
        pairs = itertools.pairwise(commands)
        changes = [now[0] for before, now in pairs if before[1].data != now[1].data]
        numbers = [np.array(message.data) for _, message in list(self.arm.commands)]
        worst = self.judge.worst_step(self.ticks, numbers, first)
        row = Row(worst, max(changes, default=began_s) - began_s, self.ticks[first:])
        print(f'{what} | {row.worst_step:.2f} | {row.standstill_s:.2f} s')  # with pytest -s
        return row

    def check_limits(self) -> None:
        """Check every tick so far."""
        self.judge.check(self.ticks)

    def check_stop(self, row: Row, noticed_s: float) -> None:
        """Check the time to standstill.

        Args:
            row: Of the fault.
            noticed_s: Longest time until it is noticed.
        """
        assert row.standstill_s <= noticed_s + self.judge.stop_s + SLACK_S
        self.judge.check_stop(row.ticks)

    def _note_ticks(self) -> None:
        """Let every tick of the supervisor leave a note."""
        assert self.node.pipeline is not None
        supervisor = self.node.pipeline.supervisor
        decide, before, period_s = supervisor.tick, [0], self.judge.period_s

        def tick(now_ns: int, reasons: Any = (), facts: Any = None) -> Any:
            outcome = decide(now_ns, reasons, facts)
            clock_ns = now_ns if facts.steady_ns is None else facts.steady_ns
            # Simulated time may stand still, and is counted anew from each enabling on.
            last = self.ticks[-1].outcome if self.ticks else None
            idle = getattr(last, 'state', None) in (State.DISARMED, State.FAULT)
            anew = facts.steady_ns is None and idle
            goes_on = before[0] and clock_ns != before[0] and not anew
            step_s = max(0, clock_ns - before[0]) / 1e9 if goes_on else period_s
            before[0] = clock_ns
            late = facts.course and round(step_s / period_s) > 1
            if not late:
                step_s = min(max(step_s, 0.5 * period_s), 2.0 * period_s)
            with self._news:
                self.ticks.append(Tick(time.monotonic(), step_s, facts.measured, outcome, late))
                self._news.notify_all()
            return outcome

        self._monkeypatch.setattr(supervisor, 'tick', tick)


@pytest.fixture
def rig(graph, monkeypatch, values) -> Iterator[Callable[..., Rig]]:
    """Build rigs that end with the test."""
    rigs = []

    def build(spec: RobotSpec | None = None, policy: Circle | None = None, **parameters) -> Rig:
        policy = policy or (Circle() if spec is None else Circle(spec))
        rigs.append(Rig(graph, monkeypatch, policy, values, **parameters))
        return rigs[-1]

    yield build
    for one in rigs:
        one.node.close()
