"""Asks a controller which joints it commands; the executor never waits for the answer."""

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.lifecycle import LifecycleNode
from vqbet_ros.ros.commands.asking import Asking
from vqbet_ros.ros.commands.plain import joints_problem

_ASK_EVERY_S = 0.5
_PATIENCE = 4  # times _ASK_EVERY_S, until a question that was not answered is asked again
_SILENCE = 6  # times _ASK_EVERY_S, until who listens is believed to have no parameters
_TRAJECTORY = ['joints', 'allow_partial_joints_goal']
# Whether a message that comes in motion is joined to the last one, or to where the joints are
# measured: its name from Jazzy on, and on Humble.
_JOINS = ('interpolate_from_desired_state', 'open_loop_control')
_UNKNOWN = '_NODE_NAME_UNKNOWN_'  # rmw's, of who is there and has not yet said its name


class JointsCheck:
    """Compares a controller's parameter `joints` with the spec's, again and again.

    Until it has answered nothing may be sent: numbers without names would move other joints. It
    is waited for as soon as its parameter service is there, or somebody of its name listens to
    the commands. Where neither is so (a driver of another name, a simulator, a controller without
    parameter services), nothing can be known, and nothing is refused.

    Also warns of a trajectory controller that does not go on smoothly from message to message.

    Args:
        node: Asks.
        topic: The controller's command topic: the controller is what stands before its last part.
        names: The spec's joints.
        ordered: Whether its messages carry no names.

    Attributes:
        jerky: Whether it begins each message where the joints are measured.
        answered: Whether its joints are known.
    """

    def __init__(
        self, node: LifecycleNode, topic: str, names: Sequence[str], *, ordered: bool
    ) -> None:
        """Begin to ask."""
        self.jerky = False
        self.answered = False
        self._node = node
        self._topic = node.resolve_topic_name(topic)
        self._controller = self._topic.rpartition('/')[0]
        self._names = names
        self._ordered = ordered
        self._questions: list[list[str]] = []
        self._difference: str | None = None
        self._has_joints = True
        self._said = ('', '', '')  # what the log says of it
        self._silence = 0  # how often it was not to be asked although it listens
        self._forget()
        self._asking: Asking | None = None
        if self._controller != node.get_fully_qualified_name():  # a topic of the node's own
            self._asking = Asking(
                node,
                GetParameters,
                f'{self._controller}/get_parameters',
                every_s=_ASK_EVERY_S,
                patience=_PATIENCE,
                question=self._question,
                take=self._take,
                absent=self._absent,
            )

    @property
    def problem(self) -> str | None:
        """Why nothing may be sent: it would misread commands, or has not yet said that not."""
        if self.answered or not self._has_joints or self._asking is None:
            return self._difference
        if self._asking.ready or (self._silence < _SILENCE and self._listens()):
            return f'{self._controller} has not yet said which joints it commands'
        return None

    def destroy(self) -> None:
        """Stop asking; safe to call twice."""
        if self._asking is not None:
            self._asking.destroy()

    def _forget(self) -> None:
        # Asked for a parameter that it does not have, a controller answers with nothing at all.
        # What forwards numbers has one of these.
        more = [[*_TRAJECTORY, join] for join in _JOINS]
        self._questions = [['joints']] if self._ordered else [*more, _TRAJECTORY]
        self._difference, self._has_joints = None, True
        self.answered = self.jerky = False

    def _listens(self) -> bool:
        """Tell whether it is among those who listen to the commands, or may be."""
        return any(
            info.node_name == _UNKNOWN
            or f'{info.node_namespace.rstrip("/")}/{info.node_name}' == self._controller
            for info in self._node.get_subscriptions_info_by_topic(self._topic)
        )

    def _absent(self) -> None:
        self._forget()  # it may come back with other joints
        self._silence = self._silence + 1 if self._listens() else 0

    def _question(self) -> Any:
        return GetParameters.Request(names=self._questions[0]) if self._has_joints else None

    def _take(self, answer: Any) -> None:
        values, names = list(answer.values), self._questions[0]
        fits = len(values) == len(names) and all(one.type for one in values)
        if not fits and len(self._questions) > 1:
            del self._questions[0]
            assert self._asking is not None  # noqa: S101 - it has answered
            self._asking.ask()
            return
        if not fits or values[0].type != ParameterType.PARAMETER_STRING_ARRAY:
            self._has_joints = False
            self._say(
                warning=f'{self._controller} has no list of joints to compare with the spec: '
                'make sure that they agree'
            )
            return
        theirs = list(values[0].string_array_value)
        partial = not self._ordered and values[1].bool_value
        self._difference = joints_problem(
            self._controller, theirs, self._names, ordered=self._ordered, partial=partial
        )
        self.jerky = len(values) > len(_TRAJECTORY) and not values[-1].bool_value
        self.answered = True
        problem, jerks = self._difference, ''
        if self.jerky:
            jerks = (
                f'{self._controller} begins each message where the joints are measured, not where '
                'it has led them: an arm that lags behind jerks back at each (docs/arms.md): '
                f'ros2 param set {self._controller} {names[-1]} true'
            )
        if problem is None:
            self._say(info=f'{self._controller} commands the joints of the spec', warning=jerks)
        else:
            self._say(error=f'no commands: {problem}', warning=jerks)

    def _say(self, *, info: str = '', error: str = '', warning: str = '') -> None:
        """Log what is known, unless the answer before was the same."""
        said, log = (info, error, warning), self._node.get_logger()
        if said == self._said:
            return
        self._said = said
        if info:
            log.info(info)
        if error:
            log.error(error)
        if warning:
            log.warning(warning)
