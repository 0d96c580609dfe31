"""Aligning against plain oracles, and what holds whatever the messages are."""

from dataclasses import replace
import math
import tracemalloc

import cdr_messages as cdr
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.data import align as alignment
from vqbet_ros.data.align import align, GapFound, PIECE_TICKS, Problems
from vqbet_ros.data.bag import Bag, BagMessage
from vqbet_ros.errors import BadBag
from vqbet_ros.message_types import (
    COMPRESSED_IMAGE,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
)
from vqbet_ros.runtime.sampling import step_at
from vqbet_ros.spec import GripperSpec, JointLimits, RobotSpec

MS = 1_000_000
T = 1_700_000_000_000 * MS
PERIOD = 100 * MS
SPEC = RobotSpec.from_text(
    """
robot: arm
rate_hz: 10.0
cameras:
  - {name: top, topic: /top, type: sensor_msgs/msg/Image, height: 2, width: 3, rate_hz: 10.0,
     max_age_s: 0.25}
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [x, 'y'], unit: rad,
     rate_hz: 50.0, max_age_s: 0.1}
action:
  names: [x, 'y']
  unit: rad
  command_topic: /commands
  record_topic: /commands
  record_type: std_msgs/msg/Float64MultiArray
  limits: {x: {position: [-9.0, 9.0]}, 'y': {position: [-9.0, 9.0]}}
""",
    'a test',
)


def picture(number):
    return np.full((2, 3, 3), number % 256, np.uint8)


def camera(stamps_ms, late_ms=5):
    """Frames, each full of its number."""
    return [
        BagMessage('/top', IMAGE, T + (ms + late_ms) * MS, cdr.image(T + ms * MS, picture(i)))
        for i, ms in enumerate(stamps_ms)
    ]


def position(ms):
    return {'x': math.sin(ms / 500), 'y': ms / 1000}


def joints(stamps_ms, late_ms=1):
    return [
        BagMessage(
            '/joint_states',
            JOINT_STATE,
            T + (ms + late_ms) * MS,
            cdr.joints(T + ms * MS, **position(ms)),
        )
        for ms in stamps_ms
    ]


def commands(stamps_ms):
    """Commands without a stamp: x is their time."""
    return [
        BagMessage('/commands', FLOAT64_MULTI_ARRAY, T + ms * MS, cdr.array(ms / 1000, -1))
        for ms in stamps_ms
    ]


def in_order(*streams):
    return sorted((m for stream in streams for m in stream), key=lambda message: message.log_ns)


def drive(seconds=3.0, without=()):
    """An undisturbed recording."""
    end = int(seconds * 1000) + 1
    streams = {
        'top': camera(range(0, end, 100)),
        'joints': joints(range(0, end, 20)),
        'commands': commands(range(30, end, 40)),
    }
    return in_order(*(made for name, made in streams.items() if name not in without))


class Result:
    """All pieces put together."""

    def __init__(self, messages, spec=SPEC, **options):
        self.problems = Problems()
        pieces = list(align(messages, spec, problems=self.problems, **options))
        assert [piece.last for piece in pieces] == [
            i + 1 == len(pieces) or pieces[i + 1].episode != piece.episode
            for i, piece in enumerate(pieces)
        ]
        assert all(0 < len(piece.stamps_ns) <= PIECE_TICKS + 1 for piece in pieces)
        self.stamps_ns = np.concatenate([piece.stamps_ns for piece in pieces])
        self.ms = (self.stamps_ns - T) / MS
        self.state = np.concatenate([piece.state for piece in pieces])
        self.action = np.concatenate([piece.action for piece in pieces])
        self.images = {
            name: np.concatenate([piece.images[name] for piece in pieces])
            for name in pieces[0].images
        }
        self.ages_ns = {
            name: np.concatenate([piece.ages_ns[name] for piece in pieces])
            for name in pieces[0].ages_ns
        }
        self.command_ages_ns = {
            name: np.concatenate([piece.command_ages_ns[name] for piece in pieces])
            for name in pieces[0].command_ages_ns
        }
        self.episode = np.repeat(
            [piece.episode for piece in pieces], [len(piece.stamps_ns) for piece in pieces]
        )

    def same(self, other, shift_ns=0):
        np.testing.assert_array_equal(self.stamps_ns + shift_ns, other.stamps_ns)
        np.testing.assert_array_equal(self.episode, other.episode)
        for ours, theirs in (
            (self.state, other.state),
            (self.action, other.action),
            *((self.images[name], other.images[name]) for name in self.images),
            *((self.ages_ns[name], other.ages_ns[name]) for name in self.ages_ns),
        ):
            np.testing.assert_array_equal(ours, theirs)


def newest(stamps_ms, ms):
    """Return the last of the stamps that is not later; written without a search."""
    return max(stamp for stamp in stamps_ms if stamp <= ms)


def test_against_an_oracle():
    camera_ms, joints_ms = [3, 98, 205, 301, 395, 512, 600, 703], list(range(0, 800, 17))
    commands_ms = [10, 40, 130, 133, 260, 300, 410, 520, 599, 615, 700]
    found = Result(in_order(camera(camera_ms), joints(joints_ms), commands(commands_ms)))
    # Frames come up to 9 ms after the grid of the first one and 8 ms before it: the grid is later
    # by 9 ms and half of the 17.
    np.testing.assert_array_equal(found.ms, np.arange(20.5, 703, 100))
    for row, ms in enumerate(found.ms):
        frame = newest(camera_ms, ms)
        assert (found.images['top'][row] == picture(camera_ms.index(frame))).all()
        assert found.ages_ns['top'][row] == (ms - frame) * MS
        for column, name in enumerate('xy'):
            values = [position(stamp)[name] for stamp in joints_ms]
            np.testing.assert_allclose(
                found.state[row, column], np.interp(ms, joints_ms, values), atol=1e-6
            )
        assert found.ages_ns['/joint_states'][row] == (ms - newest(joints_ms, ms)) * MS
        command = newest(commands_ms, ms + 100)
        np.testing.assert_allclose(found.action[row], [command / 1000, -1])
        assert found.command_ages_ns['action'][row] == (ms + 100 - command) * MS
    assert found.state.dtype == found.action.dtype == np.float32
    assert found.problems.texts() == []


def test_the_grid_runs_where_all_streams_have_data():
    messages = in_order(
        camera(range(700, 2001, 100)), joints(range(0, 1901, 20)), commands([1030, 1130])
    )
    found = Result(messages)
    # The command of 1030 ms is the one of the tick at 1000 ms at the latest; 930 + 100 is it too.
    np.testing.assert_array_equal(found.ms, np.arange(1000, 1901, 100))


def test_latencies_are_taken_off_the_stamps():
    late = replace(SPEC.cameras[0], latency_s=0.03)
    action = replace(SPEC.action, record_latency_s=0.02)
    messages = in_order(
        camera(range(30, 3000, 100)), joints(range(0, 3000, 20)), commands(range(50, 3000, 100))
    )
    found = Result(messages, replace(SPEC, cameras=(late,), action=action))
    np.testing.assert_array_equal(found.ms[:3], [0, 100, 200])
    assert (found.ages_ns['top'] == 0).all()
    np.testing.assert_allclose(found.action[:3, 0], [0.05, 0.15, 0.25])


def test_a_command_that_answers_to_a_frame_is_the_frames_action():
    """As a policy does: it sees the frame, thinks for some time, and commands until the next."""
    for thinking_ms in (1, 20, 99):
        answers = [ms + thinking_ms for ms in range(0, 3000, 100)]
        found = Result(
            in_order(camera(range(0, 3000, 100)), joints(range(0, 3000, 20)), commands(answers))
        )
        np.testing.assert_allclose(found.action[:, 0], (found.ms + thinking_ms) / 1000, rtol=1e-6)


def test_trembling_stamps_neither_skip_nor_repeat_a_frame():
    rng = np.random.default_rng(0)
    camera_ms = [100 * i + int(rng.integers(-12, 13)) for i in range(1, 100)]
    found = Result(
        in_order(camera(camera_ms), joints(range(0, 10_000, 20)), commands(range(0, 10_000, 50)))
    )
    numbers = found.images['top'][:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(np.diff(numbers), 1)
    assert found.ages_ns['top'].max() <= 40 * MS


def test_joints_in_messages_of_their_own_are_merged():
    parts = [
        BagMessage('/joint_states', JOINT_STATE, T + ms * MS, cdr.joints(T + ms * MS, **some))
        for k in range(0, 3000, 20)
        for ms, some in ((k, {'x': k / 10}), (k + 7, {'y': -float(k + 7), 'gripper': 1.0}))
    ]
    messages = in_order(camera(range(50, 3000, 100)), parts, commands(range(0, 3000, 50)))
    found = Result(messages)
    assert found.ms[0] == 50
    np.testing.assert_allclose(found.state[:, 0], found.ms / 10, rtol=1e-6)
    np.testing.assert_allclose(found.state[:, 1], -found.ms, rtol=1e-6)
    # x was 10 ms old, y 3 ms.
    assert (found.ages_ns['/joint_states'] == 10 * MS).all()


@pytest.mark.parametrize(('lost_ms', 'is_gap'), [(40, False), (60, True)])
def test_a_joint_that_is_lost_between_others_is_a_gap(lost_ms, is_gap):
    """Each of its neighbours is young enough; but they are further apart than an age."""
    partial = [
        BagMessage('/joint_states', JOINT_STATE, T + ms * MS, cdr.joints(T + ms * MS, **part))
        for ms in range(0, 3001, 10)
        for part in ({'x': position(ms)['x']}, {'y': position(ms)['y']})
        if 'y' in part or abs(ms - 1000) >= lost_ms
    ]
    found = Result(in_order(partial, drive(without=['joints'])))
    assert (1000 not in found.ms) == is_gap
    assert set(found.ms) | {1000} == set(range(0, 3001, 100))
    if is_gap:
        (note,) = found.problems.texts()
        assert 'x/position: its samples near that time are missing or more than 100 ms' in note


def test_held_numbers_are_not_interpolated():
    part = replace(SPEC.state[0], hold=('y',))
    messages = in_order(
        camera(range(10, 3000, 100)), joints(range(0, 3000, 20)), commands(range(0, 3000, 50))
    )
    found = Result(messages, replace(SPEC, state=(part,)))
    expected = [[(position(a)['x'] + position(b)['x']) / 2, position(a)['y']]
                for a, b in ((ms - 10, ms + 10) for ms in found.ms)]  # fmt: skip
    np.testing.assert_allclose(found.state, expected, rtol=1e-6)


@pytest.mark.parametrize('gap', ['joints', 'camera'])
def test_a_gap_ends_the_episode(gap):
    kept = {'joints': [*range(0, 1000, 20), *range(1500, 3000, 20)], 'camera': range(0, 3000, 100)}
    if gap == 'camera':
        kept = {
            'joints': range(0, 3000, 20),
            'camera': [*range(0, 901, 100), *range(1500, 3000, 100)],
        }
    messages = in_order(
        camera(kept['camera']), joints(kept['joints']), commands(range(0, 3000, 50))
    )
    found = Result(messages)
    assert set(found.episode) == {0, 1}
    for episode in (0, 1):
        np.testing.assert_array_equal(np.diff(found.ms[found.episode == episode]), 100)
    last = 900 if gap == 'joints' else 1100  # a frame is good for 250 ms
    assert found.ms[found.episode == 0][-1] == last
    assert found.ms[found.episode == 1][0] == 1500
    (text,) = found.problems.texts()
    stream = '/joint_states' if gap == 'joints' else 'top'
    assert text.startswith(f'gap from 170000000{(last + 100) / 1000:.3f} s to 1700000001.400 s: ')
    assert f'{stream}: no data at the time' in text
    for policy in ('drop', 'fail'):
        with pytest.raises(GapFound, match=r'1 gap\(s\).*\n.*1700000001.400 s'):
            list(align(messages, SPEC, gaps=policy))


def test_commands_are_valid_until_the_next_one_or_as_long_as_the_spec_says():
    messages = in_order(
        camera(range(0, 3000, 100)), joints(range(0, 3000, 20)), commands([50, 60, 2050])
    )
    found = Result(messages)
    np.testing.assert_allclose(found.action[:20, 0], 0.06)
    assert set(found.episode) == {0}
    action = replace(SPEC.action, record_max_age_s=0.5)
    found = Result(messages, replace(SPEC, action=action))
    assert set(found.episode) == {0, 1}
    (gap, _) = found.problems.texts()
    assert 'no command for x, y in the 500 ms before' in gap


# Actions


def measured_spec(**changes):
    action = replace(SPEC.action, record_topic=None, record_type=None, **changes)
    return replace(SPEC, action=action)


def test_without_commands_the_action_is_the_next_measured_state():
    found = Result(drive(), measured_spec())
    np.testing.assert_array_equal(found.action[:-1], found.state[1:])
    full = Result(drive())
    np.testing.assert_array_equal(found.state, full.state[: len(found.state)])
    assert len(found.state) == len(full.state) - 1  # of the last one nobody knows what came next
    relative = Result(drive(), measured_spec(reference='delta'))
    np.testing.assert_allclose(relative.action[:-1], np.diff(found.state, axis=0), atol=1e-6)


def test_the_next_state_is_never_one_of_another_episode():
    cut = [
        m for m in drive() if m.topic != '/joint_states' or not 900 < (m.log_ns - T) / MS < 1500
    ]
    found = Result(cut, measured_spec())
    assert set(found.episode) == {0, 1}
    for episode in (0, 1):
        rows = found.episode == episode
        np.testing.assert_array_equal(found.action[rows][:-1], found.state[rows][1:])
        # The last row's action is a state one period later that was measured without a gap.
        ms = found.ms[rows][-1] + 100
        np.testing.assert_allclose(found.action[rows][-1, 1], ms / 1000, rtol=1e-5)


def test_actions_relative_to_the_measured_position():
    absolute = Result(drive())
    relative = Result(drive(), replace(SPEC, action=replace(SPEC.action, reference='delta')))
    np.testing.assert_allclose(relative.action, absolute.action - absolute.state, atol=1e-6)


def test_a_gripper_with_its_own_topic_is_the_last_channel():
    limits = JointLimits((0.0, 1.0))
    gripper = GripperSpec('claw', 'm', limits, topic='/claw', type=FLOAT64_MULTI_ARRAY)
    spec = replace(SPEC, action=replace(SPEC.action, gripper=gripper, reference='delta'))
    assert spec.action_names == ('x', 'y', 'claw')
    claw = [
        BagMessage('/claw', FLOAT64_MULTI_ARRAY, T + ms * MS, cdr.array(value))
        for ms, value in ((0, 0.1), (1250, 0.9))
    ]
    found = Result(in_order(drive(), claw), spec)
    np.testing.assert_allclose(found.action[:, 2], np.where(found.ms + 100 >= 1250, 0.9, 0.1))
    only_arm = Result(drive(), replace(SPEC, action=replace(SPEC.action, reference='delta')))
    np.testing.assert_array_equal(found.action[:, :2], only_arm.action)
    assert set(found.command_ages_ns) == {'action', 'gripper'}


# Bad input


def test_stamps_that_nobody_filled_in_give_way_to_the_arrival():
    messages = [
        replace(m, payload=m.payload[:4] + bytes(8) + m.payload[12:]) if m.topic == '/top' else m
        for m in drive()
    ]
    found = Result(messages)
    np.testing.assert_array_equal(found.ms % 100, 5)
    (text,) = found.problems.texts()
    assert text.startswith('top: 31 message(s) bear no stamp (their arrival is taken), first at')


def test_stamps_in_the_future_are_refused():
    ahead = [replace(m, log_ns=m.log_ns - 5000 * MS) if m.topic == '/top' else m for m in drive()]
    with pytest.raises(BadBag) as error:
        Result(in_order(ahead))
    text = str(error.value)
    assert 'top: 31 message(s) are stamped in the future' in text
    assert '4.995 s after it was received: synchronise the clocks' in text
    assert 'top: no message that can be used' in text


def test_a_clock_that_is_set_back_begins_a_new_episode(tmp_path):
    """Also through a bag, whose reader sorts by time."""
    frames = [
        replace(frame, payload=cdr.image(T + i * PERIOD, picture(100 + i)))
        for i, frame in enumerate(camera(range(0, 3001, 100)))
    ]
    stamped = [*drive(4.0), *in_order(frames, drive(3.0, without=['top']))]
    cdr.store_bag(tmp_path / 'bag', stamped)
    from_bag = list(Bag.open(tmp_path / 'bag').messages())
    assert from_bag == stamped
    found = Result(from_bag)
    assert set(found.episode) == {0, 1}
    np.testing.assert_array_equal(found.ms[found.episode == 0], np.arange(0, 4001, 100))
    np.testing.assert_array_equal(found.ms[found.episode == 1], np.arange(0, 3001, 100))
    for episode in (0, 1):
        numbers = found.images['top'][found.episode == episode, 0, 0, 0]
        np.testing.assert_array_equal(numbers, 100 * episode + np.arange(len(numbers)))
    assert any('stamps go back from 17000000' in text for text in found.problems.texts())
    with pytest.raises(GapFound, match='stamps go back'):
        list(align(stamped, SPEC, gaps='fail'))


@pytest.mark.parametrize('ahead_s', [60, 10 * 365 * 86400])
def test_a_clock_that_jumps_ahead_costs_no_time(ahead_s, monkeypatch):
    """As NTP does on a computer without a battery for its clock."""
    sampled = []

    def counted(*args):
        sampled.append(args[2])
        assert len(sampled) < 200
        return step_at(*args)

    monkeypatch.setattr(alignment, 'step_at', counted)
    ahead_ms = ahead_s * 1000
    streams = [
        [*range(0, 3001, 20), *range(ahead_ms, ahead_ms + 3001, 20)],
        [*range(0, 3001, 100), *range(ahead_ms, ahead_ms + 3001, 100)],
    ]
    found = Result(in_order(joints(streams[0]), camera(streams[1]), commands(streams[1])))
    expected = [*range(0, 3001, 100), *range(ahead_ms, ahead_ms + 3001, 100)]
    np.testing.assert_array_equal(found.ms, expected)
    np.testing.assert_array_equal(found.episode, [0] * 31 + [1] * 31)
    (note,) = found.problems.texts()
    first, last = (f'{T / 1e9 + ms / 1e3:.3f} s' for ms in (3100, ahead_ms - 100))
    assert note.startswith(f'gap from {first} to {last}: ')


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_joint_that_is_no_number_costs_its_message(value):
    bad = BagMessage(
        '/joint_states', JOINT_STATE, T + 1000 * MS, cdr.joints(T + 1000 * MS, x=value, y=0.0)
    )
    kept = [m for m in drive() if m.payload[4:12] != bad.payload[4:12] or m.topic == '/top']
    found = Result(in_order(kept, [bad]))
    assert set(found.episode) == {0}
    expected = (position(980)['x'] + position(1020)['x']) / 2
    np.testing.assert_allclose(found.state[found.ms == 1000, 0], expected, rtol=1e-6)
    assert found.problems.texts() == [
        '/joint_states: 1 message(s) cannot be used, first at 1700000001.000 s: /joint_states: '
        'bad joint state\n  - not a finite number: x/position'
    ]


def compressed(stamps_ms, height=4, width=6, length=None):
    return [
        BagMessage(
            '/top',
            COMPRESSED_IMAGE,
            T + ms * MS,
            cdr.jpeg(T + ms * MS, np.full((height, width, 3), 9, np.uint8), length),
        )
        for ms in stamps_ms
    ]


COMPRESSED = replace(SPEC, cameras=(replace(SPEC.cameras[0], type=COMPRESSED_IMAGE),))


def test_a_truncated_jpeg_costs_its_frame():
    frames = [*compressed(range(0, 1000, 100)), *compressed([1000], length=200),
              *compressed(range(1100, 3000, 100))]  # fmt: skip
    found = Result(in_order(frames, drive(without=['top'])), COMPRESSED)
    assert set(found.episode) == {0}
    np.testing.assert_array_equal(found.ages_ns['top'], np.where(found.ms == 1000, 100 * MS, 0))
    (text,) = found.problems.texts()
    assert 'top: 1 message(s) cannot be used, first at 1700000001.000 s' in text
    assert 'truncated after 200 bytes' in text


def test_a_size_that_changes_midway_ends_the_episode():
    frames = [*compressed(range(0, 1000, 100)), *compressed(range(1000, 3000, 100), 8, 12)]
    found = Result(in_order(frames, drive(without=['top'])), COMPRESSED)
    assert found.ms.max() == 1100
    size, gap = sorted(found.problems.texts(), reverse=True)
    assert 'the picture changed from 6x4 to 12x8 in the middle' in size
    assert gap.startswith('gap from 1700000001.200 s')


def test_everything_that_keeps_a_bag_from_use_is_said_at_once():
    messages = [
        *joints(range(0, 1000, 20)),
        *(BagMessage('/commands', JOINT_STATE, T, cdr.joints(T, x=1.0)) for _ in range(3)),
    ]
    with pytest.raises(BadBag) as error:
        list(align(messages, SPEC))
    text = str(error.value)
    assert 'not a single frame' in text
    assert 'action: 3 message(s) are of another type, first at' in text
    assert 'got sensor_msgs/msg/JointState, expected std_msgs/msg/Float64MultiArray' in text
    assert 'top: no message that can be used' in text
    assert '/joint_states: messages from 1700000000.000 s to 1700000000.980 s' in text
    with pytest.raises(BadBag):
        list(align([], SPEC))


def test_a_joint_that_is_never_named_is_named():
    wrong = [
        BagMessage('/joint_states', JOINT_STATE, T + ms * MS, cdr.joints(T + ms * MS, x=1, Y=1))
        for ms in range(0, 3000, 20)
    ]
    with pytest.raises(BadBag, match=r'y/position: in no message of the 100 ms before'):
        Result(in_order(wrong, drive(without=['joints'])))


# Whatever the messages are


def stamps(draw, gaps_ms, count):
    gaps = draw(st.lists(st.integers(*gaps_ms), min_size=count // 2, max_size=count))
    return np.cumsum(gaps, dtype=int).tolist()


@st.composite
def recordings(draw):
    return in_order(
        camera(stamps(draw, (40, 300), 25), draw(st.integers(0, 80))),
        joints(stamps(draw, (3, 120), 100), draw(st.integers(0, 20))),
        commands(stamps(draw, (1, 200), 40)),
    )


def aligned(messages, spec=SPEC):
    try:
        return Result(messages, spec)
    except BadBag:
        return None


@settings(derandomize=True, max_examples=25, deadline=None)
@given(messages=recordings(), data=st.data())
def test_the_order_of_arrival_does_not_matter(messages, data):
    moved = [data.draw(st.integers(0, 700)) for _ in messages]
    shuffled = [
        message
        for _, _, message in sorted(
            (message.log_ns + ms * MS, i, message)
            for i, (message, ms) in enumerate(zip(messages, moved, strict=True))
        )
    ]
    one, other = aligned(messages), aligned(shuffled)
    assert (one is None) == (other is None)
    if one is not None:
        one.same(other)


def shifted(message, shift_ns):
    payload = message.payload
    if message.topic != '/commands':
        stamp = int.from_bytes(payload[4:8], 'little', signed=True) * 10**9
        stamp += int.from_bytes(payload[8:12], 'little') + shift_ns
        seconds, nanoseconds = divmod(stamp, 10**9)
        payload = (
            payload[:4]
            + seconds.to_bytes(4, 'little', signed=True)
            + nanoseconds.to_bytes(4, 'little')
            + payload[12:]
        )
    return replace(message, payload=payload, log_ns=message.log_ns + shift_ns)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(messages=recordings(), shift_ns=st.integers(-(10**18), 4 * 10**17))
def test_shifting_all_stamps_shifts_the_stamps_only(messages, shift_ns):
    one = aligned(messages)
    other = aligned([shifted(message, shift_ns) for message in messages])
    assert (one is None) == (other is None)
    if one is not None:
        one.same(other, shift_ns)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(recordings())
def test_nothing_is_invented(messages):
    found = aligned(messages)
    if found is None:
        return
    for episode in set(found.episode):
        np.testing.assert_array_equal(np.diff(found.stamps_ns[found.episode == episode]), PERIOD)
    borders = np.flatnonzero(np.diff(found.episode))
    assert (np.diff(found.stamps_ns)[borders] > PERIOD).all()
    assert ((found.stamps_ns - found.stamps_ns[0]) % PERIOD == 0).all()
    limits = {part.stream: part.max_age_ns for part in SPEC.streams}
    for name, ages_ns in found.ages_ns.items():
        assert (ages_ns >= 0).all()
        assert (ages_ns <= limits[name]).all()
    assert (found.command_ages_ns['action'] >= 0).all()


def long_drive(seconds):
    for ms in range(0, seconds * 1000, 20):
        yield from joints([ms])
        if ms % 100 == 0:
            yield BagMessage('/top', IMAGE, T + ms * MS, cdr.image(T + ms * MS, big_picture(ms)))
        if ms % 5000 == 60:
            yield from commands([ms])


def big_picture(ms):
    return np.full((40, 60, 3), ms % 256, np.uint8)


def test_memory_does_not_grow_with_the_bag():
    peaks = []
    for seconds in (5, 15, 45):  # the first one fills caches
        tracemalloc.start()
        ticks = sum(len(piece.stamps_ns) for piece in align(long_drive(seconds), SPEC))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert ticks == seconds * 10
    assert peaks[2] < 1.2 * peaks[1]
