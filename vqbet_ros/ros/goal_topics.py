"""Goals from topics: pictures of all cameras, put together."""

from collections.abc import Callable
import functools
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from vqbet_ros.data.goals import GoalData
from vqbet_ros.data.messages import DECODERS
from vqbet_ros.errors import BadMessage, VqbetError
from vqbet_ros.message_types import COMPRESSED_IMAGE, IMAGE
from vqbet_ros.ros import qos
from vqbet_ros.ros.checkpoints import require_goals
from vqbet_ros.spec import CameraSpec, RobotSpec

APART_S = 60.0
"""Pictures of one goal come within this time of each other; an older one is let go."""


class GoalTopics:
    """Puts a goal together from the pictures on `~/goal/image/<camera>` and `.../compressed`.

    A goal is there once every camera has its picture. The next goal begins without any.

    Args:
        node: Subscribes.
        spec: Says the cameras, their crops and sizes.
        steps: Goal frames g; a picture stands for all of them.
        needs_state: Whether the policy's goals have a state, which pictures do not bring.
        apply: Takes the goal; may refuse it with a VqbetError.
        tell: Is told what becomes of the pictures.
        refuse: Is told why a picture or a goal was not taken.
        clock: A time in s that never goes back.
    """

    def __init__(
        self,
        node: Node,
        spec: RobotSpec,
        *,
        steps: int,
        needs_state: bool,
        apply: Callable[[GoalData], None],
        tell: Callable[[str], object],
        refuse: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Subscribe."""
        self._node, self._spec, self._steps, self._needs_state = node, spec, steps, needs_state
        self._apply, self._tell, self._refuse, self._clock = apply, tell, refuse, clock
        self._pictures: dict[str, tuple[float, NDArray[np.uint8]]] = {}
        self._subscriptions: list[Any] = [
            node.create_subscription(
                kind,
                f'~/goal/image/{camera.name}{suffix}',
                functools.partial(self._on_picture, camera, type_name),
                qos.GOAL,
                raw=True,
            )
            for camera in spec.cameras
            for kind, type_name, suffix in (
                (Image, IMAGE, ''),
                (CompressedImage, COMPRESSED_IMAGE, '/compressed'),
            )
        ]

    def destroy(self) -> None:
        """Listen no more."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _on_picture(self, camera: CameraSpec, type_name: str, payload: bytes) -> None:
        try:
            require_goals(self._steps, f'a goal image of {camera.name}')
            if self._needs_state:
                raise BadMessage(
                    "this policy's goals have a state (goal_state: true), which a picture does "
                    "not bring; set the parameter 'goal' to PATH[:frame] of a dataset or bag"
                )
            picture = DECODERS[type_name](payload, camera)
            self._take(camera.name, picture)
        except VqbetError as error:
            self._refuse(f'goal image of {camera.name} refused, the old goal stays: {error}')

    def _take(self, name: str, picture: NDArray[np.uint8]) -> None:
        now_s = self._clock()
        self._pictures[name] = now_s, picture
        for other, (came_s, _) in list(self._pictures.items()):
            if now_s - came_s > APART_S:
                del self._pictures[other]
                self._refuse(f'goal image of {other} let go: {now_s - came_s:.0f} s old')
        waiting = [c.name for c in self._spec.cameras if c.name not in self._pictures]
        if waiting:
            self._tell(f'goal image of {name} is there, waiting for {", ".join(waiting)}')
            return
        pictures, self._pictures = self._pictures, {}
        images = {
            camera: np.repeat(image[None], self._steps, axis=0)  # (g, H, W, 3)
            for camera, (_, image) in pictures.items()
        }
        self._apply(GoalData(images, state=None))
