"""Subscriptions that store a message's bytes and stamps, and do nothing else."""

from collections.abc import Mapping
from typing import Any

from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState, Joy
from std_msgs.msg import Float64MultiArray
from vqbet_ros.data.cdr import header_stamp_ns
from vqbet_ros.errors import BadMessage
from vqbet_ros.message_types import (
    COMPRESSED_IMAGE,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    JOY,
    POSE_STAMPED,
    TWIST_STAMPED,
)
from vqbet_ros.ros import qos
from vqbet_ros.ros.arrivals import Arrivals, HAS_MESSAGE_INFO
from vqbet_ros.ros.pipeline import Pipeline
from vqbet_ros.spec import CameraSpec, StateSpec

_TYPES = {
    IMAGE: Image,
    COMPRESSED_IMAGE: CompressedImage,
    JOINT_STATE: JointState,
    FLOAT64_MULTI_ARRAY: Float64MultiArray,
    POSE_STAMPED: PoseStamped,
    TWIST_STAMPED: TwistStamped,
    JOY: Joy,
}


class Input:
    """Feeds one stream of a pipeline.

    Args:
        node: Subscribes.
        part: The stream.
        pipeline: Takes the bytes.
    """

    def __init__(self, node: Node, part: CameraSpec | StateSpec, pipeline: Pipeline) -> None:
        """Subscribe."""
        self.part = part
        self._node = node
        self._pipeline = pipeline
        self._arrivals = Arrivals(node)
        self._subscription = node.create_subscription(
            _TYPES[part.type],
            part.topic,
            self._with_info if HAS_MESSAGE_INFO else self._without_info,
            qos.sensor_input(part.rate_hz),
            raw=True,
        )

    def destroy(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    @property
    def lost(self) -> int:
        """Messages that were published and did not arrive here."""
        return self._arrivals.lost

    def _with_info(self, payload: bytes, info: Mapping[str, Any]) -> None:
        self._store(payload, info)

    def _without_info(self, payload: bytes) -> None:
        self._store(payload, None)

    def _store(self, payload: bytes, info: Mapping[str, Any] | None) -> None:
        received_ns = self._arrivals.note(info).received_ns
        try:
            stamp_ns = header_stamp_ns(payload, self.part.type)
        except BadMessage as error:
            self._pipeline.buffer.put_bad(self.part.stream, str(error))
            return
        self._pipeline.put(self.part.stream, stamp_ns, received_ns, payload)
