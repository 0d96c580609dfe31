"""The policy as a lifecycle node: observations in, commands out.

configure loads and warms up the checkpoint and subscribes; activate starts the inference and the
control thread; `~/enable` lets commands out. The executor's only thread stores raw bytes.
"""

from collections.abc import Callable
import dataclasses
import functools
import gc
import sys
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.time import Time
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from vqbet_ros.data.cdr import same_content, warm_up
from vqbet_ros.data.messages import DECODERS
from vqbet_ros.errors import VqbetError
from vqbet_ros.ros import qos
from vqbet_ros.ros.checkpoints import apply_goal, load_engine, robot_spec
from vqbet_ros.ros.commands.commands import Commands
from vqbet_ros.ros.diagnostics import diagnostic
from vqbet_ros.ros.goals import Goals
from vqbet_ros.ros.inputs import Input
from vqbet_ros.ros.neighbours import Neighbours
from vqbet_ros.ros.operator import Operator
from vqbet_ros.ros.parameters import declare
from vqbet_ros.ros.pipeline import Pipeline
from vqbet_ros.ros.policy_parameters import PolicyParameters
from vqbet_ros.ros.report import Reporter, warm_up_report
from vqbet_ros.ros.running import run
from vqbet_ros.runtime.outcome import State
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.spec import ActionSpec, RobotSpec

_LOOK_EVERY_S = 0.5


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
    """Wires one Pipeline to topics, services and the lifecycle.

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
        self.pipeline: Pipeline | None = None
        self._load = load
        self._engine: Any = None
        self._commands: Commands | None = None
        self._neighbours: Neighbours | None = None
        self._active = False
        self._goals: Goals | None = None
        self._inputs: list[Input] = []
        self._wired: list[Callable[[], object]] = []  # undo what configure created
        self.parameters = declare(self, PolicyParameters)
        self._reporter = Reporter(self.get_fully_qualified_name(), self.get_name(), '')
        self._status = self.create_publisher(DiagnosticStatus, '~/status', qos.STATUS)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.STATUS)
        self.create_service(SetBool, '~/enable', self._on_enable)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_timer(1.0, self._on_second)
        self.add_on_set_parameters_callback(self._on_parameters)

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
        """Stop the commands and the threads; safe in every state."""
        self._active = False
        if self.pipeline is not None:
            self.pipeline.stop()
            self._stop_robot()

    def _configure(self) -> None:
        values = self.parameters
        self._engine = self._load(values.checkpoint, values.device, values.threads or None)
        spec = robot_spec(self._engine.spec, values.spec, compressed=values.compressed)
        goal = self.get_parameter('goal').value
        apply_goal(self._engine, goal, spec)
        shadow = f'{self.get_fully_qualified_name()}/shadow'
        action = _shadowed(spec.action, shadow) if values.shadow else spec.action
        if values.shadow:
            spec = _unfollowed(spec)
        rate_hz = values.control_rate_hz or spec.runtime.control_rate_hz or spec.rate_hz
        self._commands = Commands(action, round(1e9 / rate_hz))
        self._engine.warm_up()
        warm_up(part.type for part in spec.streams)
        warm_up_report()
        self.pipeline = Pipeline(
            self._engine,
            spec,
            decoders=DECODERS,
            same=same_content,
            control_rate_hz=rate_hz,
            plan_every=values.plan_every,
            clock=lambda: self.get_clock().now().nanoseconds,
            steady=None if self.get_parameter('use_sim_time').value else time.monotonic_ns,
            courses=self._commands.takes_courses,
            outputs=self,
        )
        self._scale(self.get_parameter('speed_scale').value)
        self._goals = Goals(
            self,
            self._engine,
            spec,
            lock=self.pipeline.inference.lock,
            changed=self.pipeline.goal_changed,
            name=goal,
        )
        self._wired.append(self._goals.close)
        self._reporter = Reporter(
            self.get_fully_qualified_name(), self.get_name(), hardware_id=spec.robot
        )
        self._commands.configure(self)
        self._plan = self.create_lifecycle_publisher(JointTrajectory, '~/plan', qos.STATUS)
        self._wired += [
            self._commands.close,
            functools.partial(self.destroy_lifecycle_publisher, self._plan),
        ]
        self._wired.append(Operator(self, self.pipeline).destroy)
        self._inputs = [Input(self, part, self.pipeline) for part in spec.streams]
        self._wired += [stream.destroy for stream in self._inputs]
        if not values.shadow:
            self._watch_neighbours(action)
        # What is loaded stays: walking through torch's objects would stop all threads for 40 ms.
        gc.collect()
        gc.freeze()
        self.get_logger().info(
            f'{spec.robot}: {", ".join(part.topic for part in spec.streams)} -> '
            f'{action.command_topic}, policy of {spec.rate_hz:g} Hz on '
            f'{values.device}, commands at {1e9 / self.pipeline.control_period_ns:g} Hz'
        )

    def _watch_neighbours(self, action: ActionSpec) -> None:
        topics = [action.command_topic]
        gripper = None if action.gripper is None else action.gripper.command
        if gripper is not None and not gripper.is_action:
            topics.append(gripper.topic)
        self._neighbours = Neighbours(self, topics)
        timer = self.create_timer(
            _LOOK_EVERY_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._wired += [timer.cancel, functools.partial(self.destroy_timer, timer)]

    def _look(self) -> None:
        """Tell the pipeline what is known of those who take commands, and who else gives some."""
        if self.pipeline is None or self._commands is None or self._neighbours is None:
            return
        if self.pipeline.spec.runtime.watch.foreign_publishers:
            self.pipeline.foreign_publishers = self._neighbours.publishers()
        unheard = ', '.join(self._neighbours.unheard())
        absent = f'nobody subscribes to {unheard}' if unheard else ''
        self.pipeline.controller = self._commands.problem or absent

    def _release(self) -> None:
        self.close()
        for undo in self._wired:
            undo()
        self._wired, self._inputs, self.pipeline, self._engine = [], [], None, None
        self._commands = self._neighbours = self._goals = None
        gc.unfreeze()

    def _stop_robot(self) -> None:
        """Send what brings the robot to rest, where its interface needs more than silence."""
        if self._commands is not None and self.alive():
            self._commands.stop(self.get_clock().now().nanoseconds)

    # Callbacks of the executor

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self.pipeline is None or not self._active:
            response.success = not request.data
            response.message = 'not active: ros2 lifecycle set NODE configure, then activate'
            return response
        if not request.data:
            self.pipeline.disarm('~/enable')
            response.success, response.message = True, 'stopping, then disarmed'
            return response
        self._look()
        if self.pipeline.controller:
            response.success, response.message = False, self.pipeline.controller
            return response
        reasons = self.pipeline.enable()
        response.success = not reasons
        response.message = '; '.join(map(str, reasons)) or 'armed: commands follow'
        self.get_logger().info(f'enable: {response.message}')
        return response

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.pipeline is None:
            response.success, response.message = False, 'not configured: there is no fault'
            return response
        causes = self.pipeline.clear_fault()
        response.success = not causes
        response.message = '; '.join(map(str, causes)) or 'disarmed'
        return response

    def _on_second(self) -> None:
        self.changed()
        array = DiagnosticArray(header=Header(stamp=self.get_clock().now().to_msg()))
        array.status = [self._state_status()]
        if self.pipeline is not None:
            now_ns = self.get_clock().now().nanoseconds
            lost = {stream.part.stream: stream.lost for stream in self._inputs}
            array.status += self._reporter.components(self.pipeline, now_ns, lost)
        self._diagnostics.publish(array)

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Take a new goal or speed while the node is configured."""
        for changed in parameters:
            if changed.name == 'goal' and self._goals is not None:
                try:
                    self._goals.request(changed.value, wait=not self._moves())
                except VqbetError as error:
                    return SetParametersResult(successful=False, reason=str(error))
            elif changed.name == 'speed_scale':
                self._scale(changed.value)
        return SetParametersResult(successful=True)

    def _moves(self) -> bool:
        """Tell whether the robot may be moving, so that nothing here may take long."""
        idle = (State.DISARMED, State.FAULT)
        return (
            self._active
            and self.pipeline is not None
            and self.pipeline.supervisor.state not in idle
        )

    def _scale(self, scale: float) -> None:
        if self.pipeline is not None:
            unscaled = self.pipeline.supervisor.set_speed_scale(scale)
            if unscaled:
                self.get_logger().warning(
                    f'speed_scale {scale:g} slows down nothing that has no limit of velocity in '
                    f'the spec: {", ".join(unscaled)}'
                )

    def _state_status(self) -> DiagnosticStatus:
        goal = '' if self._goals is None else self._goals.name
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

    # Outputs of the pipeline, called from its threads

    def command(self, values: np.ndarray) -> None:
        """Send (A,) numbers through the spec's interface."""
        assert self._commands is not None  # noqa: S101 - it is there as long as the pipeline
        self._commands.send(values, self.get_clock().now().nanoseconds)

    def follow(self, values: np.ndarray, course: Chunk | None) -> None:
        """Send a course, and (A,) for what follows none."""
        assert self._commands is not None  # noqa: S101 - it is there as long as the pipeline
        self._commands.follow(values, course, self.get_clock().now().nanoseconds)

    def plan(self, chunk: Chunk) -> None:
        """Publish the chunk; each point's time is when it is due."""
        assert self.pipeline is not None  # noqa: S101 - it is the caller
        header = Header(stamp=Time(nanoseconds=chunk.t_obs_ns).to_msg())
        points = [
            JointTrajectoryPoint(
                positions=action.tolist(),
                time_from_start=Duration(nanoseconds=(i + 1) * chunk.period_ns).to_msg(),
            )
            for i, action in enumerate(chunk.actions)
        ]
        names = list(self.pipeline.spec.action_names)
        self._plan.publish(JointTrajectory(header=header, joint_names=names, points=points))

    def changed(self) -> None:
        """Publish state and reason."""
        self._status.publish(self._state_status())

    def failed(self, text: str) -> None:
        """Log an unexpected error of a thread."""
        self.get_logger().error(text)

    def alive(self) -> bool:
        """Tell whether publishing is still possible."""
        return bool(self.context.ok())


def _shadowed(action: ActionSpec, topic: str) -> ActionSpec:
    """Return what sends the same to a topic that no robot listens to."""
    gripper = action.gripper
    if gripper is not None and gripper.command is not None:
        command = dataclasses.replace(gripper.command, topic=f'{topic}/gripper')
        gripper = dataclasses.replace(gripper, command=command)
    return dataclasses.replace(action, command_topic=topic, gripper=gripper)


def _unfollowed(spec: RobotSpec) -> RobotSpec:
    """Return the spec of a robot that is not meant to follow the commands."""
    watch = dataclasses.replace(spec.runtime.watch, tracking_error=None)
    return dataclasses.replace(spec, runtime=dataclasses.replace(spec.runtime, watch=watch))


def main(args: list[str] | None = None) -> int:
    """Run the node; see vqbet_ros.ros.running.run."""
    # A tick must not wait 5 ms, Python's default, for a thread that computes.
    sys.setswitchinterval(0.0005)
    return run('policy_node', PolicyNode, args)


if __name__ == '__main__':
    sys.exit(main())
