"""Ctrl-C asks a training to save and stop; asked twice, it stops at once."""

import signal
from types import FrameType
from typing import Any, Protocol


class Stoppable(Protocol):
    """What can be asked to stop."""

    @property
    def stopping(self) -> bool:
        """Whether it was asked."""

    def stop(self) -> None:
        """Ask it; safe in a signal handler."""


class Interrupts:
    """While active, SIGINT and SIGTERM ask the trainer to save and stop after the step."""

    def __init__(self, trainer: Stoppable) -> None:
        self._trainer = trainer
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._trainer.stopping:  # asked twice: now, without saving
            raise KeyboardInterrupt
        self._trainer.stop()
