"""Calls a recorder's services and reads its status, for `vqbet bench record`."""

from collections.abc import Callable
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger
from vqbet_ros.errors import VqbetError
from vqbet_ros.ros import qos

_LOOK_S = 0.25


class RecorderControl:
    """A node that is served only while one of its methods waits; for one thread.

    Args:
        name: The recorder's, with a slash.
        look: Called while waiting; raises when waiting has become useless.
    """

    def __init__(self, name: str, look: Callable[[], None]) -> None:
        """Join the graph."""
        self._name = name
        self._look = look
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('bench_control', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._status: DiagnosticStatus | None = None
        self._node.create_subscription(
            DiagnosticStatus, f'{name}/status', self._take_status, qos.STATUS
        )
        self._clients: dict[str, Any] = {
            service: self._node.create_client(Trigger, f'{name}/{service}')
            for service in ('start', 'stop')
        }

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def status(self, timeout_s: float = 10.0) -> dict[str, str]:
        """Wait for the next status and return its values, with its `message`."""
        self._status = None
        self._wait(lambda: self._status is not None, timeout_s, f'{self._name} tells no status')
        assert self._status is not None  # noqa: S101 - `_wait` has seen to it
        values = {item.key: item.value for item in self._status.values}
        return {**values, 'message': self._status.message}

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until an episode could begin.

        Raises:
            VqbetError: It could not until the end; says why.
        """
        deadline_s = time.monotonic() + timeout_s
        status = self.status(timeout_s)
        while status['state'] != 'idle' or status['problems']:
            if time.monotonic() > deadline_s:
                raise VqbetError(f'{self._name} did not get ready: {status["message"]}')
            status = self.status()

    def call(self, service: str, timeout_s: float = 60.0) -> str:
        """Call `start` or `stop`; returns the answer's text.

        Raises:
            VqbetError: It was refused, or did not answer.
        """
        client = self._clients[service]
        self._wait(client.service_is_ready, timeout_s, f'there is no {self._name}/{service}')
        future = client.call_async(Trigger.Request())
        self._wait(future.done, timeout_s, f'{self._name}/{service} did not answer')
        answer = future.result()
        if not answer.success:
            raise VqbetError(f'{self._name}/{service} was refused: {answer.message}')
        return str(answer.message)

    def _wait(self, ready: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline_s:
                raise VqbetError(f'{otherwise} in {timeout_s:g} s')
            self._executor.spin_once(_LOOK_S)
            self._look()

    def _take_status(self, status: DiagnosticStatus) -> None:
        self._status = status
