"""The goal changes while the robot moves: nothing of the old one, within limits, history kept."""

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.resources import resource
from vqbet_ros.runtime.chunk import Chunk
from vqbet_ros.runtime.gate import ReasonKind
from vqbet_ros.runtime.observation import Observation, ObservationBuffer
from vqbet_ros.runtime.supervisor import Command, Hold, State, Supervisor
from vqbet_ros.runtime.watch import Facts
from vqbet_ros.runtime_spec import BlendSettings, RuntimeSettings
from vqbet_ros.spec import JointLimits, RobotSpec

MS = 1_000_000
T = 1_000_000 * MS
TICK_NS = 10 * MS
VELOCITY, ACCELERATION = 1.5, 6.0
PUSHT = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
ARM = JointLimits((-2.0, 2.0), VELOCITY, ACCELERATION)
SPEC = dataclasses.replace(
    PUSHT, action=dataclasses.replace(PUSHT.action, unit='rad', limits={'x': ARM, 'y': ARM})
)


class Robot:
    """Does what it is told, perfectly; keeps what was sent."""

    def __init__(self, blend='replace'):
        runtime = RuntimeSettings(control_rate_hz=100.0, blend=BlendSettings(blend))
        self.supervisor = Supervisor(SPEC, runtime)
        self.now_ns, self.position = T, np.zeros(2)
        self.sent: list[np.ndarray] = [np.zeros(2)]
        self.supervisor.enable(T, self.position)

    def chunk(self, target):
        """Plan 2 s straight to a place, and 1 s there, for the epoch of now."""
        way = np.linspace(self.position, np.full(2, target), 21)[1:]
        way = np.concatenate([way, np.tile(way[-1], (10, 1))])
        return Chunk(self.now_ns, way, 100 * MS, 0.9, self.supervisor.epoch, (0, 1))

    def run(self, ticks):
        outcomes = []
        for _ in range(ticks):
            self.now_ns += TICK_NS
            facts = Facts(measured=self.position.copy())
            outcome = self.supervisor.tick(self.now_ns, (), facts)
            if outcome.values is not None:
                self.position = outcome.values
                self.sent.append(outcome.values)
            outcomes.append(outcome)
        return outcomes


@pytest.mark.parametrize('blend', ['replace', 'cross_fade', 'ensemble', 'mode'])
@settings(derandomize=True, max_examples=40)
@given(
    before=st.floats(-1.8, 1.8),
    after=st.floats(-1.8, 1.8),
    moving=st.integers(1, 150),
    thinking=st.integers(0, 60),
)
def test_a_new_goal_in_motion(blend, before, after, moving, thinking):
    robot = Robot(blend)
    assert robot.supervisor.accept(robot.chunk(before)) is None
    robot.run(moving)
    under_way = robot.chunk(before)  # what the policy is deciding at this moment
    last = robot.position
    robot.supervisor.discard()
    refusal = robot.supervisor.accept(under_way)
    assert refusal is not None
    assert refusal.kind is ReasonKind.OLD_CHUNK
    # No tick follows the old goal any more: the robot only slows down.
    waiting = robot.run(thinking)
    assert all(isinstance(outcome, Hold) for outcome in waiting)
    assert all(outcome.reasons[0].kind is ReasonKind.NO_PLAN for outcome in waiting)
    assert (np.abs(robot.position - last) <= VELOCITY**2 / (2 * ACCELERATION) + 0.02).all()
    assert robot.supervisor.accept(robot.chunk(after)) is None
    assert isinstance(robot.run(1)[0], Command)
    robot.run(350)
    # The plan has ended, at the new goal.
    np.testing.assert_allclose(robot.position, after, atol=0.02)
    assert robot.supervisor.state is State.HOLD
    path = np.array(robot.sent)
    speed = np.diff(path, axis=0) * 100
    assert np.abs(speed).max() <= VELOCITY * (1 + 1e-6)
    assert np.abs(np.diff(speed, axis=0, prepend=0)).max() * 100 <= ACCELERATION * (1 + 1e-6)


def test_what_was_seen_stays():
    """`discard` is of the supervisor alone: the policy sees the same history as before."""
    decoders: dict[str, Any] = {part.type: lambda payload, part: payload for part in SPEC.streams}
    buffer = ObservationBuffer(SPEC, decoders, history=3)
    robot = Robot()
    buffer.reset_history(T)
    image = np.zeros((96, 96, 3), np.uint8)
    for ms in range(0, 401, 20):
        if ms % 100 == 0:
            buffer.put('top', T + ms * MS, 0, image)
        buffer.put('/joint_states', T + ms * MS, 0, np.full(2, float(ms)))
    epoch = robot.supervisor.epoch
    assert robot.supervisor.discard() == epoch + 1
    assert robot.supervisor.history_start_ns == T
    observation = buffer.observe(T + 400 * MS, 3)
    assert isinstance(observation, Observation)
    assert observation.valid.all()
