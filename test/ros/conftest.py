"""Real nodes over real DDS: one context and one domain for each test, and waiting on events."""

from collections.abc import Iterator, Sequence
from pathlib import Path
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

TIMEOUT_S = 20.0


class Listener:
    """Keeps every message of one topic and waits for the one that is looked for."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.messages: list[Any] = []
        self._news = threading.Condition()

    def __call__(self, message: Any) -> None:
        with self._news:
            self.messages.append(message)
            self._news.notify_all()

    def __len__(self) -> int:
        with self._news:
            return len(self.messages)

    def clear(self) -> None:
        with self._news:
            self.messages.clear()

    def wait(self, accept=lambda message: True, *, count=1, timeout_s=TIMEOUT_S, what='') -> Any:
        """Return the `count`-th message that is accepted, counted from the last `clear`."""

        def matching():
            return [message for message in self.messages if accept(message)]

        with self._news:
            if not self._news.wait_for(lambda: len(matching()) >= count, timeout_s):
                last = self.messages[-1] if self.messages else 'none'
                seen = f'{len(matching())} of {count} {what or "wanted"} message(s)'
                pytest.fail(
                    f'{self.topic}: saw {seen} in {timeout_s:g} s; '
                    f'{len(self.messages)} in all, the last: {last}'
                )
            return matching()[count - 1]


class Graph:
    """Nodes of one test, each spun by its own thread."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.context import Context

        self.context = Context()
        self.domain_id = random.randint(1, 100)
        rclpy.init(context=self.context, domain_id=self.domain_id)
        self._spinning: list[tuple[Any, Any, threading.Thread]] = []
        self.node = self.add(rclpy.create_node('observer', context=self.context))

    def add(self, node: Any) -> Any:
        """Spin a node that was made with this graph's context."""
        from rclpy.executors import SingleThreadedExecutor

        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)

        def spin() -> None:
            try:
                executor.spin()
            except Exception:
                # The test ends by shutting the context down, under whatever is being published.
                if self.context.ok():
                    raise

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        self._spinning.append((node, executor, thread))
        return node

    def remove(self, node: Any) -> None:
        """Let a node end before the others."""
        found = next(one for one in self._spinning if one[0] is node)
        self._spinning.remove(found)
        _, executor, thread = found
        executor.shutdown()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive(), 'the node did not stop spinning'
        node.destroy_node()

    def listen(self, kind: Any, topic: str) -> Listener:
        """Subscribe; best effort matches every publisher."""
        from rclpy.qos import qos_profile_sensor_data

        listener = Listener(topic)
        self.node.create_subscription(kind, topic, listener, qos_profile_sensor_data)
        return listener

    def call(self, kind: Any, name: str, request: Any = None) -> Any:
        """Call a service and return its answer."""
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=TIMEOUT_S), f'no service {name}'
        done = threading.Event()
        future = client.call_async(request or kind.Request())
        future.add_done_callback(lambda _: done.set())
        assert done.wait(TIMEOUT_S), f'{name} did not answer in {TIMEOUT_S:g} s'
        return future.result()

    def close(self) -> None:
        """Shut everything down."""
        self.context.try_shutdown()
        for _, _, thread in self._spinning:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), 'a node did not stop spinning'
        for node, executor, _ in self._spinning:
            executor.shutdown()
            node.destroy_node()


@pytest.fixture
def graph() -> Iterator[Graph]:
    """An empty graph of its own."""
    graph = Graph()
    yield graph
    graph.close()


@pytest.fixture
def start_process(graph, monkeypatch):
    """Start a node as a process in the test's own graph."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain_id))
    running = []

    def start(name, **parameters):
        command = [sys.executable, '-m', f'vqbet_ros.ros.{name}', '--ros-args']
        for key, value in parameters.items():
            command += ['-p', f'{key}:={value}']
        # Under nohup it would be inherited that nobody minds the terminal's end.
        minds = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        finally:
            signal.signal(signal.SIGHUP, minds)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def values():
    """Turn a DiagnosticStatus into a mapping."""
    return lambda status: {item.key: item.value for item in status.values}


@pytest.fixture
def make_checkpoint(tmp_path):
    """Save a tiny real policy that always commands the same place."""

    def make(target, robot='pusht'):
        from vqbet_ros.config import ModelConfig, VisionConfig
        from vqbet_ros.policy.checkpoint import save_checkpoint
        from vqbet_ros.policy.normalizer import Stats
        from vqbet_ros.policy.policy import Policy
        from vqbet_ros.resources import resource
        from vqbet_ros.spec import RobotSpec

        def stats(low, high):
            low, high = tuple(map(float, low)), tuple(map(float, high))
            return Stats(min=low, max=high, mean=low, std=tuple(1.0 for _ in low))

        spec = RobotSpec.from_yaml(resource(f'config/robots/{robot}.yaml'))
        config = ModelConfig(
            history=2,
            layers=1,
            heads=2,
            width=16,
            latent=8,
            tokenizer_hidden=8,
            codebook_size=4,
            vision=VisionConfig(weights='none', stages=1, features=8),
        )
        # A channel that never moved comes out as its constant, whatever the network says.
        statistics = {
            'state': stats([0] * spec.state_dim, [512] * spec.state_dim),
            'action': stats(target, target),
        }
        policy = Policy(config, spec, statistics).eval()
        save_checkpoint(tmp_path / 'checkpoint', policy, card='a test', training={})
        return tmp_path / 'checkpoint'

    return make


def until(condition: Any, what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait for a condition that other threads bring about."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f'{what}: not within {timeout_s:g} s')
        pause.wait(0.01)


class Robot:
    """Publishers at fixed rates, which remember every byte that they sent."""

    def __init__(self, graph: Graph) -> None:
        import rclpy

        self.node = graph.add(rclpy.create_node('robot', context=graph.context))
        self.sent: dict[str, list[bytes]] = {}
        self._publishers: dict[str, tuple[Any, Any]] = {}

    def publish(self, topic: str, make: Any, rate_hz: float, qos: Any = 100) -> None:
        """Publish `make(i)` for i = 0, 1, ... until `stop`."""
        from rclpy.serialization import serialize_message

        sent = self.sent.setdefault(topic, [])
        publisher = self.node.create_publisher(type(make(0)), topic, qos)

        def send() -> None:
            payload = serialize_message(make(len(sent)))
            sent.append(payload)
            publisher.publish(payload)

        self._publishers[topic] = (publisher, self.node.create_timer(1 / rate_hz, send))

    def stop(self, topic: str) -> None:
        """Take a publisher away."""
        publisher, timer = self._publishers.pop(topic)
        self.node.destroy_timer(timer)
        self.node.destroy_publisher(publisher)

    def pause(self) -> None:
        """Send nothing more, and let the publishers be."""
        for _, timer in self._publishers.values():
            timer.cancel()

    def stamp(self) -> Any:
        """Return now, for a header."""
        return self.node.get_clock().now().to_msg()

    def image(self, i: int) -> Any:
        from sensor_msgs.msg import Image

        image = Image(height=24, width=32, encoding='rgb8', step=96, data=[i % 256] * 2304)
        image.header.stamp = self.stamp()
        return image

    def jpeg(self, i: int) -> Any:
        from sensor_msgs.msg import CompressedImage

        image = CompressedImage(format='jpeg', data=[i % 256] * (100 + i % 7))
        image.header.stamp = self.stamp()
        return image

    def joints(self, i: int, names: Sequence[str] = ('x', 'y')) -> Any:
        from sensor_msgs.msg import JointState

        joints = JointState(name=names, position=[float(i)] * len(names))
        joints.header.stamp = self.stamp()
        return joints

    def command(self, i: int) -> Any:
        from std_msgs.msg import Float64MultiArray

        return Float64MultiArray(data=[float(i), -float(i)])

    def publish_all(self, but: Sequence[str] = ()) -> None:
        """Publish what `SPEC` asks for, somewhat faster: the machine may be busy."""
        for topic, make, rate_hz in (
            ('/camera', self.image, 20.0),
            ('/joint_states', self.joints, 50.0),
            ('/commands', self.command, 20.0),
        ):
            if topic not in but:
                self.publish(topic, make, rate_hz)


SPEC = """
robot: small
rate_hz: 10.0
cameras:
  - {name: front, topic: /camera, type: sensor_msgs/msg/Image, height: 24, width: 32,
     rate_hz: 14.0, max_age_s: 1.0}
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [x, 'y'], unit: rad,
     rate_hz: 35.0, max_age_s: 1.0}
action:
  names: [x, 'y']
  unit: rad
  record_topic: /commands
  record_type: std_msgs/msg/Float64MultiArray
  command_topic: /commands
  limits: {x: {position: [-1.0, 1.0]}, 'y': {position: [-1.0, 1.0]}}
"""


class Recorder:
    """A recorder_node and what a person does with it."""

    def __init__(self, graph: Graph, node: Any, root: Path) -> None:
        from diagnostic_msgs.msg import DiagnosticStatus

        self.node, self.root, self._graph = node, root, graph
        self.status = graph.listen(DiagnosticStatus, '/recorder_node/status')

    def call(self, command: str, data: bool | None = None) -> Any:
        """Call one of its services."""
        from std_srvs.srv import SetBool, Trigger

        if data is not None:
            return self._graph.call(
                SetBool, f'/recorder_node/{command}', SetBool.Request(data=data)
            )
        return self._graph.call(Trigger, f'/recorder_node/{command}')

    def wait(self, text: str) -> Any:
        """Wait for a status that says so from now on."""
        self.status.clear()
        return self.status.wait(lambda status: text in status.message, what=repr(text))

    def start(self) -> None:
        """Begin an episode as soon as all is there."""
        self.wait('idle: ready')
        answer = self.call('start')
        assert answer.success, answer.message

    def stop(self) -> Path:
        """End the episode; returns its folder."""
        path = Path(self.node.episodes.session.path)
        answer = self.call('stop')
        assert answer.success, answer.message
        return path

    def catch_up(self, robot: Robot) -> None:
        """Stop the robot, and wait until its last messages are here."""
        robot.pause()
        for one in self.node.streams.inputs:
            sent = robot.sent.get(one.expected.topic)
            if sent:
                until(lambda one=one, sent=sent: one.newest == sent[-1], one.expected.topic)


@pytest.fixture
def robot(graph: Graph) -> Robot:
    """A robot that publishes nothing yet."""
    return Robot(graph)


@pytest.fixture
def small_spec(tmp_path: Path) -> Path:
    """The spec of what `Robot.publish_all` publishes."""
    path = tmp_path / 'small.yaml'
    path.write_text(SPEC, encoding='utf-8')
    return path


@pytest.fixture
def record(graph: Graph, tmp_path: Path, small_spec: Path) -> Iterator[Any]:
    """Start a recorder_node with parameters."""
    nodes = []

    def start(**parameters: Any) -> Recorder:
        from rclpy.parameter import Parameter
        from vqbet_ros.ros.recorder_node import RecorderNode

        values = {
            'spec': str(small_spec),
            'root': str(tmp_path / 'recordings'),
            'warn_free_gb': 0.0,
            'stop_free_gb': 0.0,
            **parameters,
        }
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = RecorderNode(context=graph.context, parameter_overrides=overrides)
        nodes.append(node)
        graph.add(node)
        node.start()
        return Recorder(graph, node, tmp_path / 'recordings')

    yield start
    for node in nodes:
        node.close()


def payloads(bag: Path) -> dict[str, list[bytes]]:
    """Read a bag's messages by topic, with the library that knows nothing of ROS."""
    from mcap.reader import make_reader

    found: dict[str, list[bytes]] = {}
    with (bag / f'{bag.name}_0.mcap').open('rb') as stream:
        for _, channel, message in make_reader(stream).iter_messages(log_time_order=False):
            found.setdefault(channel.topic, []).append(message.data)
    return found


@pytest.fixture
def read_bag():
    """Read a bag's messages by topic."""
    return payloads


@pytest.fixture
def remote_recorder(graph: Graph, tmp_path: Path) -> Recorder:
    """What calls a recorder_node of another process."""
    return Recorder(graph, None, tmp_path / 'recordings')
