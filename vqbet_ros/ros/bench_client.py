"""Calls a node's services and reads its status, for the benches."""

from collections.abc import Callable, Mapping
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from vqbet_ros.errors import VqbetError
from vqbet_ros.ros import qos

_LOOK_S = 0.25
Values = dict[str, str]


class BenchClient:
    """A node that is served only while one of its methods waits; for one thread.

    Args:
        name: The other node's, with a slash.
        services: Types of its services.
        look: Called while waiting; raises when waiting has become useless.
    """

    def __init__(self, name: str, services: Mapping[str, Any], look: Callable[[], None]) -> None:
        """Join the graph."""
        self._name = name
        self._look = look
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('bench_client', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._status: DiagnosticStatus | None = None
        self._diagnostics: DiagnosticArray | None = None
        self._node.create_subscription(
            DiagnosticStatus, f'{name}/status', self._take_status, qos.STATUS
        )
        self._node.create_subscription(
            DiagnosticArray, '/diagnostics', self._take_diagnostics, qos.STATUS
        )
        self._services = dict(services)
        self._clients: dict[str, Any] = {
            service: self._node.create_client(kind, f'{name}/{service}')
            for service, kind in services.items()
        }

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def status(self, timeout_s: float = 10.0) -> Values:
        """Wait for the next status and return its values, with its `message`."""
        self._status = None
        self._wait(lambda: self._status is not None, timeout_s, f'{self._name} tells no status')
        assert self._status is not None  # noqa: S101 - `_wait` has seen to it
        return {**_values(self._status), 'message': self._status.message}

    def wait_for(self, ready: Callable[[Values], bool], what: str, timeout_s: float) -> None:
        """Wait for a status.

        Raises:
            VqbetError: There was none until the end; says what the last one was.
        """
        deadline_s = time.monotonic() + timeout_s
        status = self.status(timeout_s)
        while not ready(status):
            if time.monotonic() > deadline_s:
                raise VqbetError(f'{self._name} {what}: {status["message"]}')
            status = self.status()

    def diagnostics(self, timeout_s: float = 10.0) -> dict[str, Values]:
        """Wait for the next `/diagnostics` and return the values of each component."""
        self._diagnostics = None
        what = f'{self._name} tells no diagnostics'
        self._wait(lambda: self._diagnostics is not None, timeout_s, what)
        assert self._diagnostics is not None  # noqa: S101 - `_wait` has seen to it
        return {
            status.name.partition(': ')[2]: _values(status) for status in self._diagnostics.status
        }

    def call(self, service: str, timeout_s: float = 60.0, **request: Any) -> str:
        """Call a service; returns the answer's text.

        Raises:
            VqbetError: It was refused, or did not answer.
        """
        client = self._clients[service]
        self._wait(client.service_is_ready, timeout_s, f'there is no {self._name}/{service}')
        future = client.call_async(self._services[service].Request(**request))
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

    def _take_diagnostics(self, array: DiagnosticArray) -> None:
        if any(status.name.startswith(self._name.lstrip('/')) for status in array.status):
            self._diagnostics = array


def _values(status: DiagnosticStatus) -> Values:
    return {item.key: item.value for item in status.values}
