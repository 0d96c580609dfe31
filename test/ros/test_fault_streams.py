"""What the robot does when cameras and joints fail: it stops within its limits, and goes on."""

from collections import deque
import copy
from typing import Any

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from fault_robot import SPEC
import numpy as np
from rclpy.time import Time
from vqbet_ros.runtime.gate import ReasonKind

pytest_plugins = ['fault_rig']
CAMERA, JOINTS = '/camera', '/joint_states'
MAX_AGE_S = {stream.topic: stream.max_age_s for stream in SPEC.streams}


# What happens to a stream


def cut(_):
    """Send nothing."""
    return []


def twice(message):
    """Send everything twice."""
    return [message, message]


class Delayed:
    """Sends every message later than it is stamped."""

    def __init__(self, delay_s):
        self._delay_ns = round(delay_s * 1e9)
        self._waiting: deque[Any] = deque()

    def __call__(self, message):
        self._waiting.append(message)
        until_ns = Time.from_msg(message.header.stamp).nanoseconds - self._delay_ns
        while Time.from_msg(self._waiting[0].header.stamp).nanoseconds <= until_ns:
            yield self._waiting.popleft()


class Reordered:
    """Sends the messages in pairs, the later one first."""

    def __init__(self):
        self._first = None

    def __call__(self, message):
        first, self._first = self._first, message
        if first is None:
            return []
        self._first = None
        return [message, first]


class Frozen:
    """Sends the content of one message with fresh stamps."""

    def __init__(self):
        self._content = None

    def __call__(self, message):
        stamp = message.header.stamp
        self._content = copy.deepcopy(self._content or message)
        self._content.header.stamp = stamp
        return [self._content]


def no_number(joints):
    """Measure NaN."""
    joints.position = [np.nan] * len(joints.position)
    return [joints]


def one_no_number(joints):
    """Measure NaN of one joint, as a broken encoder does."""
    joints.position = [joints.position[0], np.nan]
    return [joints]


def too_many(joints):
    """Measure one more number than there are joints."""
    joints.position = [*joints.position, 0.0]
    return [joints]


def renamed(joints):
    """Call the joints something else."""
    joints.name = [f'{name}_joint' for name in joints.name]
    return [joints]


def too_large(image):
    """Show twice as many columns."""
    image.width, image.step = 2 * image.width, 2 * image.step
    image.data = bytes(image.data) * 2
    return [image]


HELD = [
    (CAMERA, lambda: cut, 'front: data is too old'),
    (CAMERA, lambda: Delayed(0.6), 'front: data is too old'),
    (CAMERA, Frozen, 'front: the picture does not change'),
    (CAMERA, lambda: too_large, 'front: message cannot be used'),
    (JOINTS, lambda: cut, '/joint_states: data is too old'),
    (JOINTS, lambda: Delayed(0.6), '/joint_states: data is too old'),
    (JOINTS, lambda: no_number, 'not a finite number: shoulder/position'),
    (JOINTS, lambda: one_no_number, 'not a finite number: elbow/position'),
    (JOINTS, lambda: too_many, "field 'position' has 3 values for 2"),
    (JOINTS, lambda: renamed, 'shoulder/position, elbow/position: in none of the newest'),
]


@pytest.mark.parametrize('topic', [CAMERA, JOINTS])
def test_a_stream_that_fails_holds_the_robot_until_it_is_back(rig, topic):
    one = rig().start()
    for failing, spoil, reason in HELD:
        if failing == topic:
            cause = {topic: spoil()}
            row = one.suffer(lambda cause=cause: one.arm.spoil.update(cause), 'hold', reason)
            one.check_stop(row, MAX_AGE_S[topic] + 0.1)
            del one.arm.spoil[topic]
            one.wait_motion()  # by itself
    one.check_limits()


def test_joints_that_stand_still_are_a_fault(rig):
    """Nobody can tell frozen joints from an arm that does not move: see the tracking error."""
    one = rig().start()
    spoil = {JOINTS: Frozen()}
    row = one.suffer(lambda: one.arm.spoil.update(spoil), 'fault', 'does not follow its commands')
    # To be so far away at a third of the largest velocity, which is less than it has; and 0.2 s.
    watch = SPEC.runtime.watch
    one.check_stop(row, watch.tracking_error / (one.judge.velocity[0] / 3) + watch.tracking_s)
    assert not one.enable().success
    del one.arm.spoil[JOINTS]
    one.recover()
    one.check_limits()


@pytest.mark.parametrize('topic', [CAMERA, JOINTS])
def test_messages_twice_or_out_of_order_change_nothing(rig, topic):
    one = rig().start()
    counts = one.node.pipeline.buffer.counts
    for what, spoil in (('twice', twice), ('out of order', Reordered())):
        first, dropped = len(one.ticks), counts()[one.name_of(topic)].not_newer
        one.arm.spoil[topic] = spoil
        one.wait_ticks(50)
        one.wait_motion()
        del one.arm.spoil[topic]
        row = one.row(one.ticks[first].at_s, first, len(one.arm.commands), f'{topic}, {what}')
        stops = {r.kind for tick in row.ticks if not tick.is_policy for r in tick.outcome.reasons}
        assert stops <= {ReasonKind.STALE, ReasonKind.NO_PLAN}  # a machine that is too busy
        # Joints may come in parts of one stamp: of them nothing is dropped that comes twice.
        drops = topic == CAMERA or what == 'out of order'
        assert (counts()[one.name_of(topic)].not_newer > dropped) == drops
