"""A policy in a process of its own: what it computes never holds up this one.

Python lets one thread of a process run at a time; a thread that computes and has to wait for a
core keeps the others waiting with it. Here it is another process that waits.

    EngineProcess        ── plan: stamps, state ──►   server: Engine
                         ◄── picture? ────────────    of frames that it has not seen
                         ── picture ──────────────►
                         ◄── answer ──────────────

This half needs no torch. What goes to and fro is pickled by `multiprocessing`: both ends are this
package's, and nobody else has the pair of sockets between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
import socket
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.policy.feature_rows import Key
from vqbet_ros.policy.interface import Frame, Observation, PolicyOutput
from vqbet_ros.spec import RobotSpec

_LAST_WORDS_S = 1.0  # a process that broke off the connection is about to end


@dataclass(frozen=True)
class Facts:
    """What is fixed about a policy, see `engine.Engine`, and where it runs."""

    spec: RobotSpec
    history: int
    chunk: int
    goal_steps: int
    goal_state: bool
    device: str
    runtime: str


@dataclass(frozen=True)
class Question:
    """An observation, its pictures left out.

    Attributes:
        stamps: H steps, oldest first: stamps in ns by camera name, None where not valid.
        state: (h, S).
        valid: (h,) bool.
    """

    stamps: list[dict[str, int] | None]
    state: NDArray[np.float32]
    valid: NDArray[np.bool_]


class PolicyLost(Exception):
    """The process of the policy is gone."""


class RemoteTraceback(Exception):
    """Where an error of the policy came from, in its own process."""

    def __str__(self) -> str:
        """Return the traceback as it was there."""
        return f'\n{self.args[0]}'


class EngineProcess:
    """Does what `engine.Engine` does, elsewhere; not thread-safe, but for `close`.

    Args:
        checkpoint: Directory as `vqbet train` writes it.
        device: 'auto', 'cpu' or 'cuda'.
        threads: CPU threads.

    Raises:
        ConfigError: CUDA was asked for and is absent.
        BadCheckpoint: See `load_checkpoint`.
        PolicyLost: The process ended, here as in every other call.

    Attributes:
        facts: About the policy.
        pid: Of the process.
    """

    def __init__(self, checkpoint: str, device: str, threads: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            program = [sys.executable, '-m', 'vqbet_ros.policy.server', str(theirs.fileno())]
            self._process = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        self._connection = Connection(ours.detach())
        self.pid = self._process.pid
        try:
            self.facts: Facts = self._ask('load', checkpoint, device, threads)
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> RobotSpec:
        """The robot that the policy was trained for."""
        return self.facts.spec

    @property
    def history(self) -> int:
        """Observation steps h."""
        return self.facts.history

    @property
    def chunk(self) -> int:
        """Action steps W."""
        return self.facts.chunk

    @property
    def goal_steps(self) -> int:
        """Goal frames g that the policy takes, 0 for none."""
        return self.facts.goal_steps

    @property
    def goal_state(self) -> bool:
        """Whether a goal frame has a state beside its images."""
        return self.facts.goal_state

    @property
    def where(self) -> str:
        """Device, and what computes there."""
        return f'{self.facts.device}, {self.facts.runtime}'

    def reset(self) -> None:
        """See `Engine.reset`."""
        self._ask('reset')

    def warm_up(self) -> None:
        """See `Engine.warm_up`."""
        self._ask('warm_up')

    def set_goal(
        self,
        images: Mapping[str, NDArray[np.uint8]] | None,
        state: NDArray[np.float32] | None = None,
    ) -> None:
        """See `Engine.set_goal`."""
        self._ask('set_goal', images, state)

    def plan(
        self, observation: Observation, *, running: int | None = None, hysteresis: float = 0.0
    ) -> PolicyOutput:
        """See `Engine.plan`."""
        output: PolicyOutput = self._show('plan', observation, running, hysteresis)
        return output

    def look(self, observation: Observation) -> None:
        """See `Engine.look`."""
        self._show('look', observation)

    def close(self) -> None:
        """End the process, whatever it is doing; safe to call twice, and from any thread."""
        self._process.kill()  # there is nothing in it to be saved
        self._process.wait()

    def _show(self, name: str, observation: Observation, *arguments: object) -> Any:
        """Let a method run there that takes an observation."""
        pictures: dict[Key, NDArray[np.uint8]] = {}
        stamps: list[dict[str, int] | None] = []
        for step in observation.frames:
            frames: Mapping[str, Frame] = step or {}
            pictures.update(((name, f.stamp_ns), f.image) for name, f in frames.items())
            stamps.append(
                None if step is None else {name: f.stamp_ns for name, f in frames.items()}
            )
        question = Question(stamps, observation.state, observation.valid)
        return self._ask(name, question, *arguments, pictures=pictures)

    def _ask(
        self,
        name: str,
        *arguments: object,
        pictures: Mapping[Key, NDArray[np.uint8]] | None = None,
    ) -> Any:
        """Let a method run there; pictures are sent as they are asked for."""
        try:
            self._connection.send((name, arguments))
            while True:
                kind, content = self._connection.recv()
                if kind != 'picture':
                    break
                self._connection.send((pictures or {})[content])
        except (EOFError, OSError) as error:
            raise PolicyLost(f'{self._ending()}; configure the node anew') from error
        if kind == 'error':
            problem, trace = content
            raise problem from RemoteTraceback(trace)
        return content

    def _ending(self) -> str:
        try:
            status = self._process.wait(_LAST_WORDS_S)
        except subprocess.TimeoutExpired:
            return 'the process of the policy does not answer'
        how = f'was ended by signal {-status}' if status < 0 else f'ended with status {status}'
        return f'the process of the policy {how}'
