"""A simulated arm that does as it is told, and a policy that moves it in a circle."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import rclpy
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from rclpy.time import Time
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory
from vqbet_ros.spec import RobotSpec

Vector = NDArray[np.float64]
Spoil = Callable[[Any], Iterable[Any]]
"""What becomes of one message: any number of messages."""

COMMANDS = '/arm/commands'
SPEC = RobotSpec.from_text(
    f"""
robot: arm
rate_hz: 10.0
cameras:
  - {{name: front, topic: /camera, type: sensor_msgs/msg/Image, height: 24, width: 32,
     rate_hz: 20.0, max_age_s: 0.4}}
state:
  - {{topic: /joint_states, type: sensor_msgs/msg/JointState, names: [shoulder, elbow], unit: rad,
     rate_hz: 100.0, max_age_s: 0.3}}
action:
  names: [shoulder, elbow]
  unit: rad
  record_topic: {COMMANDS}
  record_type: std_msgs/msg/Float64MultiArray
  command_topic: {COMMANDS}
  command_interface: forward_position
  limits:
    shoulder: {{position: [-0.5, 1.5], velocity: 1.0, acceleration: 5.0, jerk: 50.0}}
    elbow: {{position: [-1.7, 0.3], velocity: 1.0, acceleration: 5.0, jerk: 50.0}}
runtime:
  control_rate_hz: 50.0
  interpolation: cubic
  gate: {{frozen_after: 6}}
  watch: {{inference_deadline_s: 0.4, tracking_error: 0.3, tracking_s: 0.2}}
""",
    'the arm',
)


class Arm:
    """Publishes its camera and its joints, and is at once where a command tells it to be.

    Args:
        graph: Where it is added.
        spec: Its topics and rates.
        position: Where it begins.

    Attributes:
        commands: Every message on the command topic, with the monotonic time of its arrival.
        spoil: For each topic that it publishes, what becomes of the messages.
        follows: Whether it moves as it is told.
        now_ns: Its clock.
        published: How often the joints were measured.
    """

    def __init__(self, graph: Any, spec: RobotSpec, position: Iterable[float]) -> None:
        self.node = graph.add(rclpy.create_node('arm', context=graph.context))
        self.spec, self.position = spec, np.array(list(position), dtype=np.float64)
        self.commands: list[tuple[float, Any]] = []
        self.spoil: dict[str, Spoil] = {}
        self.follows = True
        self.now_ns: Callable[[], int] = lambda: self.node.get_clock().now().nanoseconds
        self.news = threading.Condition()  # of commands, and of published joints
        self.published = 0
        self._velocity = np.zeros(len(self.position))
        self._course: tuple[int, Vector, Vector] | None = None
        self._frame = 0
        camera, joints = spec.cameras[0], spec.state[0]
        self._publishers = {
            camera.topic: self.node.create_publisher(Image, camera.topic, 5),
            joints.topic: self.node.create_publisher(JointState, joints.topic, 5),
        }
        self.node.create_timer(1 / camera.rate_hz, self._send_image)
        self.node.create_timer(1 / joints.rate_hz, self._send_joints)
        self.listen()

    def listen(self) -> None:
        """Take commands."""
        action = self.spec.action
        courses = action.command_interface == 'joint_trajectory'
        kind = JointTrajectory if courses else Float64MultiArray
        # None is lost on the way here, however busy the machine is.
        profile = QoSProfile(depth=1000)
        self._subscription = self.node.create_subscription(
            kind, action.command_topic, self._take, profile
        )

    def be_deaf(self) -> None:
        """Take no more commands."""
        self.node.destroy_subscription(self._subscription)

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
        """Wait for what a command, or time, brings about."""
        with self.news:
            assert self.news.wait_for(condition, timeout_s), f'{what}: not in {timeout_s:g} s'

    def pause(self, seconds: float) -> None:
        """Let so much time pass, by the measurements of the joints."""
        end = self.published + round(seconds * self.spec.state[0].rate_hz)
        self.until(lambda: self.published >= end, 'joint states')

    def _take(self, message: Any) -> None:
        with self.news:
            self.commands.append((time.monotonic(), message))
            self.news.notify_all()
        if not self.follows:
            return
        if isinstance(message, JointTrajectory):
            start_ns = Time.from_msg(message.header.stamp).nanoseconds or self.now_ns()
            times = [
                0,
                *(Duration.from_msg(p.time_from_start).nanoseconds for p in message.points),
            ]
            places = [self.position, *(np.array(p.positions) for p in message.points)]
            self._course = start_ns, np.array(times), np.array(places)  # (K,), (K, A)
        elif self.spec.action.is_velocity:
            self._velocity = np.array(message.data)
        else:
            self.position = np.array(message.data)

    def _stamp(self) -> Any:
        return Time(nanoseconds=self.now_ns()).to_msg()

    def _send_image(self) -> None:
        camera = self.spec.cameras[0]
        self._frame = (self._frame + 1) % 250
        size = 3 * camera.width * camera.height
        image = Image(height=camera.height, width=camera.width, encoding='rgb8')
        image.step, image.data = 3 * camera.width, bytes([self._frame]) * size
        image.header.stamp = self._stamp()
        self._send(camera.topic, image)

    def _send_joints(self) -> None:
        joints = self.spec.state[0]
        self.position = self.position + self._velocity / joints.rate_hz
        if self._course is not None:
            start_ns, times, places = self._course
            elapsed_ns = self.now_ns() - start_ns
            self.position = np.array([np.interp(elapsed_ns, times, place) for place in places.T])
        message = JointState(name=list(joints.names), position=self.position.tolist())
        message.header.stamp = self._stamp()
        self._send(joints.topic, message)
        with self.news:
            self.published += 1
            self.news.notify_all()

    def _send(self, topic: str, message: Any) -> None:
        spoil = self.spoil.get(topic)
        for one in [message] if spoil is None else spoil(message):
            self._publishers[topic].publish(one)


@dataclass(frozen=True)
class Output:
    actions: Any
    confidence: float = 0.5
    codes: tuple[int, ...] = (3, 1)


class Circle:
    """Has the methods of policy.remote.EngineProcess; moves two joints in a circle at 0.8 rad/s.

    Attributes:
        centre: Of the circle.
        spoil: What becomes of the actions (W, 2); may raise, or wait.
        plans: Of each plan, the time of its observation and the centre that it is for.
    """

    where = 'a test'
    period_ns = 3_000_000_000
    radius = 0.38

    def __init__(self, spec: RobotSpec = SPEC, goal_steps: int = 0, chunk: int = 8) -> None:
        self.spec, self.history, self.chunk, self.goal_steps = spec, 2, chunk, goal_steps
        self.goal_state = False
        self.centre = np.array([0.5, -0.7])
        self.spoil: Callable[[Vector], Any] = lambda actions: actions
        self.plans: list[tuple[int, Vector]] = []

    def reset(self) -> None:
        pass

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass

    def set_goal(self, images: Any, state: Any = None) -> None:
        """Turn around another centre, a little further for each brightness of the goal."""
        if images is not None:
            shift = float(np.mean(images['front'])) / 255
            self.centre = np.array([0.5 + shift, -0.7 - shift])

    def at(self, time_ns: Any) -> Vector:
        """Return where the circle is at a time, (2,) or for (W,) times (W, 2)."""
        angle = 2 * np.pi * (np.asarray(time_ns) % self.period_ns) / self.period_ns
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        if self.spec.action.is_velocity:
            return np.asarray(0.8 * circle)
        return np.asarray(self.centre + self.radius * circle)

    def look(self, observation: Any) -> None:
        pass

    def plan(self, observation: Any, **_: Any) -> Output:
        self.plans.append((observation.stamp_ns, self.centre))
        steps = np.arange(1, self.chunk + 1) * self.spec.period_ns
        return Output(self.spoil(self.at(observation.stamp_ns + steps)))


class Stuck:
    """An inference that hangs, until it is let go."""

    def __init__(self) -> None:
        self.came, self.go = threading.Event(), threading.Event()

    def __call__(self, actions: Vector) -> Vector:
        self.came.set()
        self.go.wait(60.0)
        return actions
