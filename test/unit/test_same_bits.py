"""The running node and the preparing of bags give the same tensors for the same messages."""

import cdr_messages as cdr
import numpy as np
from prepared_rows import require_same, rows_of
import pytest
from vqbet_ros.data.bag import BagMessage
from vqbet_ros.data.cdr import header_stamp_ns
from vqbet_ros.data.messages import DECODERS
from vqbet_ros.message_types import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    POSE_STAMPED,
    TWIST_STAMPED,
)
from vqbet_ros.runtime.observation import Observation, ObservationBuffer
from vqbet_ros.spec import RobotSpec

MS = 1_000_000
T = 1_700_000_000_000 * MS
HISTORY = 3
SPEC = RobotSpec.from_text(
    """
robot: arm
rate_hz: 10.0
cameras:
  - {name: front, topic: /front, type: sensor_msgs/msg/Image, height: 24, width: 32,
     rate_hz: 10.0, max_age_s: 0.25, latency_s: 0.02,
     crop: {top: 3, left: 0, height: 48, width: 64}}
  - {name: wrist, topic: /wrist, type: sensor_msgs/msg/CompressedImage, height: 30, width: 40,
     rate_hz: 30.0, max_age_s: 0.2}
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [a, b, claw], unit: rad,
     rate_hz: 100.0, max_age_s: 0.1, hold: [claw]}
  - {topic: /pose, type: geometry_msgs/msg/PoseStamped, names: [tool0], unit: m, rate_hz: 50.0,
     max_age_s: 0.1}
  - {topic: /twist, type: geometry_msgs/msg/TwistStamped, names: [tool0], unit: m/s,
     rate_hz: 50.0, max_age_s: 0.1}
action:
  names: [a, b]
  unit: rad
  command_topic: /commands
  record_topic: null
  limits: {a: {position: [-9.0, 9.0]}, b: {position: [-9.0, 9.0]}}
""",
    'a test',
)


def smooth(rng, height, width):
    """Return a picture that a JPEG keeps."""
    small = rng.integers(0, 256, (3, 4, 3)).astype(np.float64)
    rows, columns = np.linspace(0, 1.99, height), np.linspace(0, 2.99, width)
    r, c = rows.astype(int), columns.astype(int)
    u, v = (rows - r)[:, None, None], (columns - c)[None, :, None]
    top = small[r][:, c] * (1 - v) + small[r][:, c + 1] * v
    bottom = small[r + 1][:, c] * (1 - v) + small[r + 1][:, c + 1] * v
    return (top * (1 - u) + bottom * u).astype(np.uint8)


def trembling(rng, period_ms, by_ms, end_ms=4000):
    """Stamps in ns of a stream."""
    return [
        T + round((ms + rng.uniform(-by_ms, by_ms)) * MS)
        for ms in np.arange(period_ms, end_ms, period_ms)
    ]


def recording(rng, camera_trembles_ms=0.0):
    """Messages in the order of their arrival."""
    messages = []

    def add(topic, kind, stamp_ns, late_ms, payload):
        messages.append(BagMessage(topic, kind, stamp_ns + round(late_ms * MS), payload))

    for stamp in trembling(rng, 100, camera_trembles_ms):
        add('/front', IMAGE, stamp, 35, cdr.image(stamp, smooth(rng, 60, 64)))
    for stamp in trembling(rng, 1000 / 30, 6):
        add('/wrist', COMPRESSED_IMAGE, stamp, 15, cdr.jpeg(stamp, smooth(rng, 60, 80)))
    for i, stamp in enumerate(trembling(rng, 10, 3)):
        arm = cdr.joints(stamp, b=np.sin(i / 20), a=i / 7)
        add('/joint_states', JOINT_STATE, stamp, 1, arm)
        if i % 3 == 0:  # the gripper's own driver
            later = stamp + (0 if i % 2 else 2 * MS)
            add('/joint_states', JOINT_STATE, later, 1.1, cdr.joints(later, claw=i // 50))
    for i, stamp in enumerate(trembling(rng, 20, 5)):
        quaternion = np.array([0.1, np.sin(i / 40), 0, np.cos(i / 40)]) * rng.choice([-1, 1])
        quaternion /= np.linalg.norm(quaternion)
        add('/pose', POSE_STAMPED, stamp, 2, cdr.pose(stamp, [i, i / 3, 0], quaternion))
        add('/twist', TWIST_STAMPED, stamp, 2, cdr.twist(stamp, [i, 0, 1 / (i + 1)], [0, i, 0]))
    return sorted(messages, key=lambda message: message.log_ns)


def put(buffer, spec, message):
    stream = next(part.stream for part in spec.streams if part.topic == message.topic)
    stamp_ns = header_stamp_ns(message.payload, message.type)
    buffer.put(stream, stamp_ns, message.log_ns, message.payload)


@pytest.mark.parametrize('trembles_ms', [0.0, 9.0])
@pytest.mark.parametrize('seed', range(3))
def test_every_tick_is_what_the_running_node_sees(seed, trembles_ms):
    messages = recording(np.random.default_rng(seed), trembles_ms)
    rows = rows_of(messages, SPEC)
    stamps_ns, *_ = rows
    buffer = ObservationBuffer(SPEC, DECODERS, HISTORY, jitter_ns=SPEC.period_ns // 4)
    arriving = iter(messages)
    for row, stamp_ns in enumerate(stamps_ns.tolist()):
        for message in arriving:
            put(buffer, SPEC, message)
            if message.log_ns > stamp_ns + 80 * MS:
                break
        observation = buffer.observe_at(stamp_ns, stamp_ns + 80 * MS, HISTORY)
        assert isinstance(observation, Observation), observation
        require_same(observation, row, rows)
    assert len(stamps_ns) > 35


def test_the_newest_observation_is_that_of_the_tick():
    """Without a tremble the slowest camera's stamps are the ticks, and what the node goes by."""
    messages = recording(np.random.default_rng(0))
    rows = rows_of(messages, SPEC)
    stamps_ns, *_ = rows
    buffer = ObservationBuffer(SPEC, DECODERS, HISTORY, jitter_ns=SPEC.period_ns // 4)
    seen = set()
    for message in messages:
        put(buffer, SPEC, message)
        observation = buffer.observe(message.log_ns, HISTORY)
        if isinstance(observation, Observation) and observation.stamp_ns in stamps_ns:
            row = int(np.searchsorted(stamps_ns, observation.stamp_ns))
            require_same(observation, row, rows)
            seen.add(row)
    assert len(seen) >= len(stamps_ns) - 1
