"""Child processes that never outlive the program, and whose last words are shown."""

from collections.abc import Mapping, Sequence
import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
from types import TracebackType

from vqbet_ros.errors import VqbetError
from vqbet_ros.resources import resource

_LAST_LINES = 20


class Processes:
    """Starts processes; as a context manager it ends them all, whatever happens.

    Args:
        directory: Each process's output goes to <directory>/<name>.log.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> 'Processes':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start one process.

        Args:
            name: For messages and for the log file.
            command: Program and arguments.
            environment: All of its environment variables.
        """
        with self.log(name).open('wb') as log:
            # A session of its own: Ctrl-C reaches us alone, and we end the processes in order.
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        """Return where a process's output goes."""
        return self._directory / f'{name}.log'

    def check(self) -> None:
        """Make sure that all are still running.

        Raises:
            VqbetError: One has ended; its last lines are told.
        """
        for name, process in self._running.items():
            status = process.poll()
            if status is not None:
                raise VqbetError(f'{name} ended with status {status}; {self.last_lines(name)}')

    def last_lines(self, name: str) -> str:
        """Return the end of a process's output, with where the rest is."""
        text = self.log(name).read_text(encoding='utf-8', errors='replace')
        tail = '\n'.join(f'  | {line}' for line in text.splitlines()[-_LAST_LINES:])
        return f'the end of {self.log(name)}:\n{tail or "  (it is empty)"}'

    def pid(self, name: str) -> int:
        """Return a process's number."""
        return self._running[name].pid

    def stop(self, *names: str) -> None:
        """End some, or all: SIGINT first, then SIGTERM, then SIGKILL."""
        names = names or tuple(self._running)
        for number, patience_s in (
            (signal.SIGINT, 5.0),
            (signal.SIGTERM, 3.0),
            (signal.SIGKILL, 5.0),
        ):
            chosen = [self._running[name] for name in names]
            left = [process for process in chosen if process.poll() is None]
            for process in left:
                process.send_signal(number)
            for process in left:
                try:
                    process.wait(patience_s)
                except subprocess.TimeoutExpired:
                    continue  # the next signal is stronger
        for name in names:
            del self._running[name]


def module_command(name: str) -> list[str]:
    """Return the command that runs a module of `ros/` as a program."""
    return [sys.executable, '-m', f'vqbet_ros.ros.{name}']


def node_command(name: str, **parameters: str | float) -> list[str]:
    """Return the command that runs a node of this package.

    Args:
        name: Its module in `ros/`.
        parameters: Of the node.
    """
    command = [*module_command(name), '--ros-args']
    for key, value in parameters.items():
        # JSON is YAML: texts are quoted, and 50.0 stays a float.
        command += ['-p', f'{key}:={json.dumps(value)}']
    return command


def private_graph() -> dict[str, str]:
    """Return this process's environment, with a ROS 2 graph that nobody else is in."""
    old_fast_dds = os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
    profiles = (
        'FASTRTPS_DEFAULT_PROFILES_FILE' if old_fast_dds else 'FASTDDS_DEFAULT_PROFILES_FILE'
    )
    return {
        **os.environ,
        'ROS_DOMAIN_ID': str(random.randint(1, 100)),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        # Humble knows only the old name, and later distributions warn about it.
        **({'ROS_LOCALHOST_ONLY': '1'} if os.environ.get('ROS_DISTRO') == 'humble' else {}),
        profiles: str(resource('config/fastdds.xml')),
        'PYTHONUNBUFFERED': '1',
    }
