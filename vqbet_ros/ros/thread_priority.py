"""Real-time priority for the threads whose lateness a robot feels.

ros2_control runs its own loop in the same way (its parameter `thread_priority`). Ordinary threads
wait for a core for milliseconds wherever others compute; these run at once.
"""

from collections.abc import Callable, Sequence
import contextlib
import os

# Threads that a preferred one starts are ordinary: what computes must not hold up the system.
_PREFERRED = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK


class ThreadPriority:
    """Of the threads that must be in time, while a node is active.

    Args:
        warn: Told once if the system does not allow it.
    """

    def __init__(self, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._warned = False
        self._threads: list[int] = []

    def begin(self, threads: Sequence[int], priority: int) -> None:
        """Prefer threads of this process to all ordinary ones.

        Args:
            threads: The system's ids; each is one less than the one before it.
            priority: Of the first, 1 (least) to 99; 0 leaves everything as it is.
        """
        self._threads = list(threads) if priority else []
        try:
            for less, thread in enumerate(self._threads):
                param = os.sched_param(max(1, priority - less))
                os.sched_setscheduler(thread, _PREFERRED, param)
        except OSError as error:
            self.end()
            if not self._warned:
                self._warn(
                    f'thread_priority {priority} is not allowed here ({error.strerror}): commands '
                    'may be some milliseconds late while other programs compute. See "Rate" in '
                    'docs/safety.md for how to allow it, or set thread_priority: 0'
                )
            self._warned = True

    def end(self) -> None:
        """Let the threads be ordinary ones again."""
        for thread in self._threads:
            with contextlib.suppress(ProcessLookupError):  # it may have ended
                if os.sched_getscheduler(thread) == _PREFERRED:
                    # The flag stays: all may set it, and only few may take it off.
                    ordinary = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
                    os.sched_setscheduler(thread, ordinary, os.sched_param(0))
        self._threads = []
