"""The process of an `EngineProcess`: `python -m vqbet_ros.policy.server FILE_DESCRIPTOR`."""

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
import os
import signal
import sys
import traceback
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import VqbetError
from vqbet_ros.policy.device import pick_device
from vqbet_ros.policy.engine import Engine
from vqbet_ros.policy.feature_rows import Key
from vqbet_ros.policy.remote import Facts, Question

_NICE = 5  # where cores are few, messages and commands go before plans


class _Gone(Exception):
    """Whoever asks has closed the connection."""


def _send(connection: Connection, content: object) -> None:
    try:
        connection.send(content)
    except ConnectionError as error:
        raise _Gone from error


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, ConnectionError) as error:
        raise _Gone from error


@dataclass(frozen=True)
class _Frame:
    """A frame whose picture is fetched when it is wanted."""

    camera: str
    stamp_ns: int
    connection: Connection

    @property
    def image(self) -> NDArray[np.uint8]:
        key: Key = (self.camera, self.stamp_ns)
        _send(self.connection, ('picture', key))
        picture: NDArray[np.uint8] = _receive(self.connection)
        return picture


@dataclass(frozen=True)
class _Observation:
    frames: list[dict[str, _Frame] | None]
    state: NDArray[np.float32]
    valid: NDArray[np.bool_]


class Server:
    """Answers the questions of one connection.

    Args:
        connection: To an `EngineProcess`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._engine: Engine | None = None

    def serve(self) -> None:
        """Answer until the other end is closed."""
        try:
            while True:
                self._answer(*_receive(self._connection))
        except _Gone:
            return

    def _answer(self, name: str, arguments: Sequence[Any]) -> None:
        try:
            answer = 'answer', getattr(self, f'_{name}')(*arguments)
        except _Gone:
            raise
        except Exception as error:
            answer = 'error', (_sendable(error), traceback.format_exc())
        try:
            _send(self._connection, answer)
        except _Gone:
            raise
        except Exception as error:  # it cannot be pickled; nothing of it was sent
            told = RuntimeError(f'what {name} came to cannot be sent: {error!r}')
            _send(self._connection, ('error', (told, traceback.format_exc())))

    def _load(self, checkpoint: str, device: str, threads: int) -> Facts:
        self._engine = engine = Engine.load(checkpoint, pick_device(device), threads)
        return Facts(
            spec=engine.spec,
            history=engine.history,
            chunk=engine.chunk,
            goal_steps=engine.goal_steps,
            goal_state=engine.goal_state,
            device=engine.policy.device.type,
            runtime=engine.runtime,
        )

    def _reset(self) -> None:
        self._loaded.reset()

    def _warm_up(self) -> None:
        self._loaded.warm_up()

    def _set_goal(self, images: Any, state: Any) -> None:
        self._loaded.set_goal(images, state)

    def _plan(self, question: Question, running: int | None, hysteresis: float) -> Any:
        observation = self._observation(question)
        return self._loaded.plan(observation, running=running, hysteresis=hysteresis)

    def _look(self, question: Question) -> None:
        self._loaded.look(self._observation(question))

    def _observation(self, question: Question) -> _Observation:
        frames = [
            None
            if stamps is None
            else {name: _Frame(name, ns, self._connection) for name, ns in stamps.items()}
            for stamps in question.stamps
        ]
        return _Observation(frames, question.state, question.valid)

    @property
    def _loaded(self) -> Engine:
        assert self._engine is not None, 'load comes first'
        return self._engine


def _sendable(error: Exception) -> Exception:
    """Return the error, or what says the same where it may not be understood there."""
    told = RuntimeError(f'{type(error).__name__}: {error}')
    if type(error).__module__ not in ('builtins', VqbetError.__module__):
        return told
    try:
        ForkingPickler.dumps(error)  # as the connection does
    except Exception:  # of what it holds
        return told
    return error


def main() -> int:
    """Serve the connection that was inherited."""
    # Ctrl-C, and its closing, reach all processes of a terminal; this one is needed until the
    # robot stands.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    Server(Connection(int(sys.argv[1]))).serve()
    return 0


if __name__ == '__main__':
    sys.exit(main())
