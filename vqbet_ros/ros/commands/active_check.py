"""Asks ros2_control's manager whether a controller is active; the executor never waits for it."""

from collections.abc import Iterable
from typing import Any

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.lifecycle import LifecycleNode
from vqbet_ros.errors import UnknownType
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
        self._node = node
        self._client: Any = None
        self._pending: Any = None
        self._waited = 0
        try:
            self._type = message_type('controller_manager_msgs/srv/ListControllers', 'a check')
        except UnknownType:
            return
        self._manager = f'{space}/controller_manager'
        self._client = node.create_client(self._type, f'{self._manager}/list_controllers')
        self._timer = node.create_timer(
            _ASK_EVERY_S, self._ask, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def destroy(self) -> None:
        """Stop asking; safe to call twice."""
        if self._client is not None:
            self._timer.cancel()
            self._node.destroy_timer(self._timer)
            self._node.destroy_client(self._client)
            self._client = None

    def _ask(self) -> None:
        if self._pending is not None:
            self._waited += 1
            if self._waited >= _PATIENCE:  # the manager went away before it answered
                self._client.remove_pending_request(self._pending)
                self._pending = None
        elif self._client.service_is_ready():
            self._waited = 0
            self._pending = self._client.call_async(self._type.Request())
            self._pending.add_done_callback(self._take)
        else:
            self.problem = None  # with the manager went what it said

    def _take(self, future: Any) -> None:
        self._pending = None
        if future.cancelled() or future.exception() is not None:
            return  # the timer asks again
        states = ((one.name, one.state) for one in future.result().controller)
        self.problem = inactive(self._name, states, self._manager)


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
