"""The goal of a running policy: from files and from topics, changed while the robot moves.

parameter ──name──► thread: read ─┐
topics ──pictures──► decode ──────┴─► encode ─► engine.set_goal ─► chunks for the old goal end
"""

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet  # not the built-in one before Python 3.11
import functools
import threading
import time
import traceback
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter
from vqbet_ros.data.goals import GoalData, GoalName
from vqbet_ros.errors import VqbetError
from vqbet_ros.ros.checkpoints import read_goal_for, require_goals
from vqbet_ros.ros.goal_topics import GoalTopics
from vqbet_ros.spec import RobotSpec

_JOIN_S = 0.5  # a disk that hangs must not hang its owner


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

    def request(self, text: str, *, wait_s: float) -> None:
        """Change the goal to what the parameter says.

        Args:
            text: `PATH[:episode/E][:FRAME]`; empty for none.
            wait_s: The longest time until this returns. What takes longer goes on in the
                background; a goal that is refused there is logged, with the parameter set back.

        Raises:
            VqbetError: It does not fit, or the policy hangs, as far as that shows in this time;
                what is plain to see does at once.
        """
        if self._restoring:
            return
        if text:
            require_goals(self._engine.goal_steps, f"parameter 'goal': got '{text}'")
            GoalName.parse(text)
        number = self._next()
        read = functools.partial(self._read, text, number)
        patience_s = wait_s / 2 if wait_s else None
        turn = self._start(number, text, read, is_parameter=True, patience_s=patience_s)
        try:
            # Without a wait, what becomes of it is always told in the same way.
            failure = turn.exception(wait_s) if wait_s else None
        except NotYet:
            failure = None
        if isinstance(failure, VqbetError):
            raise failure
        if failure is not None:
            raise VqbetError(f'{type(failure).__name__}: {failure}') from failure
        turn.add_done_callback(functools.partial(self._report, number, is_parameter=True))

    def close(self) -> None:
        """Forget what is being read, and listen no more."""
        self._next()
        self._topics.destroy()
        end_s = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))

    def _offer(self, goal: GoalData) -> None:
        """Take a goal from the topics."""
        name = f'{self._node.get_fully_qualified_name()}/goal/image'
        number = self._next()
        turn = self._start(number, name, lambda: goal, is_parameter=False)
        turn.add_done_callback(functools.partial(self._report, number, is_parameter=False))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _read(self, text: str, number: int) -> GoalData | None:
        cancelled = functools.partial(self._is_outdated, number)
        return read_goal_for(self._engine, text, self._spec, cancelled)

    def _is_outdated(self, number: int) -> bool:
        return number != self._number

    def _start(
        self,
        number: int,
        name: str,
        read: Callable[[], GoalData | None],
        *,
        is_parameter: bool,
        patience_s: float | None = None,
    ) -> 'Future[None]':
        """Read and set a goal in a thread of its own.

        It is an ordinary one, and the caller may be one that goes before all others.
        """
        turn: Future[None] = Future()

        def work() -> None:
            try:
                with self._turn:
                    self._set(number, name, read(), patience_s, is_parameter=is_parameter)
            except BaseException as error:
                turn.set_exception(error)
            else:
                turn.set_result(None)

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=work, name='goal', daemon=True))
        self._threads[-1].start()
        return turn

    def _set(
        self,
        number: int,
        name: str,
        goal: GoalData | None,
        patience_s: float | None,
        *,
        is_parameter: bool,
    ) -> None:
        if not self._lock.acquire(timeout=-1 if patience_s is None else patience_s):
            raise VqbetError(
                f'{name or "no goal"}: the policy has not come back from a decision for '
                f'{patience_s:g} s, and takes no goal until then: try again, or configure the '
                'node anew if it hangs'
            )
        try:
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
        finally:
            self._lock.release()
        self._node.get_logger().info(f'goal: {name or "none"}')

    def _report(self, number: int, turn: 'Future[None]', *, is_parameter: bool) -> None:
        """Log what became of a request that nobody waits for, if it was refused."""
        failure = turn.exception()
        if failure is None or self._is_outdated(number):
            return
        known = isinstance(failure, VqbetError)  # else it is the policy's, for example
        problem = str(failure) if known else ''.join(traceback.format_exception(failure))
        self._node.get_logger().error(f'goal refused, the old one stays: {problem}')
        # By the executor: the request's own callback may not be over yet.
        if is_parameter and self._node.executor is not None:
            self._node.executor.create_task(self._restore, number)

    def _restore(self, number: int) -> None:
        """Let the parameter say again what it said before a request."""
        if self._is_outdated(number):
            return
        self._restoring = True
        try:
            self._node.set_parameters([Parameter('goal', value=self._parameter)])
        finally:
            self._restoring = False
