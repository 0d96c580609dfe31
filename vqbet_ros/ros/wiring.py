"""All that a configured policy node has: made by configure, let go by cleanup."""

from collections.abc import Callable
import dataclasses
import functools
import time
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from vqbet_ros.data.cdr import same_content, warm_up
from vqbet_ros.data.messages import DECODERS
from vqbet_ros.ros import qos
from vqbet_ros.ros.checkpoints import apply_goal, robot_spec
from vqbet_ros.ros.commands.active_check import ActiveCheck, INTERFACES
from vqbet_ros.ros.commands.commands import Commands
from vqbet_ros.ros.goals import Goals
from vqbet_ros.ros.inputs import Input
from vqbet_ros.ros.neighbours import Neighbours
from vqbet_ros.ros.operator import Switch
from vqbet_ros.ros.pipeline import LONGEST_STOP_S, Pipeline
from vqbet_ros.ros.policy_parameters import PolicyParameters
from vqbet_ros.ros.report import warm_up_report
from vqbet_ros.runtime.outcome import State
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.spec import ActionSpec, RobotSpec

_LOOK_EVERY_S = 0.5
_PATIENCE_S = 1.0  # of the executor, which hears the emergency stop too


class Wiring:
    """One policy between the topics that it sees and those that it commands.

    Also where the pipeline's results go: its methods `command` to `alive` are called from the
    pipeline's threads.

    Args:
        node: Has the publishers and subscriptions, and the parameters that change.
        engine: The policy.
        parameters: Those that do not change.
        changed: Called when state or reasons have changed.

    Raises:
        VqbetError: The robot, the goal or the commands do not fit, or a package is missing; what
            was made until then is let go.
    """

    def __init__(
        self,
        node: LifecycleNode,
        engine: Any,
        parameters: PolicyParameters,
        *,
        changed: Callable[[], None],
    ) -> None:
        """Warm everything up, then publish and subscribe."""
        self.changed = changed
        self.inputs: list[Input] = []
        self._node = node
        self._undo: list[Callable[[], object]] = []
        try:
            self._wire(engine, parameters)
        except BaseException:
            self.close()
            raise

    def _wire(self, engine: Any, parameters: PolicyParameters) -> None:
        node = self._node
        spec = robot_spec(engine.spec, parameters.spec, compressed=parameters.compressed)
        goal = node.get_parameter('goal').value
        apply_goal(engine, goal, spec)
        action = spec.action
        if parameters.shadow:
            action = _shadowed(action, f'{node.get_fully_qualified_name()}/shadow')
            spec = _unfollowed(spec)
        rate_hz = parameters.control_rate_hz or spec.runtime.control_rate_hz or spec.rate_hz
        steady = None if node.get_parameter('use_sim_time').value else time.monotonic_ns
        self._commands = Commands(action, round(1e9 / rate_hz), steady)
        engine.warm_up()
        warm_up(part.type for part in spec.streams)
        warm_up_report()
        self.pipeline = Pipeline(
            engine,
            spec,
            decoders=DECODERS,
            same=same_content,
            control_rate_hz=rate_hz,
            plan_every=parameters.plan_every,
            clock=self._now_ns,
            steady=steady,
            courses=self._commands.takes_courses,
            outputs=self,
        )
        self._warn_of_long_stops()
        self.scale(node.get_parameter('speed_scale').value)
        self.goals = Goals(
            node,
            engine,
            spec,
            lock=self.pipeline.inference.lock,
            changed=self.pipeline.goal_changed,
            name=goal,
        )
        self._undo.append(self.goals.close)
        self._commands.configure(node)
        self._plan = node.create_lifecycle_publisher(JointTrajectory, '~/plan', qos.STATUS)
        self._undo += [
            self._commands.close,
            functools.partial(node.destroy_lifecycle_publisher, self._plan),
        ]
        if spec.runtime.watch.deadman_timeout_s is not None:
            self._undo.append(Switch(node, '~/deadman', self.pipeline.deadman).destroy)
        for part in spec.streams:
            self.inputs.append(Input(node, part, self.pipeline))
            self._undo.append(self.inputs[-1].destroy)
        self._neighbours = Neighbours(node, () if parameters.shadow else _topics(action))
        self._active: ActiveCheck | None = None
        if action.command_interface in INTERFACES and not parameters.shadow:
            self._active = ActiveCheck(node, node.resolve_topic_name(action.command_topic))
            self._undo.append(self._active.destroy)
        timer = node.create_timer(
            _LOOK_EVERY_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._undo += [timer.cancel, functools.partial(node.destroy_timer, timer)]
        self._look()  # what is not known yet forbids commands from the first tick on
        node.get_logger().info(
            f'{spec.robot}: {", ".join(part.topic for part in spec.streams)} -> '
            f'{action.command_topic}, policy of {spec.rate_hz:g} Hz on {engine.where}, '
            f'commands at {rate_hz:g} Hz'
        )

    def stop(self) -> None:
        """Bring the robot to rest, and end the threads; safe to call twice."""
        self.pipeline.stop()
        if self.alive():
            self._commands.stop(self._now_ns())

    def close(self) -> None:
        """Let go all that was made."""
        undo, self._undo = self._undo, []
        for step in undo:
            step()

    @property
    def patience_s(self) -> float:
        """How long a callback may take: no time at all where the robot may be moving."""
        at_rest = self.pipeline.supervisor.state in (State.DISARMED, State.FAULT)
        return _PATIENCE_S if at_rest else 0.0

    def enable(self) -> str:
        """Arm; returns why not, empty when armed."""
        self._look()
        if self.pipeline.controller:
            more = self.pipeline.supervisor.refusals(self._now_ns())
            return '; '.join([self.pipeline.controller, *map(str, more)])
        return '; '.join(map(str, self.pipeline.enable()))

    def scale(self, scale: float) -> None:
        """Use a share of the largest velocities, 0 to 1."""
        # ROS lets numbers into the parameter's range that are beyond it by a rounding.
        scale = min(max(scale, 0.0), 1.0)
        unscaled = self.pipeline.supervisor.set_speed_scale(scale)
        if unscaled:
            self._node.get_logger().warning(
                f'speed_scale {scale:g} slows down nothing that has no limit of velocity in the '
                f'spec: {", ".join(unscaled)}'
            )

    def _warn_of_long_stops(self) -> None:
        stops_s = self.pipeline.supervisor.longest_stops_s
        slow = {name: stop_s for name, stop_s in stops_s.items() if stop_s > LONGEST_STOP_S}
        if slow:
            each = ', '.join(f'{name} up to {stop_s:.1f} s' for name, stop_s in slow.items())
            self._node.get_logger().warning(
                f'within their limits these take longer to stop than the {LONGEST_STOP_S} s that '
                f'a node has at its end: {each}. Deactivated in fast motion, it leaves the rest '
                "of the stop to the robot's controller. Lower their velocity in the spec's "
                'action.limits, or raise acceleration and jerk'
            )

    # Outputs of the pipeline

    def command(self, values: np.ndarray) -> None:
        """Send (A,) numbers through the spec's interface."""
        self._commands.send(values, self._now_ns())

    def follow(self, values: np.ndarray, course: Chunk | None) -> None:
        """Send a course, and (A,) for what follows none."""
        self._commands.follow(values, course, self._now_ns())

    def rest(self) -> None:
        """Send velocities of zero, or how a course ends at once; nothing after places."""
        self._commands.stop(self._now_ns())

    def plan(self, chunk: Chunk) -> None:
        """Publish the chunk; each point's time is when it is due."""
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

    def failed(self, text: str) -> None:
        """Log an unexpected error of a thread."""
        self._node.get_logger().error(text)

    def alive(self) -> bool:
        """Tell whether publishing is still possible."""
        return bool(self._node.context.ok())

    def _look(self) -> None:
        """Tell the pipeline what is known of those who take commands, and who else gives some."""
        if self.pipeline.spec.runtime.watch.foreign_publishers:
            self.pipeline.foreign_publishers = self._neighbours.publishers()
        unheard = ', '.join(self._neighbours.unheard())
        absent = f'nobody subscribes to {unheard}' if unheard else ''
        inactive = None if self._active is None else self._active.problem
        self.pipeline.controller = self._commands.problem or inactive or absent

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


def _topics(action: ActionSpec) -> list[str]:
    """Return the topics on which a robot is commanded."""
    gripper = None if action.gripper is None else action.gripper.command
    more = [] if gripper is None or gripper.is_action else [gripper.topic]
    return [action.command_topic, *more]


def _shadowed(action: ActionSpec, topic: str) -> ActionSpec:
    """Return what sends the same to a topic that no robot listens to."""
    gripper = action.gripper
    if gripper is not None and gripper.command is not None:
        command = dataclasses.replace(gripper.command, topic=f'{topic}/gripper')
        if command.is_action:  # of which nothing could be seen
            command = dataclasses.replace(command, interface='float64', max_effort=None)
        gripper = dataclasses.replace(gripper, command=command)
    return dataclasses.replace(action, command_topic=topic, gripper=gripper)


def _unfollowed(spec: RobotSpec) -> RobotSpec:
    """Return the spec of a robot that is not meant to follow the commands."""
    watch = dataclasses.replace(spec.runtime.watch, tracking_error=None)
    return dataclasses.replace(spec, runtime=dataclasses.replace(spec.runtime, watch=watch))
