"""The bags that `vqbet bench data` measures: a camera, joints, commands, nothing special."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import get_typestore, Stores
from vqbet_ros.recording.bag import BagOptions, BagWriter, Topic
from vqbet_ros.spec import RobotSpec

BAGS = 4
RATE_HZ, JOINTS_HZ = 10, 50
HEIGHT_PX, WIDTH_PX = 480, 640
JPEG_QUALITY = 90
PICTURES = 50  # that are drawn for each bag, and shown again and again: drawing takes long
BEGIN_NS = 1_700_000_000_000_000_000
SPEC = """
robot: bench
rate_hz: 10.0
cameras:
  - {name: top, topic: /camera/image_raw/compressed, type: sensor_msgs/msg/CompressedImage,
     height: 96, width: 128, rate_hz: 10.0, max_age_s: 0.25}
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [a, b, c, d, e, f], unit: rad,
     rate_hz: 50.0, max_age_s: 0.1}
action:
  names: [a, b, c, d, e, f]
  unit: rad
  record_topic: /commands
  record_type: std_msgs/msg/Float64MultiArray
  command_topic: /commands
  limits: {a: {position: [-3, 3]}, b: {position: [-3, 3]}, c: {position: [-3, 3]},
           d: {position: [-3, 3]}, e: {position: [-3, 3]}, f: {position: [-3, 3]}}
"""


def scene(height: int, width: int, number: int) -> NDArray[np.uint8]:
    """Draw a picture with about as much in it as a robot's table: shades, edges, noise."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    shade = 90 + 60 * np.sin(x / width * 3 + number / 30) + 40 * np.cos(y / height * 2)
    picture = np.repeat(shade[:, :, None], 3, axis=2) * (1.0, 0.9, 0.8)
    for block in range(6):
        centre = (0.5 + 0.35 * np.array([np.sin(number / 40 + block), np.cos(block * 2.0)])) * (
            width,
            height,
        )
        colour = tuple(float(v) for v in np.random.default_rng(block).integers(0, 256, 3))
        cv2.circle(picture, tuple(int(v) for v in centre), height // 12, colour, -1)
    picture += rng.normal(0, 4, picture.shape)
    return np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8))


def write_bags(folder: Path, seconds: float) -> None:
    """Write BAGS bags of so many seconds each."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    types: Any = store.types
    spec = RobotSpec.from_text(SPEC, 'the spec of the bench')
    names = list(spec.action_names)
    none = np.zeros(0)
    layout = types['std_msgs/msg/MultiArrayLayout'](dim=[], data_offset=0)

    def header(stamp_ns: int) -> Any:
        stamp = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
        return types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera')

    def payload(kind: str, *fields: Any) -> bytes:
        return bytes(store.serialize_cdr(types[kind](*fields), kind))

    for index in range(BAGS):
        jpegs = [
            cv2.imencode(
                '.jpg',
                scene(HEIGHT_PX, WIDTH_PX, index * 10_000 + k),
                [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY],
            )[1].reshape(-1)
            for k in range(PICTURES)
        ]
        texts = {'vqbet.spec': spec.to_yaml(), 'vqbet.outcome': 'success'}
        writer = BagWriter(folder / f'bench_{index}', BagOptions(), texts)
        joints, image, commands = (
            writer.add_topic(Topic(topic, kind)) for topic, kind in spec_topics(spec)
        )
        for tick in range(round(seconds * JOINTS_HZ)):
            stamp_ns = BEGIN_NS + index * 10**13 + tick * 10**9 // JOINTS_HZ
            values = np.sin(tick / JOINTS_HZ + np.arange(len(names)))
            state = payload(
                'sensor_msgs/msg/JointState', header(stamp_ns), names, values, none, none
            )
            writer.write(joints, state, stamp_ns, stamp_ns, tick)
            if tick % (JOINTS_HZ // RATE_HZ):
                continue
            number = tick // (JOINTS_HZ // RATE_HZ)
            jpeg = jpegs[number % PICTURES]
            frame = payload('sensor_msgs/msg/CompressedImage', header(stamp_ns), 'jpeg', jpeg)
            writer.write(image, frame, stamp_ns, stamp_ns, number)
            command = payload('std_msgs/msg/Float64MultiArray', layout, values)
            writer.write(commands, command, stamp_ns, stamp_ns, number)
        writer.close(texts)


def spec_topics(spec: RobotSpec) -> tuple[tuple[str, str], ...]:
    """Return topics and types of joints, camera and commands."""
    source = spec.action.sources[0]
    return (
        (spec.state[0].topic, spec.state[0].type),
        (spec.cameras[0].topic, spec.cameras[0].type),
        (source.topic, source.type),
    )
