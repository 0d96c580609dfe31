"""Records demonstrations: each episode an ordinary rosbag2, with every byte as it came.

The executor's thread stamps messages and hands them to the episode's queue; the episode's own
thread writes them. `Episodes` begins and ends episodes, `Streams` subscribes.
"""

import sys
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import Joy
from std_srvs.srv import SetBool, Trigger
from vqbet_ros.errors import ConfigError
from vqbet_ros.recording.expected import expected_streams
from vqbet_ros.recording.session import State
from vqbet_ros.resources import resource
from vqbet_ros.ros import qos
from vqbet_ros.ros.parameters import declare
from vqbet_ros.ros.recorder_episodes import COMMANDS, Episodes
from vqbet_ros.ros.recorder_joystick import Buttons
from vqbet_ros.ros.recorder_parameters import RecorderParameters
from vqbet_ros.ros.recorder_status import status, stream_statuses
from vqbet_ros.ros.recorder_streams import Streams
from vqbet_ros.ros.running import run
from vqbet_ros.spec import RobotSpec

POLL_S = 0.01
REFRESH_S = 0.2
STATUS_S = 0.5
# A thread gives Python up to the executor after at most this long; the default is 5 ms.
_SWITCH_INTERVAL_S = 0.001


class RecorderNode(Node):
    """Wires topics, services and a joystick to a recording session."""

    def __init__(self, **options: Any) -> None:
        """Declare parameters, create services.

        Args:
            options: Passed on to rclpy.node.Node, for example `context`.

        Raises:
            ConfigError: Wrong parameters, or the spec cannot be read.
        """
        super().__init__('recorder_node', **options)
        self.parameters = declare(self, RecorderParameters)
        values = self.parameters
        self.spec = RobotSpec.from_yaml(values.spec or resource('config/robots/pusht.yaml'))
        self.failure: BaseException | None = None
        self.streams = Streams(
            self,
            expected_streams(self.spec, self._resolved(values.extra_topics)),
            prefer_compressed=values.prefer_compressed,
        )
        self.episodes = Episodes(self, self.spec, self.streams, values)
        self._ticks = 0
        self._status = self.create_publisher(DiagnosticStatus, '~/status', qos.STATUS)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.STATUS)
        # A group of their own: while one waits for its answer, its group takes nothing else.
        group = MutuallyExclusiveCallbackGroup()
        self.create_service(Trigger, '~/start', self._on_start, callback_group=group)
        self.create_service(Trigger, '~/stop', self._on_stop, callback_group=group)
        self.create_service(Trigger, '~/discard', self._on_discard, callback_group=group)
        self.create_service(SetBool, '~/mark', self._on_mark, callback_group=group)
        self._buttons = Buttons(
            {command: getattr(values, f'joy_{command}') for command in COMMANDS}
        )
        if values.joy_topic:
            self.create_subscription(Joy, values.joy_topic, self._on_joy, qos.sensor_input())
        # Not on the node's clock: a paused simulation must not silence the recorder.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._more = self.create_guard_condition(self._on_poll)
        self.create_timer(POLL_S, self._on_poll, clock=steady)
        self.create_timer(REFRESH_S, self.streams.refresh, clock=steady)
        self.create_timer(STATUS_S, self._on_status_timer, clock=steady)

    def start(self) -> bool:
        """Say where episodes go, and which of them earlier recorders left unfinished."""
        root = self.episodes.session.root.absolute()
        try:
            self.episodes.look_for_unfinished()
        except OSError as error:
            raise ConfigError(f"parameter 'root': {error}") from error
        name = self.get_fully_qualified_name()
        self.get_logger().info(
            f'{self.spec.robot}: episodes go to {root}; {name}/start begins one'
        )
        return True

    def close(self) -> None:
        """Keep a running episode, marked incomplete; safe to call twice."""
        self.episodes.close()

    async def _on_start(self, _request: Any, response: Trigger.Response) -> Trigger.Response:
        return await self._answer('start', response)

    async def _on_stop(self, _request: Any, response: Trigger.Response) -> Trigger.Response:
        return await self._answer('stop', response)

    async def _on_discard(self, _request: Any, response: Trigger.Response) -> Trigger.Response:
        return await self._answer('discard', response)

    async def _on_mark(
        self, request: SetBool.Request, response: SetBool.Response
    ) -> SetBool.Response:
        return await self._answer('success' if request.data else 'failure', response)

    async def _answer(self, command: str, response: Any) -> Any:
        answer = await self.episodes.obey(command)
        response.success, response.message = answer.success, answer.text
        return response

    def _on_poll(self) -> None:
        if self.streams.poll():
            self._more.trigger()  # the rest at once, but after what else is due

    def _on_joy(self, message: Joy) -> None:
        recording = self.episodes.session.state is State.RECORDING
        for command in self._buttons.pressed(message.buttons, recording=recording):
            self._later(self.episodes.obey, command, f'joystick, {command}')

    def _on_status_timer(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        now = self.episodes.snapshot(now_ns)
        message = status(self.get_name(), now, self.streams.inputs, now_ns)
        self._status.publish(message)
        self._ticks += 1
        if now.audit is not None and self._ticks % 2 == 0:
            array = DiagnosticArray(status=[message, *stream_statuses(self.get_name(), now)])
            array.header.stamp = self.get_clock().now().to_msg()
            self._diagnostics.publish(array)
        why = self.episodes.must_end(now)
        if why:
            self._later(self.episodes.end_early, why)

    def _later(self, work: Any, *arguments: str) -> None:
        assert isinstance(self.executor, Executor)  # noqa: S101 - callbacks run in one
        self.executor.create_task(work, *arguments)

    def _resolved(self, topics: tuple[str, ...]) -> tuple[str, ...]:
        try:
            for topic in topics:
                validate_topic_name(topic)
            return tuple(self.resolve_topic_name(topic) for topic in topics)
        except InvalidTopicNameException as error:
            raise ConfigError(f"parameter 'extra_topics': {error}") from error


def main(args: list[str] | None = None) -> int:
    """Run the node; see vqbet_ros.ros.running.run."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    return run('recorder_node', RecorderNode, args)


if __name__ == '__main__':
    sys.exit(main())
