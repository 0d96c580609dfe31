"""A terminal for `recorder_node`: what it is doing, and a key for each thing it can do."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
import os
import select
import shutil
import sys
import termios
import time
import tty
from typing import Any, TextIO

from diagnostic_msgs.msg import DiagnosticStatus
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger
from vqbet_ros.ros import qos
from vqbet_ros.ros.recorder_status import STREAM_PREFIX

KEYS: Mapping[str, tuple[str, str]] = {
    's': ('start', 'start'),
    'e': ('stop', 'end, keep'),
    'd': ('discard', 'discard'),
    'y': ('success', 'success'),
    'n': ('failure', 'failure'),
    'q': ('quit', 'quit'),
}
"""From a key to the command and the word for it; all in one line of 80 columns."""

_DRAW_EVERY_S = 0.25
_SILENT_AFTER_S = 2.0
_CLEAR = '\x1b[H\x1b[J'
_LEVELS = {
    DiagnosticStatus.OK: '\x1b[32m',
    DiagnosticStatus.WARN: '\x1b[33m',
    DiagnosticStatus.ERROR: '\x1b[31m',
}
_PLAIN = '\x1b[0m'


class RecorderClient(Node):
    """Listens to a recorder's status and calls its services; its name is the parameter `recorder`.

    Attributes:
        status: The newest, if any.
        status_s: When it came, on the clock of `time.monotonic`.
        answer: The recorder's answer to the last command.
    """

    def __init__(self, **options: Any) -> None:
        """Connect.

        Args:
            options: Passed on to rclpy.node.Node, for example `context`.
        """
        super().__init__('recorder_keys', **options)
        recorder: Any = self.declare_parameter('recorder', '/recorder_node').value
        self.recorder = str(recorder).rstrip('/')
        self.status: DiagnosticStatus | None = None
        self.status_s = 0.0
        self.answer = ''
        self.create_subscription(
            DiagnosticStatus, f'{self.recorder}/status', self._on_status, qos.STATUS
        )
        self._triggers: dict[str, Any] = {
            command: self.create_client(Trigger, f'{self.recorder}/{command}')
            for command in ('start', 'stop', 'discard')
        }
        self._mark: Any = self.create_client(SetBool, f'{self.recorder}/mark')

    def command(self, name: str) -> None:
        """Send one of the commands of KEYS but 'quit'; the answer comes later."""
        client = self._triggers.get(name, self._mark)
        request = (
            Trigger.Request()
            if name in self._triggers
            else SetBool.Request(data=name == 'success')
        )
        if not client.service_is_ready():
            self.answer = f'{name}: {self.recorder} is not there'
            return
        self.answer = f'{name} ...'
        client.call_async(request).add_done_callback(
            lambda future: self._on_answer(name, future.result())
        )

    def _on_status(self, status: DiagnosticStatus) -> None:
        self.status, self.status_s = status, time.monotonic()

    def _on_answer(self, name: str, response: Any) -> None:
        self.answer = f'{name}: {"" if response.success else "REFUSED: "}{response.message}'


def screen(client: RecorderClient, now_s: float, width: int) -> str:
    """Return what the terminal shows, lines ended as a raw terminal needs it.

    Args:
        client: Has the newest status.
        now_s: Now, on the clock of `time.monotonic`.
        width: Of the terminal, in columns; longer lines are cut.
    """
    keys = '  '.join(f'[{key}] {words}' for key, (_, words) in KEYS.items())
    lines = [client.recorder, '']
    colour = ''
    status = client.status
    if status is None:
        lines.append(f'waiting for {client.recorder}/status')
    else:
        values = {item.key: item.value for item in status.values}
        colour = _LEVELS.get(status.level, '')
        head = status.message.splitlines()
        if now_s - client.status_s > _SILENT_AFTER_S:
            colour = _LEVELS[DiagnosticStatus.ERROR]
            head.insert(0, f'no status for {now_s - client.status_s:.0f} s')
        lines += [f'{colour}{line[:width]}{_PLAIN}' for line in head]
        lines.append('')
        lines += [
            f'{key.removeprefix(STREAM_PREFIX):<32} {value}'[:width]
            for key, value in values.items()
            if key.startswith(STREAM_PREFIX)
        ]
        lines.append('')
        lines += [
            f'{key:<16} {values[key]}'[:width]
            for key in ('task', 'operator', 'lost', 'queue', 'free_disk', 'last_episode')
            if key in values
        ]
    lines += ['', keys[:width], '', *(line[:width] for line in client.answer.splitlines())]
    return _CLEAR + '\r\n'.join(lines) + '\r\n'


@contextmanager
def unbuffered(terminal: TextIO) -> Iterator[None]:
    """Let every key come at once and unseen; the terminal is as it was afterwards."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal.fileno())
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def watch(client: RecorderClient, spin_once: Callable[[float], None]) -> None:
    """Show the status and obey the keys until 'quit' or the end of the input.

    Args:
        client: The recorder's.
        spin_once: Serves ROS for at most that many seconds.
    """
    drawn_s = 0.0
    while client.context.ok():
        spin_once(0.02)
        ready, _, _ = select.select([sys.stdin], [], [], 0.0)
        keys = os.read(sys.stdin.fileno(), 64).decode(errors='ignore') if ready else ''
        if ready and not keys:
            return
        for key in keys.lower():
            command = KEYS.get(key, ('', ''))[0]
            if command == 'quit':
                return
            if command:
                client.command(command)
        now_s = time.monotonic()
        if keys or now_s - drawn_s > _DRAW_EVERY_S:
            sys.stdout.write(screen(client, now_s, shutil.get_terminal_size().columns))
            sys.stdout.flush()
            drawn_s = now_s


def main(args: list[str] | None = None) -> int:
    """Run until 'q' or a signal; 1 where there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(
            'recorder_keys: error: it needs a terminal; elsewhere call the services, '
            'for example ros2 service call /recorder_node/start std_srvs/srv/Trigger',
            file=sys.stderr,
        )
        return 1
    rclpy.init(args=args)
    try:
        client = RecorderClient()
        executor = SingleThreadedExecutor()
        executor.add_node(client)
        with unbuffered(sys.stdin):
            watch(client, executor.spin_once)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        # A signal shuts the context down at any moment; what was under way fails then.
        if rclpy.ok():
            raise
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
