"""A policy_node of its own process that is ended while the robot moves."""

from dataclasses import replace
import itertools
import os
from pathlib import Path
import signal
import time

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus
from fault_judge import Judge
from fault_robot import Arm
import numpy as np
from vqbet_ros.command_spec import JointLimits
from vqbet_ros.resources import resource
from vqbet_ros.runtime_spec import LimiterSettings, RuntimeSettings
from vqbet_ros.spec import RobotSpec

pytestmark = pytest.mark.slow  # each starts a process that loads torch
TARGET = [400.0, 450.0]
SLACK_S = 0.5


def child_of(process):
    """Return the process of the policy."""
    tasks = Path(f'/proc/{process.pid}/task').glob('*/children')
    (child,) = (int(pid) for task in tasks for pid in task.read_text().split())
    return child


@pytest.fixture
def acceleration():
    return 150.0


@pytest.fixture
def moving(graph, start_process, make_checkpoint, tmp_path, acceleration):
    """Start a policy that moves its robot slowly, for five seconds or more."""
    spec = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
    limits = JointLimits((0.0, 512.0), 60.0, acceleration, 10 * acceleration)
    slow = dict.fromkeys(spec.action.names, limits)
    # The target is far away for a robot that slow, but not wrong.
    far = LimiterSettings(gross_velocity=100.0)
    runtime = RuntimeSettings(control_rate_hz=50.0, interpolation='linear', limiter=far)
    spec = replace(spec, action=replace(spec.action, limits=slow), runtime=runtime)
    (tmp_path / 'slow.yaml').write_text(spec.to_yaml(), encoding='utf-8')
    arm = Arm(graph, spec, (50.0, 50.0))
    process = start_process(
        'policy_node',
        checkpoint=make_checkpoint(TARGET),
        spec=tmp_path / 'slow.yaml',
        autostart='true',
        enable='true',
    )

    def fast():
        """Tell whether the last ten commands moved with more than nine tenths of the speed."""
        places = [message.data[0] for _, message in arm.commands[-11:]]
        return len(places) == 11 and places[-1] - places[0] > 0.9 * 10 * 60.0 / 50.0

    arm.until(fast, 'in motion', timeout_s=90.0)
    return process, arm, Judge(spec)


def steps_of(commands):
    """Return the largest change of each command (K - 1,)."""
    places = [message.data for _, message in commands]
    return np.array([np.abs(np.subtract(b, a)).max() for a, b in itertools.pairwise(places)])


@pytest.mark.parametrize(
    'number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_a_signal_in_motion_brings_the_robot_to_rest_and_ends_the_process(moving, number):
    process, arm, judge = moving
    heard, began_s = len(arm.commands), time.monotonic()
    process.send_signal(number)
    text, _ = process.communicate(timeout=20)
    ended_s = time.monotonic() - began_s
    assert process.returncode == 0, text
    assert 'Traceback' not in text, text
    arm.pause(0.2)  # the last command is on the way
    assert ended_s <= judge.stop_s + 0.5 + SLACK_S
    steps = steps_of(arm.commands[heard - 1 :])
    last = int(np.flatnonzero(steps)[-1])
    standstill_s = arm.commands[heard + last][0] - began_s
    longest_s = 2 * judge.period_s  # of a tick, as the limiter counts it
    share = steps_of(arm.commands).max() / (judge.velocity[0] * judge.period_s)
    print(f'{number.name} | {share:.2f} | {standstill_s:.2f} s | ended after {ended_s:.2f} s')
    assert standstill_s <= judge.stop_s + SLACK_S
    assert steps_of(arm.commands).max() <= judge.velocity[0] * longest_s
    # It was slowed down: the last steps are as small as the limits ask for, and there are many.
    assert steps[last] <= judge.acceleration[0] * longest_s**2
    assert last >= 0.9 * judge.velocity[0] / (judge.acceleration[0] * longest_s)


@pytest.mark.parametrize('acceleration', [20.0])
def test_the_end_is_bounded_though_the_robot_stops_slowly(moving):
    process, _, _ = moving
    began_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=20)
    ended_s = time.monotonic() - began_s
    print(f'slow robot | ended after {ended_s:.2f} s')
    assert process.returncode == 0, text
    assert 'the robot was not at rest after 1.5 s' in text
    assert ended_s <= 2.5 + SLACK_S


def test_a_policy_whose_process_is_killed_stops_the_robot_and_not_the_node(graph, moving, values):
    """The system may end the process that computes, where memory is short for example."""
    process, arm, judge = moving
    status = graph.listen(DiagnosticStatus, '/policy_node/status')
    heard, began_s = len(arm.commands), time.monotonic()
    os.kill(child_of(process), signal.SIGKILL)
    fault = status.wait(lambda s: values(s)['state'] == 'fault', what='fault')
    assert 'PolicyLost' in values(fault)['reason']
    arm.pause(judge.stop_s + SLACK_S)
    steps = steps_of(arm.commands[heard - 1 :])
    last = int(np.flatnonzero(steps)[-1])
    standstill_s = arm.commands[heard + last][0] - began_s
    print(f'killed policy | {standstill_s:.2f} s')
    longest_s = 2 * judge.period_s
    assert steps[last] <= judge.acceleration[0] * longest_s**2  # slowed down, not cut off
    # It is noticed at the next decision.
    assert standstill_s <= 0.5 + judge.stop_s + SLACK_S
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 0, text


def test_a_killed_process_sends_nothing_more_and_nothing_slows_the_robot_down(moving):
    """What is left is the controller's: it holds the last command, or rests where it ends."""
    process, arm, judge = moving
    began_s = time.monotonic()
    process.kill()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    arm.pause(1.0)
    assert arm.commands[-1][0] - began_s <= judge.period_s + SLACK_S
    assert steps_of(arm.commands)[-1] > 0.4 * judge.velocity[0] * judge.period_s
