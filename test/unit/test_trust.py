"""What is not trusted though it is fresh: streams apart in time, frozen pictures, wild numbers."""

import dataclasses

import cdr_messages as cdr
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.checks import require
from vqbet_ros.data.cdr import same_content
from vqbet_ros.data.messages import DECODERS
from vqbet_ros.gate_spec import GateSettings
from vqbet_ros.resources import resource
from vqbet_ros.runtime.gate import ReasonKind
from vqbet_ros.runtime.observation import Observation, ObservationBuffer
from vqbet_ros.runtime.reactions import Reaction, REACTIONS
from vqbet_ros.runtime.stream import Sample
from vqbet_ros.runtime.trust import check_skew, count_repeats, RangeCheck
from vqbet_ros.spec import RobotSpec

MS = 1_000_000
T = 1_000_000 * MS
JOINTS = '/joint_states'
SPEC = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
RANGES = {name: limits.position for name, limits in SPEC.action.limits.items()}


def picture(stamp_ns, seed):
    rng = np.random.default_rng(seed)
    return cdr.image(stamp_ns, rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))


def buffer_with(**gate):
    return ObservationBuffer(SPEC, DECODERS, 2, gate=GateSettings(**gate), same=same_content)


def put_joints(buffer, *stamps_ms, x=100.0, y=100.0):
    for ms in stamps_ms:
        stamp_ns = T + ms * MS
        assert buffer.put(JOINTS, stamp_ns, stamp_ns, cdr.joints(stamp_ns, x=x, y=y))


def put_pictures(buffer, *stamps_ms, seed=None):
    for ms in stamps_ms:
        stamp_ns = T + ms * MS
        payload = picture(stamp_ns, ms if seed is None else seed)
        assert buffer.put('top', stamp_ns, stamp_ns, payload)


def kinds(buffer, now_ms):
    """Return what `check` says, once it is sure that `observe` says the same."""
    reasons = buffer.check(T + now_ms * MS)
    result = buffer.observe(T + now_ms * MS, 1)
    assert (result == reasons) if reasons else isinstance(result, Observation)
    return [(reason.stream, reason.kind) for reason in reasons]


def test_everything_is_off_unless_it_is_set():
    buffer = ObservationBuffer(SPEC, DECODERS, 2)
    put_pictures(buffer, *range(0, 1000, 20), seed=1)
    put_joints(buffer, *range(0, 1100, 20), x=1e6)
    assert kinds(buffer, 1100) == []


@pytest.mark.parametrize('kind', [ReasonKind.SKEW, ReasonKind.FROZEN, ReasonKind.OUT_OF_RANGE])
def test_the_robot_is_held(kind):
    assert REACTIONS[kind] is Reaction.HOLD


# Skew


def test_a_stream_that_lags_behind_another_is_named():
    buffer = buffer_with(max_skew_s=0.15)
    put_pictures(buffer, 0, 100)
    put_joints(buffer, *range(0, 251, 10))
    assert kinds(buffer, 251) == []
    put_joints(buffer, 251)
    assert kinds(buffer, 251) == [('top', ReasonKind.SKEW)]
    assert [str(reason) for reason in buffer.check(T + 251 * MS)] == [
        'top: data lags behind that of another stream '
        '(newest is 151 ms before that of /joint_states, limit 150 ms)'
    ]
    put_pictures(buffer, 200)
    assert kinds(buffer, 251) == []


def test_latencies_are_no_skew():
    camera = dataclasses.replace(SPEC.cameras[0], latency_s=0.1)
    spec = dataclasses.replace(SPEC, cameras=(camera,))
    buffer = ObservationBuffer(spec, DECODERS, 1, gate=GateSettings(max_skew_s=0.01))
    put_joints(buffer, 0, 20, 40)
    put_pictures(buffer, 140)
    assert kinds(buffer, 140) == []


@settings(derandomize=True, max_examples=100)
@given(
    stamps=st.dictionaries(st.text(min_size=1), st.integers(-(2**62), 2**62), max_size=5),
    limit=st.integers(0, 2**62),
    shift=st.integers(-(2**40), 2**40),
)
def test_skew_is_the_largest_difference_of_any_two(stamps, limit, shift):
    found = check_skew(stamps, limit)
    apart = [abs(a - b) for a in stamps.values() for b in stamps.values()]
    assert bool(found) == any(difference > limit for difference in apart)
    if found:
        assert stamps[found[0].stream] == min(stamps.values())
    moved = check_skew({name: stamp + shift for name, stamp in stamps.items()}, limit)
    assert [reason.stream for reason in moved] == [reason.stream for reason in found]


def test_a_limit_below_what_the_rates_lead_to_is_refused():
    require(*GateSettings(max_skew_s=0.1).checks(SPEC.streams))
    with pytest.raises(ValueError, match=r'newest of top is up to 0\.1 s behind'):
        require(*GateSettings(max_skew_s=0.09).checks(SPEC.streams))


@settings(derandomize=True, max_examples=60)
@given(
    rates=st.tuples(st.floats(1, 500), st.floats(1, 500)),
    late=st.tuples(st.floats(0, 0.2), st.floats(0, 0.2)),
    phase=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_limit_that_is_taken_never_stops_a_healthy_robot(rates, late, phase):
    """Whenever one looks, the newest sample is at most a period and a latency old."""
    streams = [
        dataclasses.replace(SPEC.streams[i], rate_hz=rates[i], latency_s=late[i], max_age_s=9.0)
        for i in range(2)
    ]
    limit_s = max(
        one.latency_s + 1 / one.rate_hz - other.latency_s
        for one, other in (streams, streams[::-1])
    )
    limit_s = max(limit_s, 1e-6) * (1 + 1e-6)
    require(*GateSettings(max_skew_s=limit_s).checks(streams))
    ages_s = [
        one.latency_s + share / one.rate_hz for one, share in zip(streams, phase, strict=True)
    ]
    newest = {one.stream: round(-age * 1e9) for one, age in zip(streams, ages_s, strict=True)}
    assert check_skew(newest, round(limit_s * 1e9) + 1) == []


# Frozen


def test_a_frozen_camera_is_found_although_its_stamps_go_on():
    buffer = buffer_with(frozen_after=3)
    put_joints(buffer, *range(0, 301, 20))
    put_pictures(buffer, 0, 100)
    put_pictures(buffer, 200, 300, seed=7)
    assert kinds(buffer, 310) == []
    put_joints(buffer, *range(320, 701, 20))
    put_pictures(buffer, 400, seed=7)
    assert ('top', ReasonKind.FROZEN) in kinds(buffer, 700)
    put_pictures(buffer, 500, 600, seed=7)
    assert 'last 5 pictures are the same' in buffer.check(T + 700 * MS)[0].detail
    put_pictures(buffer, 700)
    assert kinds(buffer, 710) == []


def test_a_camera_that_froze_long_ago_stays_frozen():
    """Old samples are let go; what was counted is not."""
    buffer = buffer_with(frozen_after=100)
    for ms in range(0, 20_000, 100):
        put_joints(buffer, *range(ms, ms + 100, 20))
        put_pictures(buffer, ms, seed=7)
        expected = [('top', ReasonKind.FROZEN)] if ms >= 9_900 else []
        assert kinds(buffer, ms) == expected


def test_each_picture_is_compared_once():
    compared = []

    def same(one, other):
        compared.append((one, other))
        return one == other

    samples = [Sample(i, content) for i, content in enumerate('aabbbcb')]
    assert count_repeats(samples[:5], same) == 2
    assert compared == list(zip('aabb', 'abbb', strict=True))
    assert count_repeats(samples, same) == 0
    assert count_repeats(samples[3:], same) == 0
    assert compared[4:] == [('b', 'c'), ('c', 'b')]
    assert count_repeats([], same) == 0


@settings(derandomize=True, max_examples=100)
@given(
    contents=st.lists(st.integers(0, 1), min_size=1, max_size=20),
    looks=st.sets(st.integers(1, 20)),
)
def test_repeats_do_not_depend_on_when_one_looks(contents, looks):
    samples = [Sample(i, content) for i, content in enumerate(contents)]
    for end in sorted(looks):
        count_repeats(samples[:end], lambda a, b: a == b)
    run = next((i for i, c in enumerate(contents[::-1]) if c != contents[-1]), len(contents))
    assert count_repeats(samples, lambda a, b: a == b) == run - 1


def test_the_stamp_is_no_content_and_everything_else_is():
    one = picture(T, 1)
    assert same_content(one, picture(T + 123_456_789, 1))
    assert not same_content(one, picture(T, 2))
    for at in (12, len(one) // 2, len(one) - 1):
        assert not same_content(one, one[:at] + bytes([one[at] ^ 1]) + one[at + 1 :])
    assert not same_content(one, one + b'\0')


def test_pictures_cannot_be_compared_by_nothing():
    with pytest.raises(ValueError, match='frozen_after needs pictures to be compared'):
        ObservationBuffer(SPEC, DECODERS, 2, gate=GateSettings(frozen_after=3))


# Ranges


def test_numbers_outside_their_range_are_named_with_it():
    buffer = buffer_with(range_margin=0.05)
    low, high = RANGES['x']
    put_pictures(buffer, 0)
    put_joints(buffer, 0, x=high + 0.049 * (high - low))
    assert kinds(buffer, 10) == []
    put_joints(buffer, 20, x=high + 0.051 * (high - low))
    assert kinds(buffer, 20) == [(JOINTS, ReasonKind.OUT_OF_RANGE)]
    assert f'x: 538.112, not {low:g} to {high:g}' in str(buffer.check(T + 20 * MS)[0])
    put_joints(buffer, 40, x=low, y=high)
    assert kinds(buffer, 40) == []


@settings(derandomize=True, max_examples=100)
@given(
    state=st.lists(st.floats(width=32), min_size=2, max_size=2),
    margin=st.floats(0, 10),
)
def test_a_number_within_its_range_is_never_refused_and_one_far_outside_always(state, margin):
    found = RangeCheck(SPEC, margin).check(np.array(state))
    beyond = [
        max(RANGES[name][0] - value, value - RANGES[name][1]) / (RANGES[name][1] - RANGES[name][0])
        for name, value in zip('xy', state, strict=True)
    ]
    beyond = [0.0 if np.isnan(share) else share for share in beyond]
    if max(beyond) <= 0 or max(beyond) < margin * (1 - 1e-9):
        assert found == []
    elif max(beyond) > margin * (1 + 1e-9):
        assert [reason.kind for reason in found] == [ReasonKind.OUT_OF_RANGE]


ARM = """
robot: arm
rate_hz: 10.0
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [a, claw], unit: UNIT,
     rate_hz: 100.0, max_age_s: 0.1}
action:
  names: [a]
  unit: rad
  reference: REFERENCE
  command_topic: /commands
  command_interface: forward_position
  record_topic: null
  gripper: {name: claw, unit: rad, limits: {position: [0.0, 1.0]}}
  limits: {a: {position: [-2.0, 2.0]}}
"""


@pytest.mark.parametrize(
    ('unit', 'reference', 'judged'),
    [('rad', 'absolute', ['a', 'claw']), ('rad', 'delta', ['claw']), ('deg', 'absolute', [])],
)
def test_only_what_can_be_compared_is_judged(unit, reference, judged):
    spec = RobotSpec.from_text(ARM.replace('UNIT', unit).replace('REFERENCE', reference), 'arm')
    found = RangeCheck(spec, 0.1).check(np.array([90.0, 90.0]))
    texts = '; '.join(reason.detail for reason in found)
    assert [name for name in ('a', 'claw') if f'{name}: 90' in texts] == judged


POSE = """
robot: arm
rate_hz: 10.0
state:
  - {topic: /pose, type: geometry_msgs/msg/PoseStamped, names: [tool0], unit: m,
     rate_hz: 100.0, max_age_s: 0.1, frame_id: FRAME}
action:
  kind: pose
  names: [tool0]
  unit: m
  frame_id: base
  command_topic: /commands
  record_topic: null
  limits:
    tool0/x: {position: [-1.0, 1.0]}
    tool0/y: {position: [-1.0, 1.0]}
    tool0/z: {position: [0.0, 1.0]}
"""


@pytest.mark.parametrize(('frame', 'judged'), [('base', True), ('camera', False), ("''", False)])
def test_positions_are_judged_in_their_frame(frame, judged):
    spec = RobotSpec.from_text(POSE.replace('FRAME', frame), 'arm')
    found = RangeCheck(spec, 0.0).check(np.array([0, 0, -0.1, 1, 0, 0, 0, 1, 0]))
    assert [reason.detail for reason in found] == ['tool0/z: -0.1, not 0 to 1'] * judged


# Settings


@pytest.mark.parametrize(
    'wrong',
    [{'max_skew_s': 0.0}, {'frozen_after': 1}, {'range_margin': -0.1}, {'range_margin': np.inf}],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GateSettings(**wrong)
