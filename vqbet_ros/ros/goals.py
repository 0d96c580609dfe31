"""The goal of a running policy: from files and from topics, changed while the robot moves.

parameter ──name──► thread: read ─┐
topics ──pictures──► decode ──────┴─► encode ─► engine.set_goal ─► chunks for the old goal end
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import functools
import threading
import time
import traceback
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from vqbet_ros.data.goals import GoalData, GoalName
from vqbet_ros.data.messages import DECODERS
from vqbet_ros.errors import BadMessage, VqbetError
from vqbet_ros.message_types import COMPRESSED_IMAGE, IMAGE
from vqbet_ros.ros import qos
from vqbet_ros.ros.checkpoints import read_goal_for, require_goals
from vqbet_ros.spec import CameraSpec, RobotSpec

APART_S = 60.0
"""Pictures of one goal come within this time of each other; an older one is let go."""

_JOIN_S = 1.0  # a disk that hangs must not hang its owner


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


class Goals:
    """Changes the goal of a configured policy, beside the executor.

    Files are read and pictures encoded in a thread that lives as long as that takes: the node goes
    on listening, to an emergency stop too, and the robot goes on to the old goal. Of several
    requests the last one counts. What does not fit is refused, and the old goal stays.

    Args:
        node: Has the parameter 'goal' and the log.
        engine: The policy.
        spec: The robot at hand.
        lock: Held by whoever uses the engine.
        changed: Called with the lock held, once the policy has another goal.
        name: Of the goal that it has now, as in the parameter.

    Attributes:
        name: Of the goal that the policy has.
    """

    def __init__(
        self,
        node: Node,
        engine: Any,
        spec: RobotSpec,
        *,
        lock: threading.Lock,
        changed: Callable[[], None],
        name: str = '',
    ) -> None:
        """Listen to the topics."""
        self.name = name
        self._node, self._engine, self._spec = node, engine, spec
        self._lock, self._changed = lock, changed
        self._parameter = name  # the last that was taken
        self._restoring = False
        self._number = 0  # of the last request
        self._turn = threading.Lock()
        self._threads: list[threading.Thread] = []
        log = node.get_logger()
        self._topics = GoalTopics(
            node,
            spec,
            steps=engine.goal_steps,
            needs_state=engine.goal_state,
            apply=self._offer,
            tell=log.info,
            refuse=log.error,
        )

    def request(self, text: str, *, wait: bool) -> None:
        """Change the goal to what the parameter says.

        Args:
            text: `PATH[:episode/E][:FRAME]`; empty for none.
            wait: Return once that is done; else what takes time is done in the background, and a
                goal that is refused there is logged, with the parameter set back.

        Raises:
            VqbetError: It does not fit; without `wait`, what is plain to see of that.
        """
        if self._restoring:
            return
        if text:
            require_goals(self._engine.goal_steps, f"parameter 'goal': got '{text}'")
            GoalName.parse(text)
        number = self._next()
        read = functools.partial(self._read, text, number)
        if wait:
            # By a thread that is an ordinary one: the caller may go before all others.
            with ThreadPoolExecutor(1) as pool:
                turn = pool.submit(self._take_turn, number, text, read, is_parameter=True)
            failure = turn.exception()
            if failure is not None and not isinstance(failure, VqbetError):
                raise VqbetError(f'{type(failure).__name__}: {failure}') from failure
            turn.result()
        else:
            self._start(number, text, read, is_parameter=True)

    def close(self) -> None:
        """Forget what is being read, and listen no more."""
        self._next()
        self._topics.destroy()
        for thread in self._threads:
            thread.join(_JOIN_S)

    def _offer(self, goal: GoalData) -> None:
        """Take a goal from the topics."""
        name = f'{self._node.get_fully_qualified_name()}/goal/image'
        self._start(self._next(), name, lambda: goal, is_parameter=False)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _read(self, text: str, number: int) -> GoalData | None:
        cancelled = functools.partial(self._is_outdated, number)
        return read_goal_for(self._engine, text, self._spec, cancelled)

    def _is_outdated(self, number: int) -> bool:
        return number != self._number

    def _set(self, number: int, name: str, goal: GoalData | None, *, is_parameter: bool) -> None:
        with self._lock:
            if self._is_outdated(number):
                return
            if goal is None:
                self._engine.set_goal(None)
            else:
                self._engine.set_goal(goal.images, goal.state)
            self.name = name
            if is_parameter:
                self._parameter = name
            self._changed()
        self._node.get_logger().info(f'goal: {name or "none"}')

    def _start(
        self,
        number: int,
        name: str,
        read: Callable[[], GoalData | None],
        *,
        is_parameter: bool,
    ) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(
            target=self._work, args=(number, name, read, is_parameter), name='goal', daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _work(
        self,
        number: int,
        name: str,
        read: Callable[[], GoalData | None],
        is_parameter: bool,
    ) -> None:
        try:
            self._take_turn(number, name, read, is_parameter=is_parameter)
            return
        except VqbetError as error:
            problem = str(error)
        except Exception:  # of the policy, for example; it has to be seen in the log
            problem = traceback.format_exc()
        if self._is_outdated(number):
            return
        self._node.get_logger().error(f'goal refused, the old one stays: {problem}')
        # By the executor: the request's own callback may not be over yet.
        if is_parameter and self._node.executor is not None:
            self._node.executor.create_task(self._restore, number)

    def _take_turn(
        self,
        number: int,
        name: str,
        read: Callable[[], GoalData | None],
        *,
        is_parameter: bool,
    ) -> None:
        with self._turn:
            self._set(number, name, read(), is_parameter=is_parameter)

    def _restore(self, number: int) -> None:
        """Let the parameter say again what it said before a request."""
        if self._is_outdated(number):
            return
        self._restoring = True
        try:
            self._node.set_parameters([Parameter('goal', value=self._parameter)])
        finally:
            self._restoring = False
