"""Subscriptions that store a message's bytes and stamps, and do nothing else."""

from collections.abc import Mapping
from typing import Any

from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from vqbet_ros.data.messages import header_stamp_ns
from vqbet_ros.errors import BadMessage
from vqbet_ros.ros import qos
from vqbet_ros.ros.pipeline import Pipeline
from vqbet_ros.spec import (
    CameraSpec,
    COMPRESSED_IMAGE,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    StateSpec,
)

_TYPES = {
    IMAGE: Image,
    COMPRESSED_IMAGE: CompressedImage,
    JOINT_STATE: JointState,
    FLOAT64_MULTI_ARRAY: Float64MultiArray,
}
# Humble's rclpy gives no such information: receive times are the callback's then, and messages
# that were lost on the way are not counted.
_HAS_MESSAGE_INFO = hasattr(Subscription, 'CallbackType')


class Input:
    """Feeds one stream of a pipeline.

    Args:
        node: Subscribes.
        part: The stream.
        pipeline: Takes the bytes.

    Attributes:
        lost: Messages that were published and did not arrive here.
    """

    def __init__(self, node: Node, part: CameraSpec | StateSpec, pipeline: Pipeline) -> None:
        """Subscribe."""
        self.part = part
        self.lost = 0
        self._node = node
        self._pipeline = pipeline
        self._sequence: dict[object, int] = {}
        self._sim_time = bool(node.get_parameter('use_sim_time').value)
        self._subscription = node.create_subscription(
            _TYPES[part.type],
            part.topic,
            self._with_info if _HAS_MESSAGE_INFO else self._without_info,
            qos.SENSOR_INPUT,
            raw=True,
        )

    def destroy(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _with_info(self, payload: bytes, info: Mapping[str, Any]) -> None:
        number = info.get('publication_sequence_number')
        if number:
            publisher = (info.get('publisher_gid') or {}).get('data')
            before = self._sequence.get(publisher, number - 1)
            self.lost += max(0, number - before - 1)
            self._sequence[publisher] = number
        received_ns = info.get('received_timestamp') or 0
        # The middleware stamps with the system's clock, whatever clock the node runs on.
        self._store(payload, 0 if self._sim_time else received_ns)

    def _without_info(self, payload: bytes) -> None:
        self._store(payload, 0)

    def _store(self, payload: bytes, received_ns: int) -> None:
        try:
            stamp_ns = header_stamp_ns(payload, self.part.type)
        except BadMessage as error:
            self._pipeline.buffer.put_bad(self.part.stream, str(error))
            return
        received_ns = received_ns or self._node.get_clock().now().nanoseconds
        self._pipeline.put(self.part.stream, stamp_ns, received_ns, payload)
