"""Asks a controller which joints it commands; the executor never waits for the answer."""

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.lifecycle import LifecycleNode
from vqbet_ros.ros.commands.plain import joints_problem

_ASK_EVERY_S = 0.5
_PATIENCE = 4  # times _ASK_EVERY_S, until a question that was not answered is asked again
_TRAJECTORY = ['joints', 'allow_partial_joints_goal']
# Whether a message that comes in motion is joined to the last one, or to where the joints are
# measured: its name from Jazzy on, and on Humble.
_JOINS = ('interpolate_from_desired_state', 'open_loop_control')


class JointsCheck:
    """Compares a controller's parameter `joints` with the spec's, once it answers.

    Also warns of a trajectory controller that does not go on smoothly from message to message.

    A controller without parameter services (a driver of its own kind, a simulator) never answers;
    nothing is known of it then, and nothing is refused.

    Args:
        node: Asks.
        topic: The controller's command topic: the controller is what stands before its last part.
        names: The spec's joints.
        ordered: Whether its messages carry no names.

    Attributes:
        problem: Why it would misread commands; None while nothing is known against it.
        jerky: Whether it begins each message where the joints are measured.
        answered: Whether its joints are known.
    """

    def __init__(
        self, node: LifecycleNode, topic: str, names: Sequence[str], *, ordered: bool
    ) -> None:
        """Begin to ask."""
        self.problem: str | None = None
        self.jerky = False
        self.answered = False
        self._node = node
        self._controller = node.resolve_topic_name(topic).rpartition('/')[0]
        self._names = names
        # Asked for a parameter that it does not have, a controller answers with nothing at all.
        # What forwards numbers has one of these.
        more = [[*_TRAJECTORY, join] for join in _JOINS]
        self._questions = [['joints']] if ordered else [*more, _TRAJECTORY]
        self._ordered = ordered
        self._pending: Any = None
        self._waited = 0
        self._client: Any = node.create_client(GetParameters, f'{self._controller}/get_parameters')
        # By the machine's clock: the joints are asked for also while simulated time stands still.
        self._timer = node.create_timer(
            _ASK_EVERY_S, self._ask, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        if self._controller == node.get_fully_qualified_name():
            self._timer.cancel()  # commands go to a topic of the node's own

    def destroy(self) -> None:
        """Stop asking."""
        self._timer.cancel()
        self._node.destroy_timer(self._timer)
        self._node.destroy_client(self._client)

    def _ask(self) -> None:
        if self._pending is not None:
            self._waited += 1
            if self._waited >= _PATIENCE:  # the controller went away before it answered
                self._client.remove_pending_request(self._pending)
                self._pending = None
        elif self._client.service_is_ready():
            self._waited = 0
            self._pending = self._client.call_async(
                GetParameters.Request(names=self._questions[0])
            )
            self._pending.add_done_callback(self._take)

    def _take(self, future: Any) -> None:
        self._pending = None  # the timer asks again
        if future.cancelled() or future.exception():
            return
        values, names = list(future.result().values), self._questions[0]
        fits = len(values) == len(names) and all(one.type for one in values)
        if not fits and len(self._questions) > 1:
            del self._questions[0]
            self._ask()
            return
        self._timer.cancel()
        if not fits or values[0].type != ParameterType.PARAMETER_STRING_ARRAY:
            self._node.get_logger().warning(
                f'{self._controller} has no list of joints to compare with the spec: make sure '
                'that they agree'
            )
            return
        theirs = list(values[0].string_array_value)
        partial = not self._ordered and values[1].bool_value
        self.problem = joints_problem(
            self._controller, theirs, self._names, ordered=self._ordered, partial=partial
        )
        self.jerky = len(values) > len(_TRAJECTORY) and not values[-1].bool_value
        self.answered = True
        log = self._node.get_logger()
        if self.problem is not None:
            log.error(f'no commands: {self.problem}')
        else:
            log.info(f'{self._controller} commands the joints of the spec')
        if self.jerky:
            log.warning(
                f'{self._controller} begins each message where the joints are measured, not where '
                'it has led them: an arm that lags behind jerks back at each (docs/arms.md): '
                f'ros2 param set {self._controller} {names[-1]} true'
            )
