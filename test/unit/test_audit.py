"""The audit: a clean stream has no findings, and each misbehaviour has its own."""

from dataclasses import dataclass, replace
import json
import time

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from vqbet_ros.recording.audit import EpisodeAudit, Expected, expected_streams, StreamAudit
from vqbet_ros.recording.verdict import FindingKind, LIMITS, Severity
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec

S = 1_000_000_000
START = 1_700_000_000 * S
CAMERA = Expected('top', '/top', 'sensor_msgs/msg/Image', 30.0, max_age_ns=S // 4, is_camera=True)
JOINTS = Expected(
    '/joints', '/joints', 'sensor_msgs/msg/JointState', 100.0, max_age_ns=S // 10,
    joint_names=('a',),
)  # fmt: skip


@dataclass(frozen=True)
class Message:
    receive_ns: int
    stamp_ns: int | None
    sequence: int | None
    payload: bytes
    publish_ns: int = 0


def payload(number, stamp_ns=0, size=4096):
    """A message: 4 bytes of encoding, 8 of stamp, and content that differs by its number."""
    content = np.random.default_rng(number).bytes(size)
    return b'\0\1\0\0' + (stamp_ns or 0).to_bytes(8, 'little') + content


def clean(rate_hz=30.0, seconds=10.0, delay_ns=5_000_000):
    """What a good driver sends in an episode that begins at START."""
    messages = []
    for number in range(round(rate_hz * seconds)):
        stamp_ns = START + round(number / rate_hz * S)
        messages.append(
            Message(stamp_ns + delay_ns, stamp_ns, number + 1, payload(number, stamp_ns))
        )
    return messages


def audited(messages, expected=CAMERA, lost_here=0, seconds=10.0):
    """Let an episode of one stream be judged."""
    audit = EpisodeAudit([expected], START)
    for m in messages:
        audit.add(expected.topic, m.receive_ns, m.stamp_ns, m.publish_ns, m.sequence, m.payload)
    if lost_here:
        audit.lost_here(expected.topic, lost_here)
    return audit.report(START + round(seconds * S))


def found(report):
    return {(finding.kind, finding.severity) for finding in report.findings}


@pytest.mark.parametrize('expected', [CAMERA, JOINTS])
def test_a_clean_stream_is_good_and_its_numbers_are_right(expected):
    report = audited(clean(expected.rate_hz), expected)
    assert report.verdict == 'good'
    assert report.findings == report.why == ()
    stream = report.streams[expected.topic]
    assert stream.messages == round(10 * expected.rate_hz)
    assert stream.bytes == stream.messages * 4108
    assert stream.rate_hz == pytest.approx(expected.rate_hz)
    assert stream.recent_hz == pytest.approx(expected.rate_hz, rel=1e-3)
    assert stream.largest_gap_s == pytest.approx(1 / expected.rate_hz, abs=0.006)
    assert stream.jitter_ms == pytest.approx(0, abs=1e-3)
    assert stream.delay_p50_ms == pytest.approx(5, rel=1 / 16)
    assert stream.delay_min_ms == stream.delay_max_ms == 5
    counts = ('lost_on_the_way', 'lost_here', 'out_of_order', 'duplicates', 'unstamped')
    assert all(getattr(stream, name) == 0 for name in (*counts, 'repeats', 'clock_jumps'))


def late(messages, first, seconds):
    """Let all messages from one on be later, on both clocks."""
    shift_ns = round(seconds * S)
    return messages[:first] + [
        replace(m, receive_ns=m.receive_ns + shift_ns, stamp_ns=(m.stamp_ns or 0) + shift_ns)
        for m in messages[first:]
    ]


def stamped_later(messages, first, seconds):
    """Let the clock of the stamps jump."""
    shift_ns = round(seconds * S)
    return messages[:first] + [
        replace(m, stamp_ns=(m.stamp_ns or 0) + shift_ns) for m in messages[first:]
    ]


def received_later(messages, first, last, seconds):
    """Hold some messages up on their way; later ones wait behind them, as in a queue."""
    until_ns = messages[last - 1].receive_ns + round(seconds * S)
    return [
        replace(m, receive_ns=max(m.receive_ns, until_ns)) if i >= first else m
        for i, m in enumerate(messages)
    ]


def frozen(messages, first, last):
    """Let the camera show one picture for a while; its stamps go on."""
    still = messages[first].payload
    return [
        replace(m, payload=m.payload[:12] + still[12:]) if first <= i < last else m
        for i, m in enumerate(messages)
    ]


def swapped(messages, *indices):
    """Exchange the stamps of neighbours."""
    messages = list(messages)
    for i in indices:
        one, other = messages[i], messages[i + 1]
        messages[i] = replace(one, stamp_ns=other.stamp_ns)
        messages[i + 1] = replace(other, stamp_ns=one.stamp_ns)
    return messages


def shaken(messages, seconds):
    """Stamp by a clock that shakes."""
    rng = np.random.default_rng(0)
    shifts = rng.uniform(0, seconds, len(messages))
    return [
        replace(m, stamp_ns=(m.stamp_ns or 0) - round(shift * S))
        for m, shift in zip(messages, shifts, strict=True)
    ]


def renumbered(messages):
    return [replace(m, sequence=i + 1) for i, m in enumerate(messages)]


def stamps(messages, which):
    return [replace(m, stamp_ns=messages[which(i)].stamp_ns) for i, m in enumerate(messages)]


K, W, B = FindingKind, Severity.WARNING, Severity.BAD
MISBEHAVIOURS = {
    'nothing': ([], {(K.SILENT, B)}),
    'nine tenths of the rate': (
        renumbered([m for i, m in enumerate(clean()) if i % 10]),
        {(K.SLOW, W)},
    ),
    'half the rate': (renumbered(clean()[::2]), {(K.SLOW, B)}),
    'twice the rate': (clean(60.0), {(K.FAST, W)}),
    'a pause': (renumbered(clean()[:60] + clean()[70:]), {(K.GAP, W)}),
    'a long pause': (renumbered(clean()[:60] + clean()[100:]), {(K.GAP, B), (K.SLOW, W)}),
    'begins late': (clean()[12:], {(K.GAP, W)}),
    'ends early': (clean()[:-12], {(K.GAP, W)}),
    'shaky stamps': (shaken(clean(), 0.08), {(K.JITTER, W), (K.OUT_OF_ORDER, B)}),
    'one lost': (clean()[:60] + clean()[61:], {(K.LOST_ON_THE_WAY, W)}),
    'eight lost': (
        [m for i, m in enumerate(clean()) if i % 36 != 9],
        {(K.LOST_ON_THE_WAY, B)},
    ),
    'one out of order': (swapped(clean(delay_ns=40_000_000), 30), {(K.OUT_OF_ORDER, W)}),
    'many out of order': (
        swapped(clean(delay_ns=40_000_000), *range(20, 260, 20)),
        {(K.OUT_OF_ORDER, B)},
    ),
    'one stamp twice': (
        stamps(clean(), lambda i: i - (i == 50)),
        {(K.DUPLICATE, W)},
    ),
    'all stamps twice': (
        stamps(clean(), lambda i: i - i % 2),
        {(K.DUPLICATE, B)},
    ),
    'no stamps': ([replace(m, stamp_ns=None) for m in clean()], {(K.UNSTAMPED, W)}),
    'half a max_age late': (clean(delay_ns=140_000_000), {(K.DELAY, W)}),
    'more than max_age late': (clean(delay_ns=300_000_000), {(K.DELAY, B), (K.DELAY_PEAK, W)}),
    'held up once': (received_later(clean(), 60, 61, 0.4), {(K.DELAY_PEAK, W)}),
    'ahead': (clean(delay_ns=-20_000_000), {(K.FUTURE, W)}),
    'far ahead': (clean(delay_ns=-120_000_000), {(K.FUTURE, B)}),
    'still': (frozen(clean(), 100, 140), {(K.FROZEN, W)}),
    'hung': (frozen(clean(), 100, 300), {(K.FROZEN, B)}),
    'stamps jump back': (
        stamped_later(clean(), 150, -3.0),
        {(K.CLOCK_JUMP, B), (K.DELAY_PEAK, W)},
    ),
    'stamps jump ahead': (
        stamped_later(clean(), 150, 3.0),
        {(K.CLOCK_JUMP, B), (K.FUTURE, B), (K.GAP, B)},
    ),
}


@pytest.mark.parametrize(('messages', 'kinds'), MISBEHAVIOURS.values(), ids=MISBEHAVIOURS)
def test_each_misbehaviour_has_its_finding_and_no_other(messages, kinds):
    report = audited(messages)
    assert found(report) == kinds, report.table()
    assert report.verdict == ('bad' if any(s is B for _, s in kinds) else 'usable')
    assert len(report.why) == len(kinds)
    assert all(text.startswith('top: ') for text in report.why)


def test_every_kind_of_finding_is_provoked_and_has_its_limits():
    provoked = {kind for _, kinds in MISBEHAVIOURS.values() for kind, _ in kinds}
    assert provoked | {K.LOST_HERE, K.SHORT} == set(FindingKind)
    assert set(LIMITS) | {K.SILENT, K.SHORT} == set(FindingKind)


def test_what_the_full_queue_refused_is_not_lost_on_the_way_too():
    report = audited(clean()[:60] + clean()[63:], lost_here=3)
    assert found(report) == {(K.LOST_HERE, W)}
    stream = report.streams['/top']
    assert (stream.lost_here, stream.lost_on_the_way) == (3, 0)


def test_a_stream_of_which_everything_was_refused_says_why():
    report = audited([], lost_here=300)
    assert found(report) == {(K.SILENT, B)}
    assert 'disk is too slow' in report.why[0]


def test_the_clock_here_set_back_is_a_jump():
    messages = clean()
    back = [replace(m, receive_ns=m.receive_ns - 2 * S) for m in messages[150:]]
    report = audited(messages[:150] + back, seconds=8.0)
    assert (K.CLOCK_JUMP, B) in found(report)


def test_a_robot_at_rest_is_not_frozen_and_a_topic_besides_need_not_come():
    still = [replace(m, payload=payload(0)) for m in clean(100.0)]
    report = audited(still, JOINTS)
    assert report.verdict == 'good'
    assert report.streams['/joints'].repeats == 999
    extra = Expected('/tf', '/tf', needed=False)
    report = audited([], extra)
    assert found(report) == {(K.SILENT, Severity.NOTE)}
    assert report.verdict == 'good'


def test_a_slip_of_the_finger_is_said_to_be_short():
    report = audited(clean(seconds=0.5), seconds=0.5)
    assert found(report) == {(K.SHORT, W)}


def test_a_publisher_that_began_anew_lost_nothing():
    messages = clean()
    again = [replace(m, sequence=i + 1) for i, m in enumerate(messages[150:])]
    assert audited(messages[:150] + again).verdict == 'good'


@given(st.sets(st.integers(0, 59)), st.data())
def test_losses_are_counted_as_an_independent_count_does(dropped, data):
    numbers = [n for n in range(1, 61) if n - 1 not in dropped]
    audit = StreamAudit(CAMERA, START)
    for n in numbers:
        audit.add(START + n, None, 0, n, b'')
    inner = {d + 1 for d in dropped if numbers and numbers[0] < d + 1 < numbers[-1]}
    assert audit.report(START + 100).lost_on_the_way == len(inner)


@given(st.lists(st.integers(0, 30), min_size=1))
def test_disorder_is_counted_as_an_independent_count_does(order):
    audit = StreamAudit(CAMERA, START)
    for i, position in enumerate(order):
        audit.add(START + i, START + position, 0, None, b'')
    report = audit.report(START + 1000)
    before = [order[:i] for i in range(len(order))]
    assert report.duplicates == sum(
        bool(b) and o == max(b) for o, b in zip(order, before, strict=True)
    )
    assert report.out_of_order == sum(
        bool(b) and o < max(b) for o, b in zip(order, before, strict=True)
    )


@given(st.integers(0, 2000), st.integers(0, 2000), st.booleans())
def test_content_is_the_same_only_if_every_byte_is(size, position, stamped):
    """One byte that differs is seen, but not in the stamp nor at the ends of a large message."""
    one = bytearray(b'\0\1\0\0' + bytes(8) + np.random.default_rng(size).bytes(size))
    other = bytearray(one)
    other[position % len(other)] ^= 255
    audit = StreamAudit(CAMERA, START)
    stamp_ns = START if stamped else None
    for i, content in enumerate((one, one, other)):
        audit.add(START + i, stamp_ns, 0, None, bytes(content))
    place, size = position % len(other), len(other)
    first, last = (256, size - 72) if size >= 1024 else (12 if stamped else 4, size)
    if first <= place < last - 8:  # the last word may be cut
        assert audit.report(START + 10).repeats == 1
    elif place < first or place >= last:
        assert audit.report(START + 10).repeats == 2


def test_the_largest_gap_says_when_it_was():
    report = audited(renumbered(clean()[:90] + clean()[120:])).streams['/top']
    assert report.largest_gap_s == pytest.approx(31 / 30, abs=0.001)
    assert report.gap_at_s == pytest.approx(89 / 30, abs=0.01)


def test_the_table_is_aligned_and_the_mapping_is_strict_json():
    audit = EpisodeAudit([CAMERA, replace(JOINTS, stream='a-much-longer-name')], START)
    for m in clean():
        audit.add('/top', m.receive_ns, m.stamp_ns, m.publish_ns, m.sequence, m.payload)
    audit.add('/unknown', START + 1, None, START, None, b'12345')
    report = audit.report(START + 10 * S)
    lines = report.table().splitlines()
    ends = lines[0].index('messages') + len('messages')
    assert [line[:ends].split()[-1] for line in lines[1:4]] == ['300', '0', '1']
    assert lines[4].startswith('verdict: bad (10.0 s)')
    assert '  - bad: a-much-longer-name: nothing came on /joints' in lines
    text = json.dumps(report.to_mapping(), allow_nan=False)
    assert json.loads(text) == report.to_mapping()
    assert report.to_mapping()['streams']['/joints']['jitter_ms'] is None
    assert report.streams['/unknown'].transport_max_ms == pytest.approx(1e-6)


def test_live_reports_do_not_disturb_and_may_be_taken_at_any_time():
    audit = EpisodeAudit([CAMERA], START)
    assert audit.report(START).verdict == 'bad'
    quiet = EpisodeAudit([CAMERA], START)
    for m in clean():
        arguments = (m.receive_ns, m.stamp_ns, m.publish_ns, m.sequence, m.payload)
        audit.add('/top', *arguments)
        quiet.add('/top', *arguments)
        audit.report(m.receive_ns)
    assert audit.report(START + 10 * S).to_mapping() == quiet.report(START + 10 * S).to_mapping()


def test_an_hour_takes_no_more_memory_than_a_minute():
    def size(seconds):
        audit = StreamAudit(JOINTS, START)
        for i in range(round(seconds * 100)):
            receive_ns = START + i * 10_000_000 + (i * 7919) % 5_000_000
            audit.add(receive_ns, receive_ns - 3_000_000, receive_ns, i + 1, b'x' * 300)
        return len(audit._recent._times_ns) + len(audit._delays._bins)

    assert size(200) <= size(30) + 8


def test_a_message_takes_microseconds():
    """The bound is a hundred times what it takes: it finds what is of another order only."""
    audit = StreamAudit(JOINTS, START)
    content = payload(0, size=400)
    began_s = time.process_time()
    for i in range(2000):
        receive_ns = START + i * 2_000_000
        audit.add(receive_ns, receive_ns - 1_000_000, receive_ns, i + 1, content)
    assert (time.process_time() - began_s) / 2000 < 500e-6


def test_what_is_expected_comes_from_the_spec():
    spec = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
    streams = expected_streams(spec, ['/tf', '/joint_states'])
    assert [s.stream for s in streams] == ['top', '/joint_states', 'action', '/tf']
    assert [s.topic for s in streams] == [
        '/camera/image_raw', '/joint_states', '/forward_position_controller/commands', '/tf',
    ]  # fmt: skip
    assert [s.needed for s in streams] == [True, True, True, False]
    assert [s.is_camera for s in streams] == [True, False, False, False]
    assert [s.rate_hz for s in streams] == [10, 50, None, None]
    assert streams[1].joint_names == ('x', 'y')
