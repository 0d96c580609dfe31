"""What `vqbet bench record` compares with: messages that are deserialised, into a rosbags writer.

This is how recorders in Python are commonly written: subscribe to typed messages, serialise each
again, write it in the callback.
"""

import argparse
from pathlib import Path
import sys
from typing import Any

from rclpy.node import Node
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from sensor_msgs.msg import CompressedImage, Image, JointState
from vqbet_ros.recording.bench_load import CAMERA_HZ, JOINTS_HZ, TOPICS
from vqbet_ros.ros.recorder_qos import depth_for
from vqbet_ros.ros.running import run
from vqbet_ros.spec import COMPRESSED_IMAGE, IMAGE, JOINT_STATE

_CLASSES = {IMAGE: Image, COMPRESSED_IMAGE: CompressedImage, JOINT_STATE: JointState}
_TELL_S = 0.2


class Baseline(Node):
    """Records the load from its start until its end, and prints how much, line by line.

    Args:
        path: The bag's folder; it must not exist.
    """

    def __init__(self, path: Path) -> None:
        """Open the bag."""
        super().__init__('bench_baseline')
        self.failure: BaseException | None = None
        self._written = 0
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()

    def start(self) -> bool:
        """Subscribe."""
        typestore = get_typestore(Stores.ROS2_HUMBLE)
        for topic, kind in TOPICS.items():
            connection = self._writer.add_connection(topic, kind, typestore=typestore)
            rate_hz = JOINTS_HZ if kind == JOINT_STATE else CAMERA_HZ
            self.create_subscription(
                _CLASSES[kind],
                topic,
                lambda message, connection=connection: self._write(connection, message),
                depth_for(rate_hz),
            )
        self.create_timer(_TELL_S, self._tell)
        return True

    def close(self) -> None:
        """Close the bag."""
        self._writer.close()
        self._tell()

    def _tell(self) -> None:
        print('written', self._written, flush=True)

    def _write(self, connection: Any, message: Any) -> None:
        now_ns = self.get_clock().now().nanoseconds
        self._writer.write(connection, now_ns, serialize_message(message))
        self._written += 1


def main(args: list[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bag', type=Path, help='folder to make')
    options = parser.parse_args(args)
    return run('bench_baseline', lambda: Baseline(options.bag), [])


if __name__ == '__main__':
    sys.exit(main())
