"""Grippers behind an action of control_msgs: GripperCommand, or ParallelGripperCommand.

A goal is sent and not waited for: a gripper's controller drops its goal for a newer one. Of an
action, that takes only the service that goals go to. rclpy's ActionClient would also decode the
feedback, loses answers that come at once (until October 2025), and in Kilted keeps something of
each goal for ever.
"""

import functools
from typing import Any
import uuid

import numpy as np
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import JointState
from vqbet_ros.ros.commands.messages import message_type
from vqbet_ros.ros.commands.plain import GripperGate
from vqbet_ros.spec import GripperCommand, GripperSpec

_TYPES = {
    'gripper_command': 'control_msgs/action/GripperCommand',
    'parallel_gripper_command': 'control_msgs/action/ParallelGripperCommand',
}
_WARN_EVERY_NS = 5_000_000_000
_PATIENCE_NS = 2_000_000_000  # until a goal that was not answered is sent again


class GripperAction:
    """`gripper_command` and `parallel_gripper_command`.

    Args:
        gripper: The gripper; its name is the joint's.
        command: How it is commanded.

    Attributes:
        rejected: Goals that the gripper did not take.
        unanswered: Goals that it neither took nor rejected.
    """

    def __init__(self, gripper: GripperSpec, command: GripperCommand) -> None:
        self._gripper, self._command = gripper, command
        self._gate = GripperGate(command, gripper.limits.position)
        self._node: LifecycleNode | None = None
        self._type: Any = None
        self._asked: tuple[Any, int] | None = None  # the newest goal, and when it was sent
        self._warned_ns: dict[str, int] = {}
        self.rejected = self.unanswered = 0

    @property
    def problem(self) -> str | None:
        """A gripper that is not there holds nothing up: the warning says so."""
        return None

    def configure(self, node: LifecycleNode) -> None:
        """Create the client.

        Raises:
            UnknownType: control_msgs is not installed, or has no such action.
        """
        interface = self._command.interface
        self._type = message_type(_TYPES[interface], f"gripper interface '{interface}'")
        self._client: Any = node.create_client(
            self._type.Impl.SendGoalService, f'{self._command.topic}/_action/send_goal'
        )
        self._node = node

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Send the target (1,) as a goal, if it has changed and the last is long enough ago.

        One goal at a time: a server that is slow to answer gets the newest target next, not a
        queue of old ones.
        """
        if self._node is None:
            return
        if not self._client.service_is_ready():
            self._give_up()  # whoever comes next has heard nothing
            self._warn('no such action server, the gripper is not commanded', now_ns)
            return
        if self._asked is not None and not self._asked[0].done():
            if 0 <= now_ns - self._asked[1] < _PATIENCE_NS:
                return
            self._give_up()
            self.unanswered += 1
            self._warn('no answer to a goal, which is sent again', now_ns, self.unanswered)
        due = self._gate.due(float(values[0]), now_ns)
        if due is None:
            return
        self._gate.sent(due, now_ns)  # before the answer can come, in the executor's thread
        request = self._type.Impl.SendGoalService.Request(goal=self._goal(due))
        request.goal_id.uuid = list(uuid.uuid4().bytes)
        answer = self._client.call_async(request)
        self._asked = answer, now_ns
        answer.add_done_callback(functools.partial(self._answered, now_ns=now_ns))

    def stop(self, now_ns: int) -> None:
        """Let the gripper hold what it holds; the next target is sent again."""
        self._gate.forget()

    def close(self) -> None:
        """Destroy the client."""
        if self._node is not None:
            node, self._node = self._node, None
            node.destroy_client(self._client)

    def _goal(self, value: float) -> Any:
        goal, effort = self._type.Goal(), self._command.max_effort
        if self._command.interface == 'gripper_command':
            goal.command.position, goal.command.max_effort = value, effort or 0.0
        else:
            efforts = [] if effort is None else [effort]
            goal.command = JointState(name=[self._gripper.name], position=[value], effort=efforts)
        return goal

    def _give_up(self) -> None:
        """Expect no answer any more, and send the next target in any case."""
        if self._asked is not None:
            self._client.remove_pending_request(self._asked[0])
            self._asked = None
        self._gate.forget()

    def _answered(self, answer: Any, now_ns: int) -> None:
        if answer.cancelled() or answer.exception() or not answer.result().accepted:
            self.rejected += 1
            self._gate.forget()  # the target, still wanted, is sent again
            self._warn('a goal was rejected, and is sent again', now_ns, self.rejected)

    def _warn(self, what: str, now_ns: int, count: int = 0) -> None:
        """Log, but seldom; rclpy's own throttle takes half a millisecond of a control tick."""
        last_ns = self._warned_ns.get(what)
        if self._node is None or (last_ns is not None and 0 <= now_ns - last_ns < _WARN_EVERY_NS):
            return
        self._warned_ns[what] = now_ns
        counted = f' ({count} so far)' if count else ''
        self._node.get_logger().warning(f'{self._command.topic}: {what}{counted}')
