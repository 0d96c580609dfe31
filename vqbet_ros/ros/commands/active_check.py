"""Asks ros2_control's manager whether a controller is active; the executor never waits for it."""

from collections.abc import Iterable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from vqbet_ros.errors import UnknownType
from vqbet_ros.ros.commands.asking import Asking
from vqbet_ros.ros.commands.messages import message_type

_ASK_EVERY_S = 1.0
_PATIENCE = 3  # times _ASK_EVERY_S, until a question that was not answered is asked again
INTERFACES = ('joint_trajectory', 'forward_position', 'forward_velocity')
"""Those of ros2_control's controllers."""


class ActiveCheck:
    """Watches one controller's state.

    Where controller_manager_msgs is not installed, or no manager answers, nothing is known, and
    nothing is held against the controller.

    Args:
        node: Asks.
        topic: The controller's command topic: the controller is what stands before its last part,
            and its manager is beside it.

    Attributes:
        problem: Why it takes no commands; None while nothing is known against it.
    """

    def __init__(self, node: LifecycleNode, topic: str) -> None:
        """Begin to ask."""
        self.problem: str | None = None
        path = topic.rpartition('/')[0]
        space, _, self._name = path.rpartition('/')
        self._asking: Asking | None = None
        try:
            kind = message_type('controller_manager_msgs/srv/ListControllers', 'a check')
        except UnknownType:
            return
        self._manager = f'{space}/controller_manager'
        self._asking = Asking(
            node,
            kind,
            f'{self._manager}/list_controllers',
            every_s=_ASK_EVERY_S,
            patience=_PATIENCE,
            question=kind.Request,
            take=self._take,
            absent=self._absent,
        )

    def destroy(self) -> None:
        """Stop asking; safe to call twice."""
        if self._asking is not None:
            self._asking.destroy()

    def _take(self, answer: Any) -> None:
        states = ((one.name, one.state) for one in answer.controller)
        self.problem = inactive(self._name, states, self._manager)

    def _absent(self) -> None:
        self.problem = None  # with the manager went what it said


def inactive(controller: str, states: Iterable[tuple[str, str]], manager: str) -> str | None:
    """Say why a controller takes no commands, or None.

    Args:
        controller: Its name.
        states: Name and state of each controller that the manager knows.
        manager: The manager's name.
    """
    state = dict(states).get(controller)
    if state is None or state == 'active':
        return None
    steps = [f'switch_controllers --activate {controller}']
    if state == 'unconfigured':  # a switch refuses those
        steps.insert(0, f'set_controller_state {controller} inactive')
    where = '' if manager == '/controller_manager' else f' -c {manager}'
    commands = ' && '.join(f'ros2 control {step}{where}' for step in steps)
    return f'{controller} is {state}: {commands}'
