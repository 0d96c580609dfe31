"""PushT as a robot: a camera, two joints and a position controller, in real time.

One thread moves the world by its own physics step at absolute deadlines and publishes; every
header stamp is the nominal instant of the world that the message shows. The executor's thread
stores commands and answers services.
"""

from array import array
from dataclasses import dataclass
import sys
import threading
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, Header
from std_srvs.srv import Trigger
from vqbet_ros.errors import ConfigError, listed
from vqbet_ros.resources import resource
from vqbet_ros.ros import qos
from vqbet_ros.ros.diagnostics import diagnostic
from vqbet_ros.ros.parameters import declare, parameter
from vqbet_ros.ros.running import run
from vqbet_ros.sim.pusht import (
    IMAGE_SIZE,
    KEYPOINT_NAMES,
    PushTWorld,
    STATE_NAMES,
    SUCCESS_COVERAGE,
)
from vqbet_ros.spec import CameraSpec, FLOAT64_MULTI_ARRAY, JOINT_STATE, RobotSpec, StateSpec

SUBSTEP_NS = 10_000_000
SCORE_EVERY = 10  # substeps: gym-pusht scores once per control step
MAX_LAG_NS = 500_000_000


@dataclass(frozen=True)
class SimParameters:
    """The parameters of `sim_node`."""

    spec: str = parameter('', 'Robot spec (YAML file); empty: PushT with its camera.')
    seed: int = parameter(
        100_000, 'Seed of the first episode; each reset takes the next.', bounds=(0, 2**31 - 1)
    )
    jpeg_quality: int = parameter(95, 'Quality of the compressed images.', bounds=(1, 100))


class SimNode(Node):
    """Wires the PushT world to topics. Call `start` to let time run, `close` at the end."""

    def __init__(self, **options: Any) -> None:
        """Declare parameters, build the world, create topics.

        Args:
            options: Passed on to rclpy.node.Node, for example `context`.

        Raises:
            ConfigError: Wrong parameters, or a spec that this world cannot play.
        """
        super().__init__('sim_node', **options)
        self.parameters = declare(self, SimParameters)
        self.spec = RobotSpec.from_yaml(
            self.parameters.spec or resource('config/robots/pusht.yaml')
        )
        _require_playable(self.spec)
        self.failure: BaseException | None = None
        self._world = PushTWorld(self.parameters.seed)
        self._lock = threading.Lock()  # guards the world, the command and the score
        self._target: np.ndarray | None = None
        self._counts = {'commands': 0, 'rejected_commands': 0, 'late_restarts': 0}
        self._begin_episode(self.parameters.seed)
        # A spec without a camera still has one to watch; it costs nothing until one subscribes.
        cameras = (
            self.spec.cameras or RobotSpec.from_yaml(resource('config/robots/pusht.yaml')).cameras
        )
        self._cameras = [
            (
                camera,
                self.create_publisher(Image, camera.topic, qos.SENSOR_OUTPUT),
                self.create_publisher(
                    CompressedImage, f'{camera.topic}/compressed', qos.SENSOR_OUTPUT
                ),
            )
            for camera in cameras
        ]
        kinds = {JOINT_STATE: JointState, FLOAT64_MULTI_ARRAY: Float64MultiArray}
        self._states = [
            (part, self.create_publisher(kinds[part.type], part.topic, qos.SENSOR_OUTPUT))
            for part in self.spec.state
        ]
        self._score = self.create_publisher(DiagnosticStatus, '~/score', qos.STATUS)
        self.create_subscription(
            Float64MultiArray, self.spec.action.command_topic, self._on_command, qos.COMMAND
        )
        self.create_service(Trigger, '~/reset', self._on_reset)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name='world', daemon=True)

    def start(self) -> bool:
        """Let time run."""
        self._thread.start()
        self.get_logger().info(
            f'{self.spec.robot}: seed {self._seed}, commands on {self.spec.action.command_topic}'
        )
        return True

    def close(self) -> None:
        """Stop time; safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _on_command(self, message: Float64MultiArray) -> None:
        values = np.array(message.data, dtype=np.float64)
        names = self.spec.action_names
        wrong = values.shape != (len(names),) or not np.isfinite(values).all()
        with self._lock:
            self._counts['rejected_commands' if wrong else 'commands'] += 1
            if not wrong:
                self._target = values[[names.index(name) for name in STATE_NAMES]]
        if wrong:
            self.get_logger().warning(
                f'rejected a command: got {values.tolist()}, expected {len(names)} finite '
                f'numbers ({", ".join(names)})',
                throttle_duration_sec=1.0,
            )

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self._world.reset(self._seed + 1)
            self._begin_episode(self._seed + 1)
        response.success = True
        response.message = f'episode with seed {self._seed}'
        self.get_logger().info(response.message)
        return response

    def _begin_episode(self, seed: int) -> None:
        self._seed, self._substeps, self._target = seed, 0, None
        self._coverage = self._initial_coverage = self._max_coverage = self._world.coverage()

    def _run(self) -> None:
        """Play the world until `close`; a failure ends the node instead of freezing it."""
        try:
            self._play()
        except BaseException as error:
            # Publishing fails once the context is shut down: then there is nothing to report.
            if self.context.ok():
                self.failure = error
                self.get_logger().fatal(f'the world stopped: {error!r}')
                self.context.try_shutdown()

    def _play(self) -> None:
        start_ns, tick = self.get_clock().now().nanoseconds, 0
        while not self._stop.is_set():
            stamp_ns = start_ns + tick * SUBSTEP_NS
            wait_ns = stamp_ns - self.get_clock().now().nanoseconds
            if abs(wait_ns) > MAX_LAG_NS:
                self.get_logger().warning(
                    f'{-wait_ns / 1e6:.0f} ms behind the clock: time goes on from now'
                )
                with self._lock:
                    self._counts['late_restarts'] += 1
                start_ns, tick = self.get_clock().now().nanoseconds, 0
                continue
            if wait_ns > 0 and self._stop.wait(wait_ns / 1e9):
                return
            # Publish what is now, then move: a command acts from the next instant on.
            with self._lock:
                self._publish(stamp_ns, tick)
                self._world.substep(self._target)
                self._substeps += 1
            tick += 1

    def _publish(self, stamp_ns: int, tick: int) -> None:
        header = Header(stamp=Time(nanoseconds=stamp_ns).to_msg())
        for part, publisher in self._states:
            if tick % _every(part) == 0:
                publisher.publish(self._state_message(part, header))
        for camera, raw, compressed in self._cameras:
            if tick % _every(camera) == 0:
                header.frame_id = f'{camera.name}_optical_frame'
                to_raw, to_compressed = (
                    publisher.get_subscription_count() > 0 for publisher in (raw, compressed)
                )
                if to_raw or to_compressed:  # drawing costs milliseconds
                    pixels = self._world.image()
                    if to_raw:
                        raw.publish(_image(pixels, header))
                    if to_compressed:
                        quality = self.parameters.jpeg_quality
                        compressed.publish(_jpeg(pixels, header, quality))
        if tick % SCORE_EVERY == 0:
            self._coverage = self._world.coverage()
            self._max_coverage = max(self._max_coverage, self._coverage)
            self._score.publish(self._score_message())

    def _state_message(self, part: StateSpec, header: Header) -> JointState | Float64MultiArray:
        if part.type == FLOAT64_MULTI_ARRAY:
            return Float64MultiArray(data=self._world.keypoints().astype(np.float64).tolist())
        position = dict(zip(STATE_NAMES, self._world.pusher().tolist(), strict=True))
        return JointState(
            header=header, name=list(part.names), position=[position[n] for n in part.names]
        )

    def _score_message(self) -> DiagnosticStatus:
        _, _, x, y, angle = self._world.state().tolist()
        values = {
            'coverage': f'{self._coverage:.6f}',
            'max_coverage': f'{self._max_coverage:.6f}',
            'initial_coverage': f'{self._initial_coverage:.6f}',
            'success': str(self._max_coverage > SUCCESS_COVERAGE).lower(),
            'seed': self._seed,
            'steps': self._substeps // SCORE_EVERY,
            'block_x': f'{x:.4f}',
            'block_y': f'{y:.4f}',
            'block_angle': f'{angle:.6f}',
            **self._counts,
        }
        text = f'coverage {self._coverage:.3f}, highest {self._max_coverage:.3f}'
        return diagnostic('sim_node: score', self.spec.robot, DiagnosticStatus.OK, text, values)


def _every(part: CameraSpec | StateSpec) -> int:
    return round(1e9 / (part.rate_hz * SUBSTEP_NS))


def _image(pixels: np.ndarray, header: Header) -> Image:
    height, width, _ = pixels.shape
    return Image(
        header=header,
        height=height,
        width=width,
        encoding='rgb8',
        step=3 * width,
        data=array('B', pixels.tobytes()),  # other types are checked byte by byte
    )


def _jpeg(pixels: np.ndarray, header: Header, quality: int) -> CompressedImage:
    _, content = cv2.imencode('.jpg', pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(
        header=header, format='rgb8; jpeg compressed bgr8', data=array('B', content.tobytes())
    )


def _require_playable(spec: RobotSpec) -> None:
    """Refuse a spec with streams that the PushT world does not have.

    Raises:
        ConfigError: Lists every problem.
    """
    problems = []
    for part in spec.streams:
        if abs(_every(part) * SUBSTEP_NS * part.rate_hz / 1e9 - 1) > 1e-6:
            problems.append(f'{part.topic}: {part.rate_hz:g} Hz does not divide 100 Hz')
    for part in spec.state:
        known = STATE_NAMES if part.type == JOINT_STATE else KEYPOINT_NAMES
        exact = part.type == FLOAT64_MULTI_ARRAY  # its numbers carry no names
        if not set(part.names) <= set(known) or (exact and part.names != known):
            problems.append(f'{part.topic}: names {list(part.names)}, expected {list(known)}')
        if part.fields != ('position',):
            problems.append(f'{part.topic}: fields {list(part.fields)}, expected position alone')
    for camera in spec.cameras:
        if camera.crop is not None or camera.height > IMAGE_SIZE or camera.width > IMAGE_SIZE:
            problems.append(f'{camera.topic}: expected {IMAGE_SIZE}x{IMAGE_SIZE} without a crop')
    if sorted(spec.action_names) != sorted(STATE_NAMES) or spec.action.reference != 'absolute':
        problems.append(f'action: expected absolute {list(STATE_NAMES)}')
    if spec.action.command_interface != 'forward_position':
        problems.append(
            f"action: got command_interface '{spec.action.command_interface}', expected "
            "'forward_position'"
        )
    if problems:
        raise ConfigError(
            listed(f"the PushT world cannot play the robot '{spec.robot}'", problems)
        )


def main(args: list[str] | None = None) -> int:
    """Run the node; see vqbet_ros.ros.running.run."""
    return run('sim_node', SimNode, args)


if __name__ == '__main__':
    sys.exit(main())
