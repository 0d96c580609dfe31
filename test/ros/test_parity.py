"""Messages over DDS through the node's input, and from a bag through `align`: the same tensors."""

import threading
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy')
pytestmark = [pytest.mark.ros, pytest.mark.slow]

import cv2  # noqa: E402
from geometry_msgs.msg import PoseStamped  # noqa: E402
from prepared_rows import require_same, rows_of  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rclpy.time import Time  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402
from vqbet_ros.data.bag import Bag  # noqa: E402
from vqbet_ros.data.messages import DECODERS  # noqa: E402
from vqbet_ros.recording.bag import BagOptions, BagWriter, Topic  # noqa: E402
from vqbet_ros.ros.inputs import Input  # noqa: E402
from vqbet_ros.runtime.observation import Observation, ObservationBuffer  # noqa: E402
from vqbet_ros.spec import RobotSpec  # noqa: E402

MS = 1_000_000
HISTORY = 3
END_MS = 1600
TIMEOUT_S = 10.0
SPEC = RobotSpec.from_text(
    """
robot: arm
rate_hz: 10.0
cameras:
  - {name: front, topic: /front, type: sensor_msgs/msg/Image, height: 24, width: 32,
     rate_hz: 10.0, max_age_s: 0.25}
  - {name: wrist, topic: /wrist/compressed, type: sensor_msgs/msg/CompressedImage, height: 30,
     width: 40, rate_hz: 15.0, max_age_s: 0.2}
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [a, b, claw], unit: rad,
     rate_hz: 50.0, max_age_s: 0.1}
  - {topic: /pose, type: geometry_msgs/msg/PoseStamped, names: [tool0], unit: m, rate_hz: 50.0,
     max_age_s: 0.1, frame_id: base}
action:
  names: [a, b]
  unit: rad
  command_topic: /commands
  record_topic: null
  limits: {a: {position: [-9.0, 9.0]}, b: {position: [-9.0, 9.0]}}
""",
    'a test',
)
TYPES = {
    '/front': Image,
    '/wrist/compressed': CompressedImage,
    '/joint_states': JointState,
    '/pose': PoseStamped,
}


class Feed:
    """Stands where the pipeline does: stores what an Input hands over, and counts it."""

    def __init__(self) -> None:
        self.buffer = ObservationBuffer(SPEC, DECODERS, HISTORY, jitter_ns=SPEC.period_ns // 4)
        self._stored = 0
        self._news = threading.Condition()

    def put(self, stream: str, stamp_ns: int | None, receive_ns: int, payload: bytes) -> None:
        assert self.buffer.put(stream, stamp_ns, receive_ns, payload)
        with self._news:
            self._stored += 1
            self._news.notify_all()

    def wait(self, count: int) -> None:
        with self._news:
            came = self._news.wait_for(lambda: self._stored >= count, TIMEOUT_S)
        assert came, f'{self._stored} of {count} messages came'


class Recorder:
    """Writes every message's bytes into a bag as they come."""

    def __init__(self, node: Any, path: Any) -> None:
        self.bag = BagWriter(path, BagOptions(), {'vqbet.spec': SPEC.to_yaml()})
        self._written = 0
        self._news = threading.Condition()
        for topic, kind in TYPES.items():
            channel = self.bag.add_topic(Topic(topic, SPEC.recorded_topics[topic]))
            node.create_subscription(kind, topic, self._writing(channel), 100, raw=True)

    def _writing(self, channel: int) -> Any:
        def write(payload: bytes) -> None:
            now_ns = time.time_ns()
            self.bag.write(channel, payload, now_ns, now_ns)
            with self._news:
                self._written += 1
                self._news.notify_all()

        return write

    def wait(self, count: int) -> None:
        with self._news:
            came = self._news.wait_for(lambda: self._written >= count, TIMEOUT_S)
        assert came, f'{self._written} of {count} messages were recorded'


def pictures(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def messages(start_ns: int, rng: np.random.Generator) -> list[tuple[int, str, Any]]:
    """What a robot says, in the order of its stamps, which tremble."""
    made: list[tuple[int, str, Any]] = []
    for ms in range(0, END_MS, 100):
        image = Image(height=48, width=64, encoding='bgr8', step=64 * 3 + 8)
        rows = np.pad(pictures(rng, 48, 64).reshape(48, -1), ((0, 0), (0, 8)))
        image.data = rows.tobytes()
        made.append((ms * MS, '/front', image))
    for at_ms in np.arange(0, END_MS, 1000 / 15).tolist():
        content = cv2.imencode('.jpg', pictures(rng, 60, 80))[1].tobytes()
        image = CompressedImage(format='bgr8; jpeg compressed bgr8', data=content)
        made.append((round((at_ms + rng.uniform(0, 9)) * MS), '/wrist/compressed', image))
    for i, ms in enumerate(range(0, END_MS, 20)):
        stamp = round((ms + rng.uniform(0, 6)) * MS)
        arm = JointState(name=['b', 'a'], position=[np.sin(i / 9), i / 7])
        claw = JointState(name=['claw'], position=[float(i % 40 > 20)])
        made.append((stamp, '/joint_states', arm))
        made.append((stamp + (i % 3) * MS, '/joint_states', claw))
        pose = PoseStamped()
        pose.header.frame_id = 'base'
        pose.pose.position.x = i / 3
        sign = float(rng.choice([-1, 1]))
        pose.pose.orientation.z = sign * float(np.sin(i / 30))
        pose.pose.orientation.w = sign * float(np.cos(i / 30))
        made.append((stamp, '/pose', pose))
    for offset_ns, _, message in made:
        message.header.stamp = Time(nanoseconds=start_ns + offset_ns).to_msg()
    return sorted(made, key=lambda item: item[0])


def test_every_tick_is_the_same_live_and_from_a_bag(graph, tmp_path):
    import rclpy

    node = rclpy.create_node(
        'listener',
        context=graph.context,
        parameter_overrides=[Parameter('use_sim_time', value=False)],
    )
    feed, recorder = Feed(), Recorder(node, tmp_path / 'bag')
    inputs = [Input(node, part, feed) for part in SPEC.streams]  # type: ignore[arg-type]
    graph.add(node)
    robot = graph.add(rclpy.create_node('robot', context=graph.context))
    publishers = {
        topic: robot.create_publisher(kind, topic, QoSProfile(depth=100))
        for topic, kind in TYPES.items()
    }
    deadline = time.monotonic() + TIMEOUT_S
    while any(publisher.get_subscription_count() < 2 for publisher in publishers.values()):
        assert time.monotonic() < deadline, 'the subscriptions were not found'
        threading.Event().wait(0.01)
    live: dict[int, Observation] = {}
    start_ns = time.time_ns() - 3500 * MS
    for count, (_, topic, message) in enumerate(messages(start_ns, np.random.default_rng(0)), 1):
        publishers[topic].publish(message)
        feed.wait(count)  # one after the other, so that none is lost on the way
        stamp_ns = Time.from_msg(message.header.stamp).nanoseconds
        observation = feed.buffer.observe(stamp_ns, HISTORY)
        if isinstance(observation, Observation):
            live[observation.stamp_ns] = observation
    recorder.wait(count)
    recorder.bag.close({'vqbet.spec': SPEC.to_yaml()})
    assert all(one.lost == 0 for one in inputs)
    counts = feed.buffer.counts()
    assert all(of.bad == of.not_newer == of.unstamped == 0 for of in counts.values()), counts

    bag = Bag.open(tmp_path / 'bag')
    assert bag.spec is not None
    rows = rows_of(bag.messages(), bag.spec)
    stamps_ns, _, images = rows
    assert len(stamps_ns) >= END_MS // 100 - 3
    assert set(images) == {'front', 'wrist'}
    for row, stamp_ns in enumerate(stamps_ns.tolist()):
        require_same(live[stamp_ns], row, rows)  # what the node went by, of its own accord
