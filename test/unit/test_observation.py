import dataclasses
from pathlib import Path
import threading

from hypothesis import assume, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.errors import BadMessage
from vqbet_ros.runtime.gate import ReasonKind
from vqbet_ros.runtime.observation import Observation, ObservationBuffer
from vqbet_ros.spec import RobotSpec

MS = 1_000_000
T = 1_000_000 * MS
JOINTS = '/joint_states'
ROBOTS = Path(__file__).parents[2] / 'config' / 'robots'
SPEC = RobotSpec.from_yaml(ROBOTS / 'pusht.yaml')


class Decoders:
    """Decodes payloads that are numbers (joints: both at once; images: the grey) and counts."""

    def __init__(self):
        self.decoded = []
        self.table = {
            'sensor_msgs/msg/Image': self.image,
            'sensor_msgs/msg/JointState': self.vector,
            'std_msgs/msg/Float64MultiArray': self.vector,
        }

    def image(self, payload, camera):
        self.decoded.append((camera.name, payload))
        if payload == 'truncated':
            raise BadMessage('JPEG is truncated')
        size = (1, 1) if payload == 'small' else (camera.height, camera.width)
        return np.full((*size, 3), payload if payload != 'small' else 0, dtype=np.uint8)

    def vector(self, payload, part):
        self.decoded.append((part.topic, payload))
        if isinstance(payload, str):
            raise BadMessage(payload)
        if isinstance(payload, list):
            return np.array(payload)
        return np.full(len(part.names), payload, dtype=np.float64)


@pytest.fixture
def decoders():
    return Decoders()


@pytest.fixture
def buffer(decoders):
    return ObservationBuffer(SPEC, decoders.table, history=5)


def put_camera(buffer, *stamps_ms, shift=0):
    for ms in stamps_ms:
        assert buffer.put('top', T + ms * MS + shift, 0, ms // 100 % 250)


def put_joints(buffer, first_ms, last_ms, step_ms=20, shift=0):
    for ms in range(first_ms, last_ms + 1, step_ms):
        assert buffer.put(JOINTS, T + ms * MS + shift, 0, float(ms))


def observed(buffer, now_ms, history=3):
    result = buffer.observe(T + now_ms * MS, history)
    assert isinstance(result, Observation), result
    return result


def reasons(buffer, now_ms, history=3):
    result = buffer.observe(T + now_ms * MS, history)
    assert isinstance(result, list), result
    return [(reason.stream, reason.kind) for reason in result]


def stamps_ms(observation):
    return [
        None if step is None else (step['top'].stamp_ns - T) // MS for step in observation.frames
    ]


def test_a_full_observation(buffer):
    put_camera(buffer, 0, 100, 200, 300)
    put_joints(buffer, 0, 320)
    observation = observed(buffer, 330)
    assert observation.stamp_ns == T + 300 * MS
    assert stamps_ms(observation) == [100, 200, 300]
    assert observation.valid.tolist() == [True, True, True]
    assert observation.state.dtype == np.float32
    np.testing.assert_array_equal(observation.state, [[100, 100], [200, 200], [300, 300]])
    assert observation.ages_ns == {'top': 30 * MS, JOINTS: 10 * MS}
    image = observation.frames[-1]['top'].image
    assert image.shape == (96, 96, 3)
    assert (image == 3).all()


def test_the_time_is_the_newest_at_which_every_stream_has_data(buffer):
    put_camera(buffer, 0, 100, 200, 300)
    put_joints(buffer, 0, 290, step_ms=29)
    observation = observed(buffer, 330)
    assert observation.stamp_ns == T + 290 * MS
    assert stamps_ms(observation) == [0, 100, 200]


def test_joints_are_interpolated_to_the_exact_time(buffer):
    put_camera(buffer, 0, 107)
    put_joints(buffer, 0, 140)
    observation = observed(buffer, 150, history=2)
    np.testing.assert_array_equal(observation.state[1], [107, 107])
    np.testing.assert_array_equal(observation.state[0], [7, 7])


def test_partial_history_is_invalid_not_invented(buffer):
    put_camera(buffer, 200, 300)
    put_joints(buffer, 160, 320)
    observation = observed(buffer, 330, history=5)
    assert observation.valid.tolist() == [False, False, False, True, True]
    assert stamps_ms(observation) == [None, None, None, 200, 300]
    np.testing.assert_array_equal(observation.state[:3], 0)


def test_a_gap_in_the_past_is_invalid(buffer):
    put_camera(buffer, 0, 100, 200, 600, 700)
    put_joints(buffer, 0, 720)
    observation = observed(buffer, 720, history=5)
    # At 500 ms the newest frame was 300 ms old, limit 250 ms.
    assert stamps_ms(observation) == [200, 200, None, 600, 700]


def test_joints_are_not_interpolated_across_a_gap(buffer):
    put_camera(buffer, 0, 100, 200)
    put_joints(buffer, 0, 80)
    put_joints(buffer, 190, 210)
    observation = observed(buffer, 210)
    assert observation.valid.tolist() == [True, False, True]


def test_a_gap_at_the_time_of_the_observation_is_a_reason(buffer):
    put_camera(buffer, 0)
    put_joints(buffer, 0, 400)
    put_camera(buffer, 410)
    assert reasons(buffer, 420) == [('top', ReasonKind.GAP)]


def test_missing_and_stale_streams_are_all_named(buffer):
    assert reasons(buffer, 0) == [('top', ReasonKind.MISSING), (JOINTS, ReasonKind.MISSING)]
    put_camera(buffer, 0)
    put_joints(buffer, 0, 100)
    assert buffer.check(T + 100 * MS) == []
    assert buffer.check(T + 200 * MS) == []
    assert [str(reason) for reason in buffer.check(T + 300 * MS)] == [
        'top: data is too old (newest is 300 ms old, limit 250 ms)',
        '/joint_states: data is too old (newest is 200 ms old, limit 100 ms)',
    ]
    assert reasons(buffer, 300) == [('top', ReasonKind.STALE), (JOINTS, ReasonKind.STALE)]
    assert buffer.ages_ns(T + 300 * MS) == {'top': 300 * MS, JOINTS: 200 * MS}


def test_only_what_is_needed_is_decoded_and_only_once(buffer, decoders):
    put_camera(buffer, *range(0, 2000, 50))
    put_joints(buffer, 0, 1995, step_ms=5)
    assert decoders.decoded == []
    assert buffer.check(T + 1995 * MS) == []
    assert decoders.decoded == []
    first = observed(buffer, 1995)
    assert len(decoders.decoded) == 3 + 3
    second = observed(buffer, 1995)
    assert len(decoders.decoded) == 6
    assert first.frames[-1]['top'].image is second.frames[-1]['top'].image


def test_a_bad_message_costs_one_observation_and_is_counted(buffer):
    put_camera(buffer, 0, 100, 200)
    put_joints(buffer, 0, 320)
    buffer.put('top', T + 300 * MS, 0, 'truncated')
    result = buffer.observe(T + 320 * MS, 3)
    assert isinstance(result, list)
    assert [str(r) for r in result] == ['top: message cannot be used (JPEG is truncated)']
    assert buffer.counts()['top'].bad == 1
    assert buffer.check(T + 320 * MS) == []  # the frame before it is still fresh
    observation = observed(buffer, 320)
    assert observation.stamp_ns == T + 200 * MS
    put_camera(buffer, 400)
    put_joints(buffer, 340, 420)
    assert stamps_ms(observed(buffer, 420)) == [200, 200, 400]


def test_a_stream_of_bad_messages_keeps_the_robot_stopped(buffer):
    for ms in range(0, 600, 100):
        put_joints(buffer, ms, ms + 80)
        buffer.put('top', T + ms * MS, 0, 'truncated')
        if ms:
            assert [r.kind for r in buffer.check(T + ms * MS)] == [ReasonKind.BAD_MESSAGE]
        assert ('top', ReasonKind.BAD_MESSAGE) in reasons(buffer, ms)
    assert buffer.counts()['top'].bad == 6
    put_joints(buffer, 600, 600)
    assert ('top', ReasonKind.BAD_MESSAGE) in reasons(buffer, 600)
    put_camera(buffer, 600)
    observed(buffer, 600)
    assert buffer.check(T + 600 * MS) == []
    put_camera(buffer, 800)
    put_joints(buffer, 620, 1000)
    assert buffer.check(T + 1000 * MS) == []  # a readable one brought the trust back
    assert [r.kind for r in buffer.check(T + 1070 * MS)] == [ReasonKind.STALE]


@pytest.mark.parametrize(
    ('stream', 'payload', 'text'),
    [
        (JOINTS, [1.0, float('inf')], 'not a finite number: y/position'),
        (JOINTS, [1.0, 2.0, 3.0], 'got 3 numbers, expected 2'),
        (JOINTS, 'names missing', 'names missing'),
        ('top', 'small', 'image: got uint8 (1, 1, 3), expected uint8 (96, 96, 3)'),
    ],
)
def test_what_is_not_as_the_spec_says_is_a_bad_message(buffer, stream, payload, text):
    put_camera(buffer, 0)
    put_joints(buffer, 0, 80)
    for name, good in ((JOINTS, 100.0), ('top', 1)):
        buffer.put(name, T + 100 * MS, 0, payload if name == stream else good)
    result = buffer.observe(T + 100 * MS, 1)
    assert isinstance(result, list)
    assert [(r.stream, r.detail) for r in result] == [(stream, text)]


X: list[float] = [1.0, np.nan]
Y: list[float] = [np.nan, 2.0]


def put_parts(buffer, *stamps_ms):
    """Put x at each time and y 2 ms later, each in a message of its own."""
    for ms in stamps_ms:
        buffer.put(JOINTS, T + ms * MS, 0, [float(ms), np.nan])
        buffer.put(JOINTS, T + (ms + 2) * MS, 0, [np.nan, float(ms + 2)])


def test_joints_that_come_in_messages_of_their_own_are_merged(buffer):
    put_camera(buffer, 0, 100)
    put_parts(buffer, *range(0, 101, 20))
    observation = observed(buffer, 110, history=2)
    assert observation.stamp_ns == T + 100 * MS
    np.testing.assert_array_equal(observation.state[1], [100, 100])
    assert observation.valid.tolist() == [False, True]  # y was not known before 2 ms
    assert buffer.counts()[JOINTS].bad == 0


def test_the_newest_time_is_the_one_up_to_which_every_joint_is_known(buffer):
    put_camera(buffer, 0, 100)
    put_parts(buffer, *range(0, 81, 20))
    buffer.put(JOINTS, T + 100 * MS, 0, [100.0, np.nan])
    observation = observed(buffer, 110, history=1)
    assert observation.stamp_ns == T + 82 * MS
    np.testing.assert_array_equal(observation.state, [[82, 82]])


def test_parts_of_a_state_may_bear_one_stamp(buffer):
    put_camera(buffer, 0, 100)
    for ms in (0, 50, 100):
        assert buffer.put(JOINTS, T + ms * MS, 0, X)
        assert buffer.put(JOINTS, T + ms * MS, 0, Y)
    np.testing.assert_array_equal(observed(buffer, 110, history=1).state, [[1, 2]])


def test_parts_that_follow_each_other_closely_are_not_thinned_out(buffer):
    for ms in range(0, 3001, 20):
        if ms % 100 == 0:
            put_camera(buffer, ms)
        put_parts(buffer, ms)
    observation = observed(buffer, 3002, history=5)
    assert observation.valid.all()
    np.testing.assert_allclose(observation.state[:, 1], [2600, 2700, 2800, 2900, 3000])


def test_a_joint_that_falls_silent_stops_the_robot_although_others_go_on(buffer):
    put_parts(buffer, *range(0, 201, 20))
    for ms in range(0, 401, 20):
        if ms % 100 == 0:
            put_camera(buffer, ms)
        if ms > 200:
            buffer.put(JOINTS, T + ms * MS, 0, [float(ms), np.nan])
        buffer.observe(T + ms * MS, 1)
    expected = ['/joint_states: no data (y/position: in none of the newest messages)']
    assert [str(r) for r in buffer.check(T + 400 * MS)] == expected
    assert [str(r) for r in buffer.observe(T + 400 * MS, 1)] == expected
    put_parts(buffer, 420, 440)
    put_camera(buffer, 440)
    observed(buffer, 450, history=1)
    assert buffer.check(T + 450 * MS) == []


def test_a_joint_of_which_no_message_speaks_is_named(buffer):
    put_camera(buffer, 0, 100)
    for ms in range(0, 101, 20):
        buffer.put(JOINTS, T + ms * MS, 0, X)
    result = buffer.observe(T + 110 * MS, 1)
    assert [str(r) for r in result] == [
        '/joint_states: no data (y/position: in none of the newest messages)'
    ]
    assert buffer.check(T + 110 * MS) == result


def test_held_numbers_stay_until_the_next_one(decoders):
    part = dataclasses.replace(SPEC.state[0], hold=('y',))
    buffer = ObservationBuffer(dataclasses.replace(SPEC, state=(part,)), decoders.table, 1)
    put_camera(buffer, 107)
    put_joints(buffer, 0, 140)
    np.testing.assert_array_equal(observed(buffer, 150, history=1).state, [[107, 100]])


def test_messages_without_a_readable_stamp_are_counted(buffer):
    put_camera(buffer, 0)
    put_joints(buffer, 0, 20)
    observed(buffer, 20, history=1)
    buffer.put_bad('top', '3 bytes are too few')
    assert buffer.counts()['top'].bad == 1
    assert buffer.counts()['top'].received == 2
    assert buffer.check(T + 20 * MS) == []
    reason = next(r for r in buffer.check(T + 300 * MS) if r.stream == 'top')
    assert reason.detail == '3 bytes are too few'


def test_repeated_and_backward_stamps_are_dropped_and_counted(buffer):
    put_camera(buffer, 0, 100)
    assert not buffer.put('top', T + 100 * MS, 0, 9)
    assert not buffer.put('top', T + 50 * MS, 0, 9)
    counts = buffer.counts()['top']
    assert (counts.received, counts.not_newer, counts.clock_resets) == (4, 2, 0)


def test_a_clock_that_is_set_back_clears_everything(buffer):
    put_camera(buffer, 5000, 5100)
    put_joints(buffer, 5000, 5100)
    put_joints(buffer, 0, 100)
    assert reasons(buffer, 100) == [('top', ReasonKind.MISSING)]
    put_camera(buffer, 0, 100)
    assert stamps_ms(observed(buffer, 100)) == [None, 0, 100]
    assert buffer.counts()[JOINTS].clock_resets == 1
    assert buffer.counts()['top'].clock_resets == 0


def test_a_clock_that_is_set_back_overrides_an_earlier_reset(buffer):
    put_camera(buffer, 5000)
    buffer.reset_history(T + 5050 * MS)
    put_camera(buffer, 0, 100)
    put_joints(buffer, 0, 100)
    observed(buffer, 100)


def test_nothing_from_before_a_reset_gets_into_the_history(buffer):
    put_camera(buffer, 0, 100, 200)
    put_joints(buffer, 0, 220)
    buffer.reset_history(T + 250 * MS)
    assert reasons(buffer, 250) == [('top', ReasonKind.MISSING), (JOINTS, ReasonKind.MISSING)]
    assert not buffer.put(JOINTS, T + 240 * MS, 0, 0.0)
    assert buffer.counts()[JOINTS].before_reset == 1
    put_joints(buffer, 260, 420)
    put_camera(buffer, 300, 400)
    observation = observed(buffer, 420, history=4)
    assert stamps_ms(observation) == [None, None, 300, 400]
    assert observation.valid.tolist() == [False, False, True, True]


def test_a_reset_forgets_what_was_readable_before_it(buffer):
    put_camera(buffer, 0)
    put_joints(buffer, 0, 100)
    observed(buffer, 100, history=1)
    buffer.put_bad('top', 'unreadable')
    assert buffer.check(T + 100 * MS) == []
    buffer.reset_history(T + 50 * MS)
    assert [r.detail for r in buffer.check(T + 100 * MS)] == ['unreadable']


def test_stamps_are_corrected_by_the_latency_and_fall_back_to_the_arrival(decoders):
    camera = dataclasses.replace(SPEC.cameras[0], latency_s=0.03)
    buffer = ObservationBuffer(dataclasses.replace(SPEC, cameras=(camera,)), decoders.table, 2)
    put_joints(buffer, 0, 200)
    buffer.put('top', T + 100 * MS, T + 500 * MS, 1)
    assert stamps_ms(observed(buffer, 200, history=1)) == [70]
    for k, missing in enumerate((None, 0)):
        buffer.put('top', missing, T + (150 + k) * MS, 1)
        assert stamps_ms(observed(buffer, 200, history=1)) == [120 + k]
    assert buffer.counts()['top'].unstamped == 2


def test_jitter_neither_skips_nor_repeats_a_frame(decoders):
    strict = ObservationBuffer(SPEC, decoders.table, 3)
    lenient = ObservationBuffer(SPEC, decoders.table, 3, jitter_ns=10 * MS)
    for buffer in (strict, lenient):
        put_joints(buffer, 0, 320)
        put_camera(buffer, 0, 100, 204, 300)
    assert stamps_ms(observed(strict, 320)) == [100, 100, 300]
    assert stamps_ms(observed(lenient, 320)) == [100, 204, 300]
    put_camera(lenient, 305)
    put_joints(strict, 340, 340)
    assert stamps_ms(observed(lenient, 320))[-1] == 305


def test_jitter_never_looks_past_the_observation(decoders):
    buffer = ObservationBuffer(SPEC, decoders.table, 1, jitter_ns=10 * MS)
    put_camera(buffer, 0, 105)
    put_joints(buffer, 0, 100)
    assert stamps_ms(observed(buffer, 110, history=1)) == [0]


def test_without_cameras_or_without_state(decoders):
    keypoints = RobotSpec.from_yaml(ROBOTS / 'pusht_keypoints.yaml')
    buffer = ObservationBuffer(keypoints, decoders.table, 2)
    put_joints(buffer, 0, 200)
    for ms in (0, 100, 200):
        buffer.put('/keypoints', None, T + ms * MS, [float(k + ms) for k in range(16)])
    observation = observed(buffer, 200, history=2)
    assert observation.frames == ({}, {})
    assert observation.state.shape == (2, 18)
    np.testing.assert_array_equal(observation.state[1], [200, 200, *range(200, 216)])

    blind = ObservationBuffer(dataclasses.replace(SPEC, state=()), decoders.table, 2)
    put_camera(blind, 0, 100)
    assert observed(blind, 100, history=2).state.shape == (2, 0)


def test_memory_is_bounded_and_the_history_whole_when_a_publisher_is_too_fast(buffer):
    put_camera(buffer, *range(0, 10_001, 100))
    for tenth_ms in range(100_001):  # 10 kHz, the spec says 50 Hz
        buffer.put(JOINTS, T + tenth_ms * MS // 10, 0, tenth_ms / 10)
    horizon_s = 0.5 + 2 * 0.25  # the history, and twice the oldest that a sample may be
    assert len(buffer._streams[JOINTS].samples) <= 8 * 50 * (horizon_s + 0.1) + 2
    assert len(buffer._streams['top'].samples) == 10 * horizon_s + 1
    observation = observed(buffer, 10_000, history=5)
    assert observation.valid.all()
    np.testing.assert_allclose(observation.state[:, 0], [9600, 9700, 9800, 9900, 10_000])


@pytest.mark.parametrize('history', [0, 6])
def test_history_has_its_bounds(buffer, history):
    with pytest.raises(ValueError, match='history'):
        buffer.observe(T, history)


def test_wrong_settings(decoders):
    with pytest.raises(ValueError, match='history'):
        ObservationBuffer(SPEC, decoders.table, 0)
    with pytest.raises(ValueError, match='jitter_ns'):
        ObservationBuffer(SPEC, decoders.table, 1, jitter_ns=50 * MS)


def stamps(draw, gaps_ms, size):
    gaps = draw(st.lists(st.integers(*gaps_ms), min_size=size // 2, max_size=size))
    return np.cumsum(gaps, dtype=int).tolist()


@st.composite
def interleaved(draw):
    """Stamps in ms of both streams, each in order, mixed in two different ways; and now."""
    camera_ms, joints_ms = stamps(draw, (20, 280), 10), stamps(draw, (3, 110), 30)
    end_ms = min(camera_ms[-1], joints_ms[-1]) + 60
    camera = [('top', ms) for ms in camera_ms if ms <= end_ms]
    joints = [(JOINTS, ms) for ms in joints_ms if ms <= end_ms]
    orders = []
    for _ in range(2):
        streams = draw(st.permutations(['top'] * len(camera) + [JOINTS] * len(joints)))
        left = {'top': iter(camera), JOINTS: iter(joints)}
        orders.append([next(left[stream]) for stream in streams])
    return *orders, end_ms + draw(st.integers(-40, 40))


def filled(samples, shift=0):
    buffer = ObservationBuffer(SPEC, Decoders().table, 4)
    for stream, ms in samples:
        assert buffer.put(stream, T + ms * MS + shift, 0, ms % 250 if stream == 'top' else ms)
    return buffer


def same(one, other, shift=0):
    if isinstance(one, list):
        assert one == other
        return
    assert other.stamp_ns == one.stamp_ns + shift
    assert other.ages_ns == one.ages_ns
    np.testing.assert_array_equal(one.state, other.state)
    np.testing.assert_array_equal(one.valid, other.valid)
    for ours, theirs in zip(one.frames, other.frames, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert theirs['top'].stamp_ns == ours['top'].stamp_ns + shift
            np.testing.assert_array_equal(ours['top'].image, theirs['top'].image)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(interleaved())
def test_the_order_in_which_streams_arrive_does_not_matter(drawn):
    one, other, now_ms = drawn
    same(*(filled(order).observe(T + now_ms * MS, 4) for order in (one, other)))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(drawn=interleaved(), shift=st.integers(-T // 2, 2**61))
def test_shifting_the_clock_shifts_the_stamps_only(drawn, shift):
    order, _, now_ms = drawn
    one = filled(order).observe(T + now_ms * MS, 4)
    same(one, filled(order, shift).observe(T + now_ms * MS + shift, 4), shift)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(drawn=interleaved(), reset_ms=st.integers(-1, 400))
def test_nothing_is_invented(drawn, reset_ms):
    order, _, now_ms = drawn
    buffer = filled(order)
    buffer.reset_history(T + reset_ms * MS)
    result = buffer.observe(T + now_ms * MS, 4)
    assume(isinstance(result, Observation))
    assert isinstance(result, Observation)
    camera_ns = [T + ms * MS for stream, ms in order if stream == 'top']
    assert min(result.ages_ns.values()) >= 0
    assert result.valid[-1]
    for k, (step, valid) in enumerate(zip(result.frames, result.valid, strict=True)):
        time_ns = result.stamp_ns - (3 - k) * SPEC.period_ns
        assert valid == (step is not None)
        if step is None:
            assert not result.state[k].any()
            continue
        stamp_ns = step['top'].stamp_ns
        assert T + reset_ms * MS <= stamp_ns <= time_ns
        assert stamp_ns == max(stamp for stamp in camera_ns if stamp <= time_ns)
        assert time_ns - stamp_ns <= SPEC.cameras[0].max_age_ns
        # The joints' values are their times in ms, so interpolation gives the step's time.
        np.testing.assert_allclose(result.state[k], (time_ns - T) / MS, rtol=1e-6)


def test_one_thread_puts_while_another_observes(buffer):
    made, done = [], threading.Event()

    def receive():
        for ms in range(0, 20_000, 20):
            buffer.put(JOINTS, T + ms * MS, 0, float(ms))
            if ms % 100 == 0:
                buffer.put('top', T + ms * MS, 0, ms // 100 % 250)
        done.set()

    thread = threading.Thread(target=receive)
    thread.start()
    while not done.is_set():
        ages = buffer.ages_ns(T)
        if None in ages.values():
            continue
        newest = buffer._streams[JOINTS].newest_ns
        result = buffer.observe(newest, 3)
        if isinstance(result, Observation):
            made.append(result)
    thread.join()
    made.append(observed(buffer, 19_980))
    for observation in made:
        time_ms = (observation.stamp_ns - T) / MS
        np.testing.assert_allclose(observation.state[-1], time_ms, rtol=1e-6)
        newest_step = observation.frames[-1]
        assert newest_step is not None
        assert newest_step['top'].stamp_ns <= observation.stamp_ns
