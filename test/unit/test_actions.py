"""Recorded commands of every type, and poses: which number belongs to which frame."""

from dataclasses import replace

import cdr_messages as cdr
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.action_spec import ActionSpec, CommandSource
from vqbet_ros.data.actions import decode_command, delta
from vqbet_ros.data.align import align
from vqbet_ros.data.bag import BagMessage
from vqbet_ros.errors import BadMessage
from vqbet_ros.message_types import (
    FLOAT64_MULTI_ARRAY,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    JOY,
    pose_channels,
    POSE_STAMPED,
    TWIST_STAMPED,
)
from vqbet_ros.runtime.rotation import matrix, rotation_6d
from vqbet_ros.spec import JointLimits, RobotSpec, StateSpec

MS = 1_000_000
T = 1_700_000_000_000 * MS
LIMITS = JointLimits((-9.0, 9.0))


def source(type_name, *names, channels=None, frame_id=''):
    return CommandSource(
        'action', '/commands', type_name, names, channels or names, frame_id, 0, None
    )


def target(payload, at):
    return decode_command(payload, at).at(0)


def test_each_type_gives_its_numbers():
    xy = ('x', 'y')
    np.testing.assert_array_equal(
        target(cdr.joints(T, y=2, claw=9, x=1), source(JOINT_STATE, *xy)), [1, 2]
    )
    np.testing.assert_array_equal(
        target(cdr.joints(T, y=2), source(JOINT_STATE, *xy)), [np.nan, 2]
    )
    np.testing.assert_array_equal(
        target(cdr.array(1, 2), source(FLOAT64_MULTI_ARRAY, *xy)), [1, 2]
    )
    buttons = source(JOY, 'axes/1', 'buttons/0')
    np.testing.assert_array_equal(target(cdr.joy(T, [0.25, -0.5], [1]), buttons), [-0.5, 1])
    np.testing.assert_array_equal(
        target(cdr.twist(T, [1, 2, 3], [4, 5, 6]), source(TWIST_STAMPED, 'tool0')),
        [1, 2, 3, 4, 5, 6],
    )
    np.testing.assert_allclose(
        target(cdr.pose(T, [1, 2, 3], [0, 0, 2**-0.5, 2**-0.5]), source(POSE_STAMPED, 'tool0')),
        [1, 2, 3, 0, 1, 0, -1, 0, 0],
        atol=1e-12,
    )


def test_of_a_trajectory_the_point_that_is_due_counts():
    payload = cdr.trajectory(
        T, ['y', 'x'], [(100 * MS, [1, 10]), (200 * MS, [2, 20]), (2000 * MS, [3, 30])]
    )
    command = decode_command(payload, source(JOINT_TRAJECTORY, 'x', 'y'))
    for elapsed_ms, expected in ((0, 1), (100, 1), (101, 2), (200, 2), (201, 3), (9000, 3)):
        np.testing.assert_array_equal(command.at(elapsed_ms * MS), [10 * expected, expected])


@pytest.mark.parametrize(
    ('payload', 'at', 'message'),
    [
        (cdr.joints(T, x=np.nan), source(JOINT_STATE, 'x'), 'not a finite number: x'),
        (cdr.array(1), source(FLOAT64_MULTI_ARRAY, 'x', 'y'), 'got 1 values, expected 2'),
        (cdr.array(np.inf), source(FLOAT64_MULTI_ARRAY, 'x'), 'not a finite number: x'),
        (cdr.joy(T, [1], []), source(JOY, 'axes/1', 'buttons/0'), 'no axes/1, buttons/0: this'),
        (cdr.trajectory(T, ['x'], []), source(JOINT_TRAJECTORY, 'x'), 'without points'),
        (
            cdr.trajectory(T, ['x'], [(2, [1]), (1, [1])]),
            source(JOINT_TRAJECTORY, 'x'),
            'not in order of time',
        ),
        (
            cdr.trajectory(T, ['x', 'y'], [(1, [1])]),
            source(JOINT_TRAJECTORY, 'x'),
            '1 positions for 2 joints',
        ),
        (
            cdr.pose(T, [0, 0, 0], [0, 0, 0, 0]),
            source(POSE_STAMPED, 'tool0'),
            'a quaternion of length 0, expected 1',
        ),
        (
            cdr.pose(T, [0, 0, 0], [0, 0, 0, 1], 'world'),
            source(POSE_STAMPED, 'tool0', frame_id='base'),
            "in frame 'world', expected 'base'",
        ),
        (
            cdr.pose(T, [np.nan, 0, 0], [0, 0, 0, 1]),
            source(POSE_STAMPED, 'tool0'),
            'not a finite number: x',
        ),
        (
            cdr.twist(T, [0, 0, 0], [0, np.inf, 0]),
            source(TWIST_STAMPED, 'tool0'),
            'not a finite number: wy',
        ),
        (b'\0\1\0\0abc', source(JOINT_STATE, 'x'), 'truncated or damaged'),
    ],
)
def test_a_command_that_is_none_is_refused(payload, at, message):
    with pytest.raises(BadMessage, match=message):
        decode_command(payload, at)


quaternions = (
    st.tuples(*[st.floats(-1, 1)] * 4).map(np.array).filter(lambda q: np.linalg.norm(q) > 0.1)
)


@settings(derandomize=True, deadline=None)
@given(quaternions, quaternions)
def test_a_relative_pose_leads_from_the_measured_one_to_the_target(first, second):
    measured = np.concatenate([[1.0, 2, 3], rotation_6d(first)])
    wanted = np.concatenate([[4.0, 4, 4], rotation_6d(second)])
    step = delta(wanted, measured, pose=True)
    np.testing.assert_allclose(measured[:3] + step[:3], wanted[:3])
    np.testing.assert_allclose(
        matrix(step[3:]) @ matrix(measured[3:]), matrix(wanted[3:]), atol=1e-9
    )
    still = delta(measured, measured, pose=True)
    np.testing.assert_allclose(still, [0, 0, 0, 1, 0, 0, 0, 1, 0], atol=1e-9)


POSE_SPEC = RobotSpec(
    robot='arm',
    rate_hz=10.0,
    action=ActionSpec(
        names=('tool0',),
        unit='m',
        command_topic='/target_pose',
        record_topic='/target_pose',
        record_type=POSE_STAMPED,
        kind='pose',
        frame_id='base',
        limits={f'tool0/{axis}': LIMITS for axis in 'xyz'},
    ),
    state=(
        StateSpec(
            topic='/current_pose',
            type=POSE_STAMPED,
            names=('tool0',),
            unit='m',
            rate_hz=50.0,
            max_age_s=0.1,
            frame_id='base',
        ),
    ),
)


def about_z(angle):
    return np.array([0, 0, np.sin(angle / 2), np.cos(angle / 2)])


def turning(signs=lambda i: 1):
    """A tool that turns about z by 1 rad/s while its target is 0.3 rad ahead."""
    messages = []
    for i, ms in enumerate(range(0, 8000, 30)):
        for topic, ahead in (('/current_pose', 0.0), ('/target_pose', 0.3)):
            stamp_ns = T + ms * MS
            pose = cdr.pose(stamp_ns, [ms / 1000, 0, 0], signs(i) * about_z(ms / 1000 + ahead))
            messages.append(BagMessage(topic, POSE_STAMPED, stamp_ns + MS, pose))
    return messages


def arrays(messages, spec):
    pieces = list(align(messages, spec))
    return tuple(
        np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ('stamps_ns', 'state', 'action')
    )


def six(angle):
    zero = np.zeros_like(angle)
    return np.stack([np.cos(angle), np.sin(angle), zero, -np.sin(angle), np.cos(angle), zero], 1)


def test_poses_turn_on_the_shorter_way_whatever_the_signs_of_quaternions():
    stamps_ns, state, action = arrays(turning(), POSE_SPEC)
    seconds = (stamps_ns - T) / 1e9
    np.testing.assert_allclose(state[:, 0], seconds, atol=1e-6)
    np.testing.assert_allclose(state[:, 3:], six(seconds), atol=1e-6)
    newest = np.floor((seconds + 0.1) / 0.03 + 1e-9) * 0.03  # commands are not interpolated
    np.testing.assert_allclose(action[:, 3:], six(newest + 0.3), atol=1e-6)
    rng = np.random.default_rng(0)
    flips = rng.choice([-1.0, 1.0], 1000)
    for signs in (lambda i: -1, lambda i: (-1) ** i, lambda i: flips[i]):
        for one, other in zip(
            (stamps_ns, state, action), arrays(turning(signs), POSE_SPEC), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_relative_poses_and_poses_without_commands():
    relative = replace(POSE_SPEC, action=replace(POSE_SPEC.action, reference='delta'))
    seconds = (arrays(turning(), relative)[0] - T) / 1e9
    action = arrays(turning(), relative)[2]
    newest = np.floor((seconds + 0.1) / 0.03 + 1e-9) * 0.03
    np.testing.assert_allclose(action[:, 0], newest - seconds, atol=1e-6)
    np.testing.assert_allclose(action[:, 3:], six(newest + 0.3 - seconds), atol=1e-6)
    measured = replace(
        POSE_SPEC, action=replace(POSE_SPEC.action, record_topic=None, record_type=None)
    )
    _, state, action = arrays(turning(), measured)
    np.testing.assert_array_equal(action[:-1], state[1:])
    assert measured.action_names == pose_channels('tool0')
