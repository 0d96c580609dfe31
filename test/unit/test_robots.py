"""The specs of real arms: the runtime takes each of them, and keeps its limits."""

import dataclasses

import numpy as np
import pytest
from vqbet_ros.resources import resource
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime.measured import Measured
from vqbet_ros.runtime.outcome import Command
from vqbet_ros.runtime.supervisor import Supervisor
from vqbet_ros.runtime.watch import Facts
from vqbet_ros.spec import RobotSpec

T = 10**15
TICK_NS = 10**7
ROBOTS = sorted(path.name for path in resource('config/robots').glob('*.yaml'))


@pytest.mark.parametrize('name', ROBOTS)
def test_every_robot_is_commanded_within_its_limits(name):
    spec = RobotSpec.from_yaml(resource('config/robots') / name)
    supervisor = Supervisor(spec, dataclasses.replace(spec.runtime, control_rate_hz=100.0))
    state = np.array([0.3 * i for i in range(spec.state_dim)])
    limits = [_limits(spec, channel) for channel in spec.action_names]
    low, high = np.array([limit.position for limit in limits]).T
    for i, channel in enumerate(spec.action_names):
        column = spec.measured(channel)
        if column is not None:
            state[column] = (low[i] + high[i]) / 2
    measured = Measured(spec).of(state)
    epoch = supervisor.enable(T, measured)
    middle = (low + high) / 2
    way = np.linspace(middle, middle + 0.02 * (high - low), 21)[1:]
    assert supervisor.accept(Chunk(T, way, 10**8, 0.9, epoch, (0, 0))) is None
    sent = []
    for k in range(1, 150):
        now_ns = T + k * TICK_NS
        outcome = supervisor.tick(now_ns, (), Facts(measured=measured, steady_ns=now_ns))
        assert isinstance(outcome, Command), outcome.reasons
        sent.append(outcome.values)
    assert (np.array(sent) >= low - 1e-9).all()
    assert (np.array(sent) <= high + 1e-9).all()
    velocity = np.abs(np.diff(sent, axis=0)).max(axis=0) / (TICK_NS / 1e9)
    largest = np.array([np.inf if one.velocity is None else one.velocity for one in limits])
    assert (velocity <= largest * (1 + 1e-6)).all()
    assert not np.array_equal(sent[0], sent[-1]), 'it moves'


@pytest.mark.parametrize('name', ROBOTS)
def test_what_nothing_smooths_is_commanded_often(name):
    spec = RobotSpec.from_yaml(resource('config/robots') / name)
    gripper = spec.action.gripper
    recorded_only = gripper is not None and gripper.command is None
    smooth = not spec.action.command_interface.startswith('forward') or spec.robot == 'pusht'
    if not smooth and not recorded_only:
        assert (spec.runtime.control_rate_hz or spec.rate_hz) >= 50.0
        assert spec.runtime.interpolation != 'step'


def _limits(spec, channel):
    gripper = spec.action.gripper
    if gripper is not None and channel == gripper.name:
        return gripper.limits
    return spec.action.limits[channel]
