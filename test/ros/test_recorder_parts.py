"""Parts of recorder_node: quality of service, buttons, simulated time."""

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from hypothesis import given
from hypothesis import strategies as st
from mcap.reader import make_reader
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from vqbet_ros.recording.bag import read_custom_data
from vqbet_ros.ros.recorder_joystick import Buttons
from vqbet_ros.ros.recorder_qos import adapted, asks_too_much, depth_for, same

OFFERS = [
    QoSProfile(depth=1, reliability=reliability, durability=durability)
    for reliability in (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT)
    for durability in (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL)
]
offers = st.lists(st.sampled_from(OFFERS), min_size=1, max_size=4)


def is_compatible(asked, offer):
    """Tell what DDS says: nobody gets more than is offered."""
    reliable, latched = ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL
    return (offer.reliability == reliable or asked.reliability != reliable) and (
        offer.durability == latched or asked.durability != latched
    )


@given(offers)
def test_what_is_asked_for_is_compatible_with_every_offer_and_as_much_as_can_be(them):
    asked = adapted(them, 10)
    assert all(is_compatible(asked, offer) for offer in them)
    for better in OFFERS:
        if all(is_compatible(better, offer) for offer in them):
            assert is_compatible(better, asked) or same(better, asked)


@given(st.sampled_from(OFFERS), offers)
def test_a_subscription_asks_too_much_if_some_publisher_cannot_give_it(asked, them):
    assert asks_too_much(asked, them) == (not all(is_compatible(asked, o) for o in them))


@pytest.mark.parametrize(
    ('rate_hz', 'depth'), [(None, 100), (0.1, 10), (30.0, 30), (500.0, 500), (9000.0, 1000)]
)
def test_a_second_of_messages_may_wait(rate_hz, depth):
    assert depth_for(rate_hz) == depth


def test_a_button_commands_once_when_it_goes_down():
    buttons = Buttons({'start': 0, 'stop': 1, 'discard': -1})
    given_ = [
        buttons.pressed(state, recording=False)
        for state in ([1, 0], [1, 0], [0, 0], [1, 0], [1, 1], [1, 1], [0, 0], [0, 1])
    ]
    assert given_ == [[], [], [], ['start'], ['stop'], [], [], ['stop']]


def test_one_button_may_be_the_switch():
    buttons = Buttons({'start': 2, 'stop': 2})
    up, down = [0, 0, 0], [0, 0, 1]
    assert buttons.pressed(up, recording=False) == []
    assert buttons.pressed(down, recording=False) == ['start']
    assert buttons.pressed(up, recording=True) == []
    assert buttons.pressed(down, recording=True) == ['stop']


def test_another_joystick_or_one_with_too_few_buttons_commands_nothing():
    buttons = Buttons({'start': 3})
    assert buttons.pressed([0, 0, 0, 0], recording=False) == []
    assert buttons.pressed([0, 0, 0, 1, 1], recording=False) == []
    assert buttons.pressed([0, 0], recording=False) == []
    assert buttons.pressed([1, 1], recording=False) == []


@pytest.mark.ros
def test_simulated_time_is_the_time_of_everything(record, robot):
    recorder = record(use_sim_time=True)
    assert 'there is no time on /clock yet' in recorder.call('start').message
    # Half as fast as real time, from a moment long past.
    start_ns, step_ns, count = 1_000_000_000_000, 10_000_000, [0]
    clock = robot.node.create_publisher(Clock, '/clock', 10)

    def now():
        return Time(nanoseconds=start_ns + count[0] * step_ns).to_msg()

    def tick():
        count[0] += 1
        clock.publish(Clock(clock=now()))

    robot.stamp = now
    robot.node.create_timer(0.02, tick)
    robot.publish('/camera', robot.image, 20.0)  # 40 Hz of simulated time
    robot.publish('/joint_states', robot.joints, 50.0)
    robot.publish('/commands', robot.command, 20.0)
    recorder.start()
    recorder.wait('recording')
    recorder.catch_up(robot)
    bag = recorder.stop()
    end_ns = start_ns + count[0] * step_ns
    custom = read_custom_data(bag)
    assert custom['vqbet.clock'] == 'sim'
    assert '_1970' not in bag.name
    with (bag / f'{bag.name}_0.mcap').open('rb') as stream:
        times = [(m.log_time, m.publish_time) for _, _, m in make_reader(stream).iter_messages()]
    assert times
    for log_ns, publish_ns in times:
        assert start_ns < log_ns <= end_ns
        assert publish_ns == log_ns
