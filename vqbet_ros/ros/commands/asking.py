"""Asks a service again and again; the executor never waits for an answer."""

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.lifecycle import LifecycleNode


class Asking:
    """One question at a time, as long as there is somebody to be asked.

    Args:
        node: Asks.
        kind: The service's type.
        name: The service's name.
        every_s: From one question to the next.
        patience: Times `every_s`, until a question that was not answered is asked again: who was
            asked may have gone away before answering.
        question: Makes a request; None where nothing is to be asked for now.
        take: Takes an answer.
        absent: Called in place of a question while there is no such service.
    """

    def __init__(
        self,
        node: LifecycleNode,
        kind: Any,
        name: str,
        *,
        every_s: float,
        patience: int,
        question: Callable[[], Any],
        take: Callable[[Any], object],
        absent: Callable[[], object],
    ) -> None:
        """Begin to ask."""
        self._node, self._patience = node, patience
        self._question, self._take, self._absent = question, take, absent
        self._pending: Any = None
        self._waited = 0
        self._client: Any = node.create_client(kind, name)
        # By the machine's clock: it is asked also while simulated time stands still.
        self._timer: Any = node.create_timer(
            every_s, self.ask, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    @property
    def ready(self) -> bool:
        """Whether somebody is there to be asked."""
        return self._client is not None and bool(self._client.service_is_ready())

    def destroy(self) -> None:
        """Stop asking; safe to call twice."""
        if self._client is not None:
            self._timer.cancel()
            self._node.destroy_timer(self._timer)
            self._node.destroy_client(self._client)
            self._client = None

    def ask(self) -> None:
        """Ask now, unless an answer is still waited for."""
        if not self.ready:
            self._forget()
            self._absent()
        elif self._pending is not None:
            self._waited += 1
            if self._waited >= self._patience:
                self._forget()
        elif (request := self._question()) is not None:
            self._waited = 0
            self._pending = self._client.call_async(request)
            self._pending.add_done_callback(self._answered)

    def _forget(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._client.remove_pending_request(pending)

    def _answered(self, future: Any) -> None:
        if future is not self._pending:
            return  # of somebody who has gone since
        self._pending = None
        if not future.cancelled() and future.exception() is None:
            self._take(future.result())
