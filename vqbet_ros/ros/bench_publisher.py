"""The robot of `vqbet bench record` and `control`: publishes a load, and notes what it sent.

The messages are serialised beforehand and sent as bytes, so that this process takes little of the
machine that it shares with the recorder.
"""

import argparse
from pathlib import Path
import signal
import sys
import threading
import time
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image, JointState
from vqbet_ros.recording.bench_load import (
    CAMERA_HZ,
    checksum,
    HEIGHT,
    JOINTS,
    JOINTS_HZ,
    Template,
    TOPICS,
    WIDTH,
    write_ledger,
)
from vqbet_ros.spec import COMPRESSED_IMAGE, IMAGE, JOINT_STATE

_CLASSES = {IMAGE: Image, COMPRESSED_IMAGE: CompressedImage, JOINT_STATE: JointState}
_MARK = b'\xa5\x5a\xc3\x3c\x96\x69\xf0\x0f'
_PICTURES = 8  # different ones for each camera, sent in turns


def main(args: list[str] | None = None) -> int:
    """Publish until SIGINT or SIGTERM, then write the ledger."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--ledger', type=Path, help='.npy file to write at the end')
    parser.add_argument('--topics', nargs='+', choices=TOPICS, default=list(TOPICS), help='which')
    parser.add_argument('--joints-hz', type=float, default=JOINTS_HZ, help='of the joint states')
    options = parser.parse_args(args)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bench_publisher')
    sources = [
        _Source(node, index, topic, kind, options.joints_hz)
        for index, (topic, kind) in enumerate(TOPICS.items())
        if topic in options.topics
    ]
    rows = _publish(sources, stop)
    if options.ledger is not None:
        write_ledger(options.ledger, rows)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


class _Source:
    """One topic.

    Args:
        node: Publishes.
        index: Of the topic in the ledger; also its place in the cameras' period, so that they
            do not all send at once.
        topic: Name.
        kind: Message type.
        joints_hz: Rate of the joint states.
    """

    def __init__(self, node: Any, index: int, topic: str, kind: str, joints_hz: float) -> None:
        self._index = index
        self._templates = [
            Template(serialize_message(message), _MARK, as_float=kind == JOINT_STATE)
            for message in _messages(kind, np.random.default_rng(index))
        ]
        rate_hz = joints_hz if kind == JOINT_STATE else CAMERA_HZ
        # Processes that wait for a core for a fifth of a second lose nothing by that.
        depth = max(5, round(rate_hz / 5))
        profile = QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)
        self._publisher = node.create_publisher(_CLASSES[kind], topic, profile)
        self._period_ns = 1e9 / rate_hz
        self._phase = index / len(TOPICS)
        self.sent = 0

    @property
    def due_ns(self) -> int:
        """When the next message is due, from the beginning."""
        return round((self.sent + self._phase) * self._period_ns)

    def send(self, rows: list[tuple[int, int, int, int]]) -> None:
        """Publish the next message and write it down."""
        stamp_ns = time.time_ns()
        number = self.sent
        message = self._templates[number % len(self._templates)].message(stamp_ns, number)
        self._publisher.publish(message)
        self.sent += 1
        rows.append((self._index, number, stamp_ns, checksum(message)))


def _publish(sources: list[_Source], stop: threading.Event) -> list[tuple[int, int, int, int]]:
    rows: list[tuple[int, int, int, int]] = []
    start_ns = time.monotonic_ns()
    while not stop.is_set():
        source = min(sources, key=lambda source: source.due_ns)
        # Deadlines are absolute: what is late is sent late, and nothing is left out.
        wait_ns = start_ns + source.due_ns - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        source.send(rows)
    return rows


def _messages(kind: str, rng: np.random.Generator) -> list[Any]:
    """Make messages with _MARK in the place of their number."""
    if kind == JOINT_STATE:
        message = JointState(name=list(JOINTS))
        message.position = rng.normal(size=len(JOINTS)).tolist()
        message.velocity = rng.normal(size=len(JOINTS)).tolist()
        effort = np.concatenate([rng.normal(size=len(JOINTS) - 1), np.frombuffer(_MARK)])
        message.effort = effort.tolist()
        return [message]
    return [_picture(kind, rng) for _ in range(_PICTURES)]


def _picture(kind: str, rng: np.random.Generator) -> Any:
    """Make a noisy picture of coloured clouds, which compresses as photographs do."""
    clouds = cv2.resize(
        rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (WIDTH, HEIGHT), None, 0, 0, 2
    )
    noise = rng.normal(0, 6, clouds.shape)
    pixels = np.clip(clouds + noise, 0, 255).astype(np.uint8)
    if kind == IMAGE:
        image = Image(height=HEIGHT, width=WIDTH, encoding='rgb8', step=3 * WIDTH)
        image.header.frame_id = 'camera'
        image.data = pixels.tobytes()[: -len(_MARK)] + _MARK
        return image
    compressed = CompressedImage(format='jpeg')
    compressed.header.frame_id = 'camera'
    # What follows the end of a JPEG is no part of the picture.
    jpeg = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    compressed.data = jpeg + _MARK
    return compressed


if __name__ == '__main__':
    sys.exit(main())
