"""The controller of `vqbet bench control`: counts the commands that arrive."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import threading

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64MultiArray
from vqbet_ros.ros import qos


class Heard:
    """What has arrived.

    Attributes:
        count: Commands so far.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0

    def take(self, _command: Float64MultiArray) -> None:
        """Count one."""
        self.count += 1


@contextmanager
def listen(topic: str) -> Iterator[Heard]:
    """Take commands in a thread of its own."""
    context = Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bench_controller', context=context)
    heard = Heard()
    node.create_subscription(Float64MultiArray, topic, heard.take, qos.COMMAND)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, name='controller', daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        context.try_shutdown()
        thread.join()
        executor.shutdown()
        node.destroy_node()
