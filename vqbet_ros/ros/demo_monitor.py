"""Drives sim_node and policy_node through their services, and watches what they publish."""

from collections.abc import Callable
import threading
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
from numpy.typing import NDArray
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool, Trigger
from vqbet_ros.errors import VqbetError
from vqbet_ros.ros import qos
from vqbet_ros.spec import RobotSpec

# How often a wait looks whether the processes that it waits for are still there.
_LOOK_S = 0.25


class DemoMonitor:
    """A node of its own thread; its methods are for the main thread and wait for the outcome.

    Args:
        spec: The robot, for its topics.
        look: Called while waiting; raises when waiting has become useless.
        on_frame: Takes (H, W, 3) RGB, the newest score and the newest command (A,) or None.
    """

    def __init__(
        self,
        spec: RobotSpec,
        look: Callable[[], None],
        on_frame: Callable[[NDArray[np.uint8], dict[str, str], list[float] | None], None],
    ) -> None:
        """Join the graph."""
        self._context = Context()
        # Ctrl-C is for the main thread, which has two processes to end.
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('demo_monitor', context=self._context)
        self._look = look
        self._on_frame = on_frame
        self._news = threading.Condition()
        self._score: dict[str, str] = {}
        self._score_count = 0
        self._diagnostics: dict[str, dict[str, str]] = {}
        self._diagnostics_count = 0
        self._status = ''
        self._command: list[float] | None = None
        camera = spec.cameras[0].topic if spec.cameras else '/camera/image_raw'
        for kind, topic, take, profile in (
            (DiagnosticStatus, '/sim_node/score', self._take_score, qos.STATUS),
            (DiagnosticStatus, '/policy_node/status', self._take_status, qos.STATUS),
            (DiagnosticArray, '/diagnostics', self._take_diagnostics, qos.STATUS),
            (Float64MultiArray, spec.action.command_topic, self._take_command, qos.COMMAND),
            (Image, camera, self._take_image, qos.sensor_input()),
        ):
            self._node.create_subscription(kind, topic, take, profile)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._spin, name='monitor', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the graph."""
        self._context.try_shutdown()
        self._thread.join()
        self._node.destroy_node()

    @property
    def score(self) -> dict[str, str]:
        """The newest `~/score` of sim_node."""
        with self._news:
            return dict(self._score)

    @property
    def status(self) -> str:
        """The newest `~/status` of policy_node, for people."""
        with self._news:
            return self._status

    def wait_for_simulator(self, timeout_s: float) -> None:
        """Wait until the simulated robot publishes its score."""
        self._wait(lambda: self._score_count > 0, timeout_s, 'sim_node published no ~/score')

    def configure(self, timeout_s: float) -> None:
        """Take policy_node to its active state.

        Raises:
            VqbetError: A transition failed or took too long.
        """
        for name, number in (
            ('configure', Transition.TRANSITION_CONFIGURE),
            ('activate', Transition.TRANSITION_ACTIVATE),
        ):
            request = ChangeState.Request(transition=Transition(id=number))
            answer = self._call(ChangeState, '/policy_node/change_state', request, timeout_s)
            if not answer.success:
                raise VqbetError(f'policy_node refused to {name}')

    def reset(self) -> None:
        """Begin the next episode in the simulator, and wait until its score is that episode's."""
        seed = self.score['seed']
        self._call(Trigger, '/sim_node/reset', Trigger.Request(), 10.0)
        self._wait(lambda: self._score['seed'] != seed, 10.0, 'sim_node began no new episode')

    def enable(self, timeout_s: float) -> None:
        """Arm the policy, as soon as it sees all its streams.

        Raises:
            VqbetError: It refused until the end; its last reason is told.
        """
        # /diagnostics comes once a second, so this tries again about as often.
        for _ in range(max(1, round(timeout_s))):
            answer = self._call(SetBool, '/policy_node/enable', SetBool.Request(data=True), 10.0)
            if answer.success:
                return
            self._wait_for_diagnostics()
        raise VqbetError(f'policy_node refused to be enabled: {answer.message}')

    def disable(self) -> dict[str, dict[str, str]]:
        """Disarm the policy.

        Returns:
            The diagnostics of the run that ended: values by component ('control').
        """
        self._call(SetBool, '/policy_node/enable', SetBool.Request(data=False), 10.0)
        self._wait_for_diagnostics()
        with self._news:
            return dict(self._diagnostics)

    def wait_for_score(self, accept: Callable[[dict[str, str]], bool], timeout_s: float) -> None:
        """Wait until a score is accepted.

        Raises:
            VqbetError: No new score came for ten seconds.
        """
        self._wait(
            lambda: accept(self._score), timeout_s, 'the episode did not end: sim_node is too slow'
        )

    def _spin(self) -> None:
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(self._node)
        try:
            executor.spin()
        except Exception as error:
            if self._context.ok():  # else it was `close` that ended the spinning
                self._failure = error
                raise

    def _wait_for_diagnostics(self) -> None:
        before = self._diagnostics_count
        self._wait(
            lambda: self._diagnostics_count > before, 10.0, 'policy_node published no /diagnostics'
        )

    def _call(self, kind: Any, name: str, request: Any, timeout_s: float) -> Any:
        client: Any = self._node.create_client(kind, name)
        self._wait(client.service_is_ready, timeout_s, f'there is no service {name}')
        future = client.call_async(request)
        future.add_done_callback(lambda _: self._notify())
        self._wait(future.done, timeout_s, f'{name} did not answer')
        self._node.destroy_client(client)
        return future.result()

    def _wait(self, ready: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        with self._news:
            for _ in range(int(timeout_s / _LOOK_S) + 1):
                if self._news.wait_for(ready, _LOOK_S):
                    return
                self._look()
                if self._failure is not None:
                    raise self._failure
        state = f'; policy_node says: {self._status}' if self._status else ''
        raise VqbetError(f'{otherwise} in {timeout_s:g} s{state}')

    def _notify(self) -> None:
        with self._news:
            self._news.notify_all()

    def _take_score(self, message: DiagnosticStatus) -> None:
        with self._news:
            self._score = _values(message)
            self._score_count += 1
            self._news.notify_all()

    def _take_status(self, message: DiagnosticStatus) -> None:
        with self._news:
            self._status = message.message

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = 'policy_node: '
        found = {
            status.name[len(prefix) :]: _values(status)
            for status in message.status
            if status.name.startswith(prefix)
        }
        if found:
            with self._news:
                self._diagnostics = found
                self._diagnostics_count += 1
                self._news.notify_all()

    def _take_command(self, message: Float64MultiArray) -> None:
        self._command = list(message.data)

    def _take_image(self, message: Image) -> None:
        pixels = np.frombuffer(bytes(message.data), np.uint8)
        image = pixels.reshape(message.height, message.width, 3)  # sim_node sends rgb8, no padding
        self._on_frame(image, self.score, self._command)


def _values(status: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in status.values}
