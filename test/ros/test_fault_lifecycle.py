"""Every transition of the lifecycle from every state: commands in one alone, no thread left."""

from dataclasses import replace
import threading
import time

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from fault_judge import EXACT
import fault_robot as fault
from lifecycle_msgs.msg import State, Transition
import numpy as np
from vqbet_ros.command_spec import JointLimits
from vqbet_ros.ros.pipeline import LONGEST_STOP_S
from vqbet_ros.runtime_spec import LimiterSettings

pytest_plugins = ['fault_rig']
UNCONFIGURED = State.PRIMARY_STATE_UNCONFIGURED
INACTIVE = State.PRIMARY_STATE_INACTIVE
ACTIVE = State.PRIMARY_STATE_ACTIVE
FINALIZED = State.PRIMARY_STATE_FINALIZED
ALLOWED = {
    (UNCONFIGURED, Transition.TRANSITION_CONFIGURE): INACTIVE,
    (UNCONFIGURED, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN): FINALIZED,
    (INACTIVE, Transition.TRANSITION_ACTIVATE): ACTIVE,
    (INACTIVE, Transition.TRANSITION_CLEANUP): UNCONFIGURED,
    (INACTIVE, Transition.TRANSITION_INACTIVE_SHUTDOWN): FINALIZED,
    (ACTIVE, Transition.TRANSITION_DEACTIVATE): INACTIVE,
    (ACTIVE, Transition.TRANSITION_ACTIVE_SHUTDOWN): FINALIZED,
}
ALL = sorted({transition for _, transition in ALLOWED})


def refuse_the_others(one, state):
    """Try every transition that a state does not have: nothing changes, and nothing is sent."""
    sent = len(one.arm.commands)
    for transition in ALL:
        if (state, transition) not in ALLOWED:
            assert not one.change(transition)
            assert one.lifecycle() == state
    assert one.enable(True).success is (state == ACTIVE)
    if state != ACTIVE:
        assert len(one.arm.commands) == sent


def own_threads():
    return {thread for thread in threading.enumerate() if thread.name in ('inference', 'control')}


def check_end(one, began_s, first, heard, what):
    """Check that a robot that moved was brought to rest, and is sent nothing more."""
    assert not own_threads()
    one.arm.pause(0.1)  # its last command is on the way
    row = one.row(began_s, first, heard, what)
    one.check_stop(row, 0.0)
    # It was not cut off in motion: its last step was as small as the limits ask for.
    before, last = [tick for tick in one.ticks if tick.values is not None][-2:]
    step = np.abs(last.values - before.values)
    assert (step <= one.judge.acceleration * last.step_s**2 * EXACT).all()
    sent = len(one.arm.commands)
    one.arm.pause(0.3)
    assert len(one.arm.commands) == sent
    return row


def test_every_transition_twice(rig):
    one, before = rig(), set(threading.enumerate())
    for _ in range(2):
        refuse_the_others(one, UNCONFIGURED)
        assert one.change(Transition.TRANSITION_CONFIGURE)
        one.ticks.clear()
        one.arm.commands.clear()
        for _ in range(2):
            refuse_the_others(one, INACTIVE)
            assert not own_threads()
            assert one.change(Transition.TRANSITION_ACTIVATE)
            assert len(own_threads()) == 2
            one.go()
            refuse_the_others(one, ACTIVE)
            one.wait_motion()
            mark = time.monotonic(), len(one.ticks), len(one.arm.commands)
            assert one.change(Transition.TRANSITION_DEACTIVATE)
            check_end(one, *mark, 'deactivated')
        assert one.change(Transition.TRANSITION_CLEANUP)
        assert one.node.pipeline is None
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ('state', 'transition'),
    [(state, t) for (state, t), after in ALLOWED.items() if after == FINALIZED],
    ids=['unconfigured', 'inactive', 'active'],
)
def test_a_shutdown_ends_everything_from_any_state(rig, state, transition):
    one, before = rig(), set(threading.enumerate())
    if state != UNCONFIGURED:
        assert one.change(Transition.TRANSITION_CONFIGURE)
    if state == ACTIVE:
        assert one.change(Transition.TRANSITION_ACTIVATE)
        one.go()
    mark = time.monotonic(), len(one.ticks), len(one.arm.commands)
    assert one.change(transition)
    assert one.lifecycle() == FINALIZED
    if state == ACTIVE:
        check_end(one, *mark, 'shut down')
    assert one.node.pipeline is None
    refuse_the_others(one, FINALIZED)
    assert set(threading.enumerate()) <= before


def test_an_error_while_it_is_configured_leaves_it_unconfigured_and_able_to_try_again(
    rig, monkeypatch
):
    one, before = rig(), set(threading.enumerate())

    def fail():
        raise RuntimeError('no memory')

    monkeypatch.setattr(one.policy, 'warm_up', fail)
    for _ in range(2):
        assert not one.change(Transition.TRANSITION_CONFIGURE)
        assert one.lifecycle() == UNCONFIGURED
        assert set(threading.enumerate()) <= before
    monkeypatch.setattr(one.policy, 'warm_up', fault.Circle.warm_up.__get__(one.policy))
    one.start()
    one.check_limits()


def test_limits_that_make_a_stop_too_long_are_told_and_cut_off_at_the_end(rig, capfd):
    slow = JointLimits(position=(-3.0, 3.0), velocity=1.0, acceleration=0.5)
    names = fault.SPEC.action.names
    action = replace(fault.SPEC.action, limits={names[0]: slow, names[1]: slow})
    far = replace(fault.SPEC.runtime, limiter=LimiterSettings(gross_velocity=100.0))
    one = rig(replace(fault.SPEC, action=action, runtime=far))
    assert one.change(Transition.TRANSITION_CONFIGURE)
    warning = capfd.readouterr().err
    assert 'take longer to stop than the 1.5 s' in warning
    assert f'{names[0]} up to 2.0 s, {names[1]} up to 2.0 s' in warning
    assert one.change(Transition.TRANSITION_ACTIVATE)
    one.policy.spoil = lambda actions: np.full_like(actions, 2.5)
    while not one.enable().success:
        one.wait_ticks(2)
    one.until(lambda: fastest(one) > 0.9, 'almost at its largest velocity')
    began_s = time.monotonic()
    assert one.change(Transition.TRANSITION_DEACTIVATE)
    assert LONGEST_STOP_S <= time.monotonic() - began_s <= LONGEST_STOP_S + one.slack_s
    assert 'up to its controller' in capfd.readouterr().err
    assert not own_threads()
    one.check_limits()


def fastest(one):
    """Return the speed of the last command."""
    if len(one.ticks) < 2 or one.ticks[-2].values is None:
        return 0.0
    last, before = one.ticks[-1], one.ticks[-2]
    return abs(last.values - before.values).max() / last.step_s


def test_a_policy_that_hangs_at_the_end_does_not_come_back_as_a_second_one(rig, capfd):
    one, stuck = rig().start(), fault.Stuck()
    one.policy.spoil = stuck
    assert stuck.came.wait(20.0)
    began_s = time.monotonic()
    assert one.change(Transition.TRANSITION_DEACTIVATE)
    assert time.monotonic() - began_s <= one.judge.stop_s + 0.4 + one.slack_s
    assert 'the policy hangs' in capfd.readouterr().err
    (hanging,) = own_threads()
    assert one.change(Transition.TRANSITION_ACTIVATE)
    one.policy.spoil = lambda actions: actions
    stuck.go.set()
    hanging.join(20.0)
    assert not hanging.is_alive()
    assert sorted(thread.name for thread in own_threads()) == ['control', 'inference']
    one.go()
    one.check_limits()
