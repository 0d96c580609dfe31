"""metadata.yaml and QoS texts, against rosbag2's own layout and the functions of rosbags."""

from hypothesis import given
from hypothesis import strategies as st
import pytest
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2.metadata import parse_qos as rosbags_parse_qos
from vqbet_ros.errors import BadBag
from vqbet_ros.recording.metadata import (
    bag_information,
    Counted,
    Durability,
    History,
    Liveliness,
    parse_information,
    parse_qos,
    qos_text,
    QosProfile,
    Reliability,
    to_yaml,
    Topic,
)
import yaml

SENSOR = QosProfile(History.KEEP_LAST, 5, Reliability.BEST_EFFORT, Durability.VOLATILE)
# As rosbag2 writes them: yaml-cpp's block style.
SENSOR_TEXT = {
    8: """- history: 1
  depth: 5
  reliability: 2
  durability: 2
  deadline:
    sec: 9223372036
    nsec: 854775807
  lifespan:
    sec: 9223372036
    nsec: 854775807
  liveliness: 1
  liveliness_lease_duration:
    sec: 9223372036
    nsec: 854775807
  avoid_ros_namespace_conventions: false""",
    9: """- history: keep_last
  depth: 5
  reliability: best_effort
  durability: volatile
  deadline:
    sec: 9223372036
    nsec: 854775807
  lifespan:
    sec: 9223372036
    nsec: 854775807
  liveliness: automatic
  liveliness_lease_duration:
    sec: 9223372036
    nsec: 854775807
  avoid_ros_namespace_conventions: false""",
}
KEYS = (
    'version storage_identifier duration starting_time message_count topics_with_message_count '
    'compression_format compression_mode relative_file_paths files custom_data ros_distro'
)

# Not BEST_AVAILABLE: rosbags does not know it, and no publisher offers it.
profiles = st.builds(
    QosProfile,
    history=st.sampled_from(History),
    depth=st.integers(0, 2**31 - 1),
    reliability=st.sampled_from(list(Reliability)[:4]),
    durability=st.sampled_from(list(Durability)[:4]),
    deadline_ns=st.integers(0, 2**63 - 1),
    lifespan_ns=st.integers(0, 2**63 - 1),
    liveliness=st.sampled_from(list(Liveliness)[:5]),
    liveliness_lease_ns=st.integers(0, 2**63 - 1),
    avoid_ros_namespace_conventions=st.booleans(),
)
versions = st.sampled_from([8, 9])


def information(version=9, custom_data=None, qos=(SENSOR,)):
    return bag_information(
        file_name='e_0.mcap',
        topics=[
            Counted(Topic('/a', 'std_msgs/msg/String', 'RIHS01_00', tuple(qos)), 2),
            Counted(Topic('/b', 'std_msgs/msg/String'), 0),
        ],
        start_ns=10,
        end_ns=25,
        custom_data=custom_data or {},
        version=version,
        ros_distro='kilted',
    )


def as_rosbags(qos):
    def time(duration_ns):
        return QosTime(*divmod(duration_ns, 10**9))

    return Qos(
        QosHistory(qos.history.value),
        qos.depth,
        QosReliability(qos.reliability.value),
        QosDurability(qos.durability.value),
        time(qos.deadline_ns),
        time(qos.lifespan_ns),
        QosLiveliness(qos.liveliness.value),
        time(qos.liveliness_lease_ns),
        qos.avoid_ros_namespace_conventions,
    )


@pytest.mark.parametrize('version', [8, 9])
def test_qos_is_written_as_rosbag2_does(version):
    assert qos_text([SENSOR], version) == SENSOR_TEXT[version]
    assert qos_text([], version) == ''


@given(st.lists(profiles, max_size=3), versions)
def test_qos_is_read_as_it_was_written(written, version):
    text = qos_text(written, version)
    assert parse_qos(text) == tuple(written)
    assert rosbags_parse_qos(text) == [as_rosbags(qos) for qos in written]


@pytest.mark.parametrize('text', ['{', '- history: 1', '- 3', 'word', '- {history: 77}'])
def test_what_is_not_qos(text):
    with pytest.raises(ValueError, match=r'QoS|77'):
        parse_qos(text)


@pytest.mark.parametrize('version', [8, 9])
def test_the_keys_stand_in_the_order_of_rosbag2(version):
    read = yaml.safe_load(to_yaml(information(version)))
    assert ' '.join(read) == KEYS
    topic = read['topics_with_message_count'][0]
    assert list(topic) == ['topic_metadata', 'message_count']
    assert ' '.join(topic['topic_metadata']) == (
        'name type serialization_format offered_qos_profiles type_description_hash'
    )
    offered = topic['topic_metadata']['offered_qos_profiles']
    assert offered == (SENSOR_TEXT[8] if version == 8 else yaml.safe_load(SENSOR_TEXT[9]))
    assert read['files'][0] == {
        'path': 'e_0.mcap',
        'starting_time': {'nanoseconds_since_epoch': 10},
        'duration': {'nanoseconds': 15},
        'message_count': 2,
    }
    assert '&' not in to_yaml(information(version))  # no aliases


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_custom_texts_come_back_whatever_they_are(custom_data):
    text = to_yaml({'rosbag2_bagfile_information': information(custom_data=custom_data)})
    assert parse_information(text, 'here')['custom_data'] == custom_data


@pytest.mark.parametrize('text', ['a: [', '3', 'other: {}', 'rosbag2_bagfile_information: 1'])
def test_broken_metadata_is_named(text):
    with pytest.raises(BadBag, match='here'):
        parse_information(text, 'here')
