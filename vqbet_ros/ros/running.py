"""How every node of this package begins and ends as a process."""

from collections.abc import Callable
import gc
import signal
import socket
import sys
import threading
from typing import Protocol

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from vqbet_ros.errors import VqbetError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a node; SIGHUP comes when its terminal is closed."""


class RunnableNode(Protocol):
    """What `run` asks of a node besides being one.

    Attributes:
        failure: What ended the node from within, if anything did.
    """

    failure: BaseException | None

    def start(self) -> bool:
        """Begin to work; False if that failed and the reason is logged."""

    def close(self) -> None:
        """End the node's threads; safe to call twice."""


def _ignore_signals() -> None:
    """Let nothing cut an ending short: launch and the terminal may each send a signal."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def _wake_on_signals(executor: SingleThreadedExecutor) -> None:
    """Let a waiting executor come back to Python, which then raises what a signal asks for."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        with reader, writer:
            while reader.recv(1):
                executor.wake()

    threading.Thread(target=wait, name='signals', daemon=True).start()


def run(name: str, build: Callable[[], RunnableNode], args: list[str] | None) -> int:
    """Run one node until SIGINT, SIGTERM or SIGHUP, in the main thread.

    Args:
        name: The program's name, for errors.
        build: Makes the node.
        args: The command line; None takes the process's own.

    Returns:
        0 after a signal, 1 after a mistake of the user; other errors propagate.
    """
    # Scripts made by colcon set this for pkg_resources, which pygame imports where it finds one:
    # every requirement of every package would then be looked up, by the system Python's rules.
    vars(sys.modules['__main__']).pop('__requires__', None)
    node: RunnableNode | None = None
    asked: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    try:
        # rclpy's own handlers would shut the context down at once: a robot in motion could not be
        # brought to rest, since nothing can be published then.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: it outlives its terminal
                signal.signal(number, on_signal)
        node = build()
        if not node.start():
            return 1
        executor = SingleThreadedExecutor()
        assert isinstance(node, Node)  # noqa: S101 - protocols cannot ask for a base class
        executor.add_node(node)
        _wake_on_signals(executor)
        # What is there now stays: Python's garbage collector need not walk through all of it again
        # and again, while callbacks wait.
        gc.collect()
        gc.freeze()
        if asked:  # where a finalizer ran, Python has dropped the exception
            raise KeyboardInterrupt
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except VqbetError as error:
        print(f'{name}: error: {error}', file=sys.stderr)
        return 1
    except Exception:
        # A signal shuts the context down at any moment; what a callback was publishing fails then.
        if rclpy.ok():
            raise
    finally:
        _ignore_signals()
        if node is not None:
            node.close()
            if isinstance(node, Node):
                node.destroy_node()
        rclpy.try_shutdown()
        # Python looks for garbage once more at its end: in all of torch that takes a second.
        gc.freeze()
    if node is not None and node.failure is not None:
        raise node.failure
    return 0
