"""Publishers that misbehave while they are recorded: each is found, told live, and in the bag."""

import json
import re
import threading

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from rclpy.serialization import serialize_message
from rclpy.time import Time
from sensor_msgs.msg import JointState
from vqbet_ros.recording.bag import read_custom_data

pytestmark = pytest.mark.ros

MS = 1_000_000


class Camera:
    """A camera that misbehaves from the moment on when it is told to."""

    def __init__(self, robot, misbehave):
        self.robot = robot
        self.misbehave = misbehave
        self.is_bad = threading.Event()
        self.before = None

    def __call__(self, i):
        image = self.robot.image(i)
        if self.is_bad.is_set():
            self.misbehave(image, i, self.before)
        self.before = image
        return image


def shift(image, by_ms):
    stamp_ns = Time.from_msg(image.header.stamp).nanoseconds + round(by_ms * MS)
    image.header.stamp = Time(nanoseconds=stamp_ns).to_msg()


def same_stamp(image, i, before):
    if i % 3 == 0:
        image.header.stamp = before.header.stamp


def no_stamp(image, i, before):
    image.header.stamp.sec = image.header.stamp.nanosec = 0


def same_picture(image, i, before):
    image.data = before.data


def until_recorded(recorder, values):
    """Wait until some messages of the camera, which are as they should be, are in the bag."""
    pattern = re.compile(r', (\d+) recorded')

    def recorded(status):
        found = pattern.search(values(status)['stream front'])
        return found is not None and int(found[1]) >= 5

    recorder.status.wait(recorded)


def findings(bag, stream):
    """Return the kinds of what the bag's own audit finds in a stream."""
    audit = json.loads(read_custom_data(bag)['vqbet.audit'])
    return {finding['kind'] for finding in audit['findings'] if finding['stream'] == stream}


@pytest.mark.parametrize(
    ('misbehave', 'kind', 'text'),
    [
        (lambda image, i, _: shift(image, -90 * (i % 4 == 0)), 'out_of_order', 'stamped before'),
        (lambda image, i, _: shift(image, -45 * (i % 2)), 'jitter', 'intervals vary by'),
        (lambda image, i, _: shift(image, 70), 'future', 'in the future'),
        (lambda image, i, _: shift(image, -5000), 'clock_jump', 'clock of the stamps jumped'),
        (lambda image, i, _: shift(image, -5000), 'delay_peak', 'one message arrived 5'),
        (lambda image, i, _: shift(image, 5000), 'gap', 'nothing for 5.'),
        (same_stamp, 'duplicate', 'bear the same stamp'),
        (no_stamp, 'unstamped', 'bear no stamp'),
        (same_picture, 'frozen', 'the same picture for'),
    ],
    ids=lambda value: value if isinstance(value, str) and ' ' not in value else '',
)
def test_a_camera_that_goes_wrong_is_found(record, robot, values, misbehave, kind, text):
    camera = Camera(robot, misbehave)
    robot.publish_all(but=['/camera'])
    robot.publish('/camera', camera, 20.0)
    recorder = record()
    recorder.start()
    until_recorded(recorder, values)
    camera.is_bad.set()
    recorder.wait(text)
    assert kind in findings(recorder.stop(), 'front')


def test_messages_that_are_always_late_are_found(record, robot):
    camera = Camera(robot, lambda image, i, _: shift(image, -700))
    camera.is_bad.set()
    robot.publish_all(but=['/camera'])
    robot.publish('/camera', camera, 20.0)
    recorder = record()
    recorder.start()
    recorder.wait('after their stamp')
    assert 'delay' in findings(recorder.stop(), 'front')


def test_a_publisher_that_stops_is_found(record, robot, values):
    robot.publish_all()
    recorder = record()
    recorder.start()
    until_recorded(recorder, values)
    robot.stop('/camera')
    recorder.wait('front: nothing for')
    assert {'gap', 'slow'} <= findings(recorder.stop(), 'front')


def test_a_second_publisher_of_the_same_topic_is_found(record, robot):
    robot.publish_all()
    recorder = record()
    recorder.start()
    publisher = robot.node.create_publisher(JointState, '/joint_states', 10)
    robot.node.create_timer(0.01, lambda: publisher.publish(robot.joints(0)))
    recorder.wait('Hz, expected 35 Hz')
    assert 'fast' in findings(recorder.stop(), '/joint_states')


def test_what_is_lost_on_the_way_is_counted_by_the_publishers_numbers(record, robot, read_bag):
    robot.publish_all(but=['/joint_states'])
    publisher = robot.node.create_publisher(JointState, '/joint_states', 1000)
    timer = robot.node.create_timer(0.02, lambda: publisher.publish(robot.joints(0)))
    recorder = record()
    recorder.start()
    timer.cancel()
    # Far more at once than may wait here: the newest push the oldest out.
    for payload in [serialize_message(robot.joints(i)) for i in range(3000)]:
        publisher.publish(payload)
    timer.reset()
    recorder.wait('were published but never arrived')
    bag = recorder.stop()
    audit = json.loads(read_custom_data(bag)['vqbet.audit'])['streams']['/joint_states']
    assert audit['lost_on_the_way'] > 0
    assert audit['messages'] == len(read_bag(bag)['/joint_states'])


def test_joints_may_come_in_messages_of_their_own(record, robot):
    robot.publish_all(but=['/joint_states'])
    for name in ('x', 'y'):
        publisher = robot.node.create_publisher(JointState, '/joint_states', 10)
        robot.node.create_timer(
            0.02, lambda p=publisher, n=name: p.publish(robot.joints(0, names=[n]))
        )
    recorder = record()
    recorder.start()
    recorder.stop()
