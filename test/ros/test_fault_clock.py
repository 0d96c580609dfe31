"""What the robot does when a clock is set, and when simulated time stops or begins anew."""

import time

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from lifecycle_msgs.msg import Transition
from rclpy.duration import Duration
from rosgraph_msgs.msg import Clock
from vqbet_ros.runtime.gate import ReasonKind

pytest_plugins = ['fault_rig']
SECOND = 1_000_000_000


class SetClock:
    """The clock of a machine, which somebody sets."""

    def __init__(self, clock):
        self._clock, self.offset_ns = clock, 0

    def now(self):
        return self._clock.now() + Duration(nanoseconds=self.offset_ns)


def jumps(ticks):
    return [t for t in ticks for r in t.outcome.reasons if r.kind is ReasonKind.CLOCK_JUMP]


@pytest.mark.parametrize('jump_s', [10.0, -10.0, 0.8, -0.9])
def test_a_clock_that_is_set_holds_the_robot_until_new_data_is_there(rig, monkeypatch, jump_s):
    one = rig()
    clock = SetClock(one.node.get_clock())
    monkeypatch.setattr(one.node, 'get_clock', lambda: clock)
    one.arm.now_ns = lambda: clock.now().nanoseconds
    one.start()
    first, heard, planned = len(one.ticks), len(one.arm.commands), len(one.policy.plans)
    clock.offset_ns = round(jump_s * SECOND)  # of the robot and of the node
    one.until(lambda: bool(jumps(one.ticks[first:])), 'the jump')
    index = one.ticks.index(jumps(one.ticks[first:])[0])
    one.wait_motion()  # by itself
    row = one.row(one.ticks[first].at_s, first, heard, f'the clock jumps by {jump_s:+g} s')
    assert not one.ticks[index].is_policy
    # Nothing has to wait until the new time has come up with the old one.
    later = next(tick for tick in one.ticks[index:] if tick.is_policy)
    assert later.at_s - one.ticks[index].at_s < 0.8
    # No plan of before is followed in the new time.
    old = {stamp for stamp, _ in one.policy.plans[:planned]}
    assert not [t for t in one.ticks[index:] if t.is_policy and t.outcome.t_obs_ns in old]
    assert row.worst_step <= 1 + 1e-6


@pytest.mark.parametrize(
    ('jump_s', 'reason'), [(10.0, 'data is too old'), (-10.0, 'stamp lies in the future')]
)
def test_clocks_that_differ_hold_the_robot_until_they_agree(rig, monkeypatch, jump_s, reason):
    one = rig()
    clock = SetClock(one.node.get_clock())
    monkeypatch.setattr(one.node, 'get_clock', lambda: clock)
    one.start()

    def jump():
        clock.offset_ns = round(jump_s * SECOND)

    row = one.suffer(jump, 'hold', reason)
    one.check_stop(row, 0.0)
    clock.offset_ns = 0
    one.wait_motion()  # by itself
    one.check_limits()


class Simulation:
    """Publishes simulated time, a hundred times a second as fast as real time.

    Attributes:
        runs: Whether it goes on.
        now_ns: What time it is.
    """

    def __init__(self, node):
        self.runs, self.now_ns = True, 100 * SECOND
        self._publisher = node.create_publisher(Clock, '/clock', 10)
        node.create_timer(0.01, self._tick)

    def _tick(self):
        if self.runs:
            self.now_ns += SECOND // 100
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(self.now_ns, SECOND)
        self._publisher.publish(clock)


@pytest.fixture
def simulated(rig):
    """Start a robot in motion, in simulated time."""

    def start():
        one = rig(use_sim_time=True)
        simulation = Simulation(one.arm.node)
        one.arm.now_ns = lambda: simulation.now_ns
        return one.start(), simulation

    return start


def test_simulated_time_that_stops_stops_the_commands_at_once(simulated):
    one, simulation = simulated()
    first, heard, began_s = len(one.ticks), len(one.arm.commands), time.monotonic()
    simulation.runs = False
    one.arm.pause(one.slack_s)
    stopped = len(one.arm.commands)
    one.arm.pause(0.5)
    assert len(one.arm.commands) == stopped
    row = one.row(began_s, first, heard, 'simulated time stops')
    assert row.standstill_s <= one.judge.period_s + one.slack_s
    simulation.runs = True
    one.wait_motion()  # by itself, in the midst of its movement
    one.check_limits()


def test_in_simulated_time_that_stands_still_it_says_so_and_is_disarmed_and_ended_at_once(
    simulated,
):
    one, simulation = simulated()
    first, heard, began_s = len(one.ticks), len(one.arm.commands), time.monotonic()
    simulation.runs = False
    one.status.clear()
    one.wait('running', 'simulated time stands still')
    one.status.clear()
    assert one.enable(False).success
    one.wait('disarmed')
    one.arm.pause(0.1)  # its last command is on the way
    row = one.row(began_s, first, heard, 'disabled while simulated time stands still')
    assert 0 < row.worst_step <= 1 + 1e-6
    simulation.runs = True
    one.arm.pause(0.1)
    one.go()
    # And in motion.
    simulation.runs = False
    began_s = time.monotonic()
    assert one.change(Transition.TRANSITION_DEACTIVATE)
    assert time.monotonic() - began_s <= one.judge.stop_s + one.slack_s
    one.check_limits()


@pytest.mark.parametrize('jump_s', [-50.0, 50.0])
def test_simulated_time_that_begins_anew_or_leaps_goes_on_with_new_data(simulated, jump_s):
    one, simulation = simulated()
    first, heard, planned = len(one.ticks), len(one.arm.commands), len(one.policy.plans)
    one.arm.spoil['/camera'] = lambda image: []  # there is a moment without new data
    simulation.now_ns += round(jump_s * SECOND)
    one.until(lambda: any(not tick.is_policy for tick in one.ticks[first:]), 'held')
    index = next(i for i, tick in enumerate(one.ticks) if i >= first and not tick.is_policy)
    one.arm.spoil.clear()
    one.wait_motion()  # by itself
    one.row(one.ticks[first].at_s, first, heard, f'simulated time jumps by {jump_s:+g} s')
    assert jump_s > 0 or jumps(one.ticks[first:])  # forwards, the data is too old
    old = {stamp for stamp, _ in one.policy.plans[:planned]}
    assert not [t for t in one.ticks[index:] if t.is_policy and t.outcome.t_obs_ns in old]
