"""An episode from its first byte on: what stands in it at once, and what a failed start leaves."""

from contextlib import contextmanager
from pathlib import Path
import resource

import pytest
from vqbet_ros.errors import UnknownType
from vqbet_ros.recording.bag import BagOptions, read_custom_data, Topic
from vqbet_ros.recording.episode import About, Episode
from vqbet_ros.recording.expected import Expected
from vqbet_ros.recording.session import Session
from vqbet_ros.resources import resource as shipped
from vqbet_ros.spec import RobotSpec

SPEC = RobotSpec.from_yaml(shipped('config/robots/pusht.yaml'))
ABOUT = About(SPEC, 'push', 'ada', '', {'vqbet_ros': 'test'}, 'system')
STREAMS = [
    (Expected(name, topic, kind), Topic(topic, kind))
    for name, topic, kind in (
        ('joints', '/joint_states', 'sensor_msgs/msg/JointState'),
        ('top', '/camera/image_raw', 'sensor_msgs/msg/Image'),
    )
]
OPEN_FILES = Path('/proc/self/fd')
NOW = 1_700_000_000_000_000_000


def begin(path, streams=STREAMS):
    return Episode(path, ABOUT, streams, BagOptions(), 1_000_000)


def test_an_episode_that_is_never_ended_says_so_from_the_start(tmp_path):
    episode = begin(tmp_path / 'e')
    at_first = read_custom_data(tmp_path / 'e')
    assert at_first['vqbet.outcome'] == 'incomplete'
    assert at_first['vqbet.task'] == 'push'
    episode.close('success')
    assert read_custom_data(tmp_path / 'e')['vqbet.outcome'] == 'success'


@contextmanager
def no_file_larger_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('share', [0, 0.005, 0.1, 0.9, 0.99])
def test_a_start_for_which_there_is_no_room_leaves_nothing(tmp_path, share):
    whole = begin(tmp_path / 'whole')
    room = int(share * whole.written_bytes)
    whole.close('unmarked')
    root = tmp_path / 'recordings'
    session = Session(root, 'arm', begin)
    held_open = len(list(OPEN_FILES.iterdir()))
    with no_file_larger_than(room):
        for second in range(3):
            answer = session.start(NOW + second * 1_000_000_000)
            assert not answer.success
            assert 'could not be begun: [Errno 27] File too large' in answer.text
    assert list(root.iterdir()) == []
    assert len(list(OPEN_FILES.iterdir())) == held_open
    assert session.start(NOW).success
    assert session.stop(NOW).success


def test_a_start_with_an_unknown_type_leaves_nothing(tmp_path):
    unknown = Expected('new', '/new', 'absent_msgs/msg/New')
    streams = [*STREAMS, (unknown, Topic('/new', 'absent_msgs/msg/New'))]
    with pytest.raises(UnknownType):
        begin(tmp_path / 'e', streams)
    assert list(tmp_path.iterdir()) == []
