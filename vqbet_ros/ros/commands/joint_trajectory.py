"""trajectory_msgs/JointTrajectory, as ros2_control's joint_trajectory_controller takes it.

Two ways (`command_options.trajectory`). 'point': each command is one point, passed when the next
one comes, and behind it where an even deceleration ends, for the case that no next one comes.
'chunk': the whole rest of a chunk, with the time at which it starts, so that the controller
interpolates it at its own rate and ends it at rest, whatever becomes of this process.

Since the end of a trajectory must have no velocity, every message could be the last. To stop, a
chunk is replaced by where an even deceleration ends. An empty message would do the same in the
documents only: controllers since January 2024 refuse it.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from trajectory_msgs.msg import JointTrajectory as Message
from trajectory_msgs.msg import JointTrajectoryPoint
from vqbet_ros.ros import qos
from vqbet_ros.ros.commands.joints_check import JointsCheck
from vqbet_ros.ros.commands.plain import (
    moving_points,
    Points,
    remaining_points,
    stopping_points,
    Velocity,
)
from vqbet_ros.runtime.plan import Chunk
from vqbet_ros.spec import ActionSpec


class JointTrajectory:
    """`joint_trajectory`.

    Args:
        action: Positions of joints.
        period_ns: Time between two commands; a point is passed in it unless the options say
            otherwise.
        steady: A clock that never jumps, by which the motion goes on whatever the node's does;
            None where time is simulated.
    """

    def __init__(
        self, action: ActionSpec, period_ns: int, steady: Callable[[], int] | None = None
    ) -> None:
        self._steady = steady
        reach_s = action.command_options.reach_s
        self._reach_ns = period_ns if reach_s is None else round(reach_s * 1e9)
        self._stop_ns = round(action.command_options.stop_s * 1e9)
        self._action = action
        limits = [action.limits[name] for name in action.names]
        self._low, self._high = np.array([one.position for one in limits]).T  # each (n,)
        speeds = [np.inf if one.velocity is None else one.velocity for one in limits]
        self._velocity = Velocity(period_ns, np.array(speeds))
        self._node: LifecycleNode | None = None
        self._course: tuple[Points, int] | None = None  # the chunk under way; `_at` of its start

    @property
    def problem(self) -> str | None:
        """See `JointsCheck.problem`."""
        return self._check.problem if self._node is not None else None

    def configure(self, node: LifecycleNode) -> None:
        """Create the publisher, and begin to ask the controller for its joints."""
        topic = self._action.command_topic
        self._publisher = node.create_lifecycle_publisher(Message, topic, qos.COMMAND)
        self._check = JointsCheck(node, topic, self._action.names, ordered=False)
        self._node = node

    def send(self, values: NDArray[np.float64], now_ns: int) -> None:
        """Publish a point that replaces what was sent before; it starts when it arrives."""
        at_ns, course, self._course = self._at(now_ns), self._course, None
        if course is not None:
            points, start_ns = course
            self._velocity.start(*points.at(at_ns - start_ns), at_ns)
        velocity = self._velocity.at(values, at_ns)
        ends = (self._low, self._high)
        self._publish(moving_points(values, velocity, self._reach_ns, self._stop_ns, *ends), 0)

    def send_chunk(self, chunk: Chunk, now_ns: int) -> None:
        """Publish the rest of a chunk, which starts at `now_ns` and replaces what was sent."""
        points = remaining_points(chunk, len(self._action.names), now_ns)
        if points is not None:
            self._publish(points, start_ns=now_ns)
            self._course = points, self._at(now_ns)

    def stop(self, now_ns: int) -> None:
        """Bring a chunk that is under way to rest; points have done that by themselves."""
        self._velocity.forget()
        course, self._course = self._course, None
        if course is None:
            return
        points, start_ns = course
        elapsed_ns = self._at(now_ns) - start_ns
        if elapsed_ns < int(points.times_ns[-1]):
            position, velocity = points.at(elapsed_ns)
            ending = stopping_points(position, velocity, self._stop_ns, self._low, self._high)
            self._publish(ending, start_ns=0)

    def close(self) -> None:
        """Destroy the publisher and the client."""
        if self._node is not None:
            node, self._node = self._node, None
            self._check.destroy()
            node.destroy_lifecycle_publisher(self._publisher)

    def _at(self, now_ns: int) -> int:
        """Return the time by which motions are measured."""
        return now_ns if self._steady is None else self._steady()

    def _publish(self, points: Points, start_ns: int) -> None:
        message = Message(joint_names=list(self._action.names))
        message.header.stamp = Time(nanoseconds=start_ns).to_msg()  # zero: at once
        message.points = [
            JointTrajectoryPoint(
                positions=position.tolist(),
                velocities=velocity.tolist(),
                time_from_start=Duration(nanoseconds=int(time_ns)).to_msg(),
            )
            for time_ns, position, velocity in zip(
                points.times_ns, points.positions, points.velocities, strict=True
            )
        ]
        self._publisher.publish(message)
