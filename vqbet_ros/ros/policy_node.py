"""The policy as a lifecycle node: observations in, commands out.

configure loads and warms up the checkpoint and subscribes; activate starts the inference and the
control thread; `~/enable` lets commands out. The executor's only thread stores raw bytes.
"""

from collections.abc import Callable
import functools
import gc
import sys
import threading
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from vqbet_ros.errors import VqbetError
from vqbet_ros.ros import qos
from vqbet_ros.ros.checkpoints import load_engine
from vqbet_ros.ros.diagnostics import diagnostic
from vqbet_ros.ros.inference import PolicyEngine
from vqbet_ros.ros.operator import EmergencyStop
from vqbet_ros.ros.parameters import declare
from vqbet_ros.ros.pipeline import Pipeline
from vqbet_ros.ros.policy_parameters import PolicyParameters
from vqbet_ros.ros.report import Reporter
from vqbet_ros.ros.running import run
from vqbet_ros.ros.thread_priority import ThreadPriority
from vqbet_ros.ros.wiring import Wiring
from vqbet_ros.runtime.outcome import State

_PATIENCE_S = 10.0  # of the executor, while the node is not active


def _reported(transition: Callable[..., Any]) -> Callable[..., Any]:
    """Log what a transition raises: rclpy would go on to on_error without a word about it."""

    @functools.wraps(transition)
    def wrapper(node: 'PolicyNode', state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception:
            node.get_logger().error(f'{transition.__name__} failed:\n{traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR

    return wrapper


class PolicyNode(LifecycleNode):
    """Wires one policy to topics, services and the lifecycle.

    Args:
        load: Loads the engine; see vqbet_ros.ros.checkpoints.load_engine.
        options: Passed on to rclpy's LifecycleNode, for example `context`.

    Raises:
        ConfigError: Wrong parameters.
    """

    def __init__(self, *, load: Callable[..., Any] = load_engine, **options: Any) -> None:
        """Declare parameters; create what exists in every state of the lifecycle."""
        super().__init__('policy_node', **options)
        self.failure: BaseException | None = None  # its threads latch a fault instead
        self._load = load
        self._engine: PolicyEngine | None = None
        self._wiring: Wiring | None = None
        self._active = False
        self._priority = ThreadPriority(self.get_logger().warning)
        self.parameters = declare(self, PolicyParameters)
        self._reporter = Reporter(self.get_fully_qualified_name(), self.get_name(), '')
        self._status = self.create_publisher(DiagnosticStatus, '~/status', qos.STATUS)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.STATUS)
        self.create_service(SetBool, '~/enable', self._on_enable)
        self.create_service(Trigger, '~/reset', self._on_reset)
        # In every state: what is pressed stays pressed while the node is configured anew.
        self._estop = EmergencyStop(self, '~/estop', self._on_estop)
        # Also while simulated time stands still it says so.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._on_second, clock=steady)
        self.add_on_set_parameters_callback(self._on_parameters)

    @property
    def pipeline(self) -> Pipeline | None:
        """What runs the policy; None while the node is not configured."""
        return None if self._wiring is None else self._wiring.pipeline

    # Lifecycle

    @_reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the policy, then subscribe."""
        try:
            self._configure()
        except VqbetError as error:
            self.get_logger().error(f'cannot configure: {error}')
            self._release()
            return TransitionCallbackReturn.FAILURE
        self.changed()
        return super().on_configure(state)

    @_reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start both threads."""
        result = super().on_activate(state)
        assert self.pipeline is not None  # noqa: S101 - the lifecycle sees to it
        self._active = True
        self.pipeline.start()
        # All that run Python in this process, for they wait for each other. What computes, the
        # policy, is in a process of its own, and ordinary.
        control, *others = self.pipeline.threads
        threads = [control, threading.get_native_id(), *others]
        self._priority.begin(threads, self.parameters.thread_priority)
        if self.parameters.enable:
            self.pipeline.enable(require_streams=False)
        self.changed()
        return result

    @_reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the commands, then the threads."""
        self.close()
        self.changed()
        return super().on_deactivate(state)

    @_reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let the policy and the subscriptions go."""
        self._release()
        return super().on_cleanup(state)

    @_reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and let everything go, from any state."""
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after an unexpected error in a transition."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def start(self) -> bool:
        """Configure and activate if the parameter `autostart` says so."""
        done = TransitionCallbackReturn.SUCCESS
        return not self.parameters.autostart or (
            self.trigger_configure() == done and self.trigger_activate() == done
        )

    def destroy_node(self) -> None:
        """Let everything go, from any state."""
        self._release()
        super().destroy_node()

    def close(self) -> None:
        """Bring the robot to rest and end the threads; safe in every state."""
        self._active = False
        if self._wiring is not None:
            self._wiring.stop()
        self._priority.end()

    def changed(self) -> None:
        """Publish state and reason."""
        self._status.publish(self._state_status())

    def _configure(self) -> None:
        values = self.parameters
        self._engine = self._load(values.checkpoint, values.device, values.threads or None)
        self._wiring = Wiring(self, self._engine, values, changed=self.changed)
        self._reporter = Reporter(
            self.get_fully_qualified_name(), self.get_name(), self._wiring.pipeline.spec.robot
        )
        self._on_estop(self._estop.pressed)
        # What is loaded stays: walking through all of it again would stop all threads for a while.
        gc.collect()
        gc.freeze()

    def _release(self) -> None:
        self.close()
        if self._wiring is not None:
            self._wiring.close()
        if self._engine is not None:
            self._engine.close()
        self._wiring = self._engine = None
        gc.unfreeze()

    # Callbacks of the executor

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self._wiring is None or not self._active:
            response.success = not request.data
            response.message = 'not active: ros2 lifecycle set NODE configure, then activate'
        elif request.data:
            refused = self._wiring.enable()
            response.success, response.message = not refused, refused or 'armed: commands follow'
            self.get_logger().info(f'enable: {response.message}')
        else:
            self._wiring.pipeline.disarm('~/enable')
            response.success, response.message = True, 'stopping, then disarmed'
        return response

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.pipeline is None:
            response.success, response.message = False, 'not configured: there is no fault'
            return response
        before = self.pipeline.supervisor.state
        causes = self.pipeline.clear_fault()
        done = 'disarmed' if before is State.FAULT else f'there is no fault: {before.value}'
        response.success = not causes
        response.message = '; '.join(map(str, causes)) or done
        return response

    def _on_estop(self, pressed: bool) -> None:
        if self.pipeline is not None:
            self.pipeline.estop(pressed)

    def _on_second(self) -> None:
        self.changed()
        now = self.get_clock().now()
        array = DiagnosticArray(header=Header(stamp=now.to_msg()))
        array.status = [self._state_status()]
        if self._wiring is not None:
            lost = {stream.part.stream: stream.lost for stream in self._wiring.inputs}
            pipeline = self._wiring.pipeline
            array.status += self._reporter.components(pipeline, now.nanoseconds, lost)
        self._diagnostics.publish(array)

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Take a new goal or speed while the node is configured."""
        if self._wiring is None:
            return SetParametersResult(successful=True)  # configure reads them
        changed = {parameter.name: parameter.value for parameter in parameters}
        if 'goal' in changed:  # first: where it is refused, nothing else is set
            wait_s = self._wiring.patience_s if self._active else _PATIENCE_S
            try:
                self._wiring.goals.request(changed['goal'], wait_s=wait_s)
            except VqbetError as error:
                return SetParametersResult(successful=False, reason=str(error))
        if 'speed_scale' in changed:
            self._wiring.scale(changed['speed_scale'])
        return SetParametersResult(successful=True)

    def _state_status(self) -> DiagnosticStatus:
        goal = '' if self._wiring is None else self._wiring.goals.name
        if self.pipeline is not None and self._active:
            return self._reporter.status(self.pipeline, goal=goal)
        text = 'inactive' if self.pipeline is not None else 'unconfigured'
        hint = f'ros2 lifecycle set {self.get_fully_qualified_name()} ' + (
            'activate' if self.pipeline is not None else 'configure'
        )
        return diagnostic(
            f'{self.get_name()}: state',
            '',
            DiagnosticStatus.OK,
            text,
            {'state': text, 'reason': f'the node is {text}', 'hint': hint, 'goal': goal},
        )


def main(args: list[str] | None = None) -> int:
    """Run the node; see vqbet_ros.ros.running.run."""
    # A tick must not wait 5 ms, Python's default, for a thread that computes.
    sys.setswitchinterval(0.0005)
    return run('policy_node', PolicyNode, args)


if __name__ == '__main__':
    sys.exit(main())
