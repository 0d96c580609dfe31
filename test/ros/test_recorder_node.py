"""recorder_node over real topics: what it records, when it refuses, what it makes of episodes."""

import json
import threading

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Joy
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from vqbet_ros.errors import ConfigError
from vqbet_ros.recording.bag import read_custom_data
from vqbet_ros.recording.folder import read_information
from vqbet_ros.ros import recorder_disk
from vqbet_ros.ros.recorder_node import RecorderNode
from vqbet_ros.spec import RobotSpec

pytestmark = pytest.mark.ros

BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TOPICS = ('/camera', '/joint_states', '/commands')


def trajectory(i):
    points = [JointTrajectoryPoint(positions=[1.0] * n) for n in range(i % 5)]
    return JointTrajectory(joint_names=['j' * (i % 9), 'ü'], points=points)


def diagnostics(i):
    values = [KeyValue(key=str(k), value='v' * k) for k in range(i % 4)]
    status = DiagnosticStatus(name='a', message='b' * (i % 11), values=values)
    return DiagnosticArray(status=[status] * (i % 3))


def is_end_of(part, whole, at_least):
    return len(part) >= at_least and whole[len(whole) - len(part) :] == part


def test_every_byte_arrives_in_order_of_every_topic(record, robot, read_bag):
    robot.publish_all()
    robot.publish('/jpeg', robot.jpeg, 20.0, BEST_EFFORT)
    robot.publish('/plan', trajectory, 30.0)
    robot.publish('/more', diagnostics, 30.0)
    recorder = record(extra_topics=['/jpeg', '/plan', '/more'], task='stack', operator='Ada')
    recorder.wait('idle: ready')
    for one in recorder.node.streams.inputs:
        assert one.is_subscribed, one.expected.topic
    assert recorder.call('start').success
    before = {topic: len(sent) for topic, sent in robot.sent.items()}
    recorder.status.clear()
    recorder.status.wait(lambda s: s.message.startswith('recording'), count=4)
    recorder.catch_up(robot)
    bag = recorder.stop()
    found = read_bag(bag)
    assert set(found) == set(robot.sent)
    for topic, sent in robot.sent.items():
        # All that was sent since the answer, and no hole; the JPEGs' publisher may lose some.
        at_least = len(sent) - before[topic]
        if topic == '/jpeg':
            assert set(found[topic]) <= set(sent)
        else:
            assert is_end_of(found[topic], sent, at_least), topic
    custom = read_custom_data(bag)
    assert custom['vqbet.task'] == 'stack'
    assert custom['vqbet.operator'] == 'Ada'
    assert custom['vqbet.outcome'] == 'unmarked'
    assert custom['vqbet.clock'] == 'system'
    assert json.loads(custom['vqbet.versions'])['rmw']
    assert RobotSpec.from_text(custom['vqbet.spec'], 'the bag') == recorder.node.spec
    audit = json.loads(custom['vqbet.audit'])
    assert audit['streams']['/camera']['messages'] == len(found['/camera'])
    # rosbag2's own layout, as another library reads it.
    with Reader(bag) as reader:
        kinds = {connection.topic: connection for connection in reader.connections}
        assert kinds['/joint_states'].msgtype == 'sensor_msgs/msg/JointState'
        offered = getattr(kinds['/jpeg'].ext, 'offered_qos_profiles', [])
        assert [profile.reliability.name for profile in offered] == ['BEST_EFFORT']
        assert {connection.topic: connection.msgcount for connection in reader.connections} == {
            topic: len(messages) for topic, messages in found.items()
        }


def test_times_are_those_of_the_middleware(record, robot):
    from mcap.reader import make_reader

    robot.publish_all()
    recorder = record()
    recorder.start()
    recorder.wait('recording')
    recorder.catch_up(robot)
    bag = recorder.stop()
    with (bag / f'{bag.name}_0.mcap').open('rb') as stream:
        for _, channel, message in make_reader(stream).iter_messages():
            way_ns = message.log_time - message.publish_time
            assert 0 < way_ns < 5_000_000_000, channel.topic
            assert message.sequence > 0


@pytest.mark.parametrize(
    ('spoil', 'reasons'),
    [
        (
            lambda robot: None,
            [
                'front (/camera): nobody publishes /camera nor /camera/compressed',
                '/joint_states: nobody publishes',
                'action (/commands): nobody publishes',
            ],
        ),
        (
            lambda robot: (
                robot.publish_all(but=['/camera']),
                robot.publish('/camera', robot.joints, 20.0),
            ),
            ['published as sensor_msgs/msg/JointState, expected sensor_msgs/msg/Image'],
        ),
        (
            lambda robot: (
                robot.publish_all(but=['/joint_states']),
                robot.node.create_publisher(type(robot.joints(0)), '/joint_states', 1),
            ),
            ['/joint_states: silent, it has a publisher but no message came yet'],
        ),
        (
            lambda robot: (
                robot.publish_all(but=['/joint_states', '/camera']),
                robot.publish('/joint_states', robot.joints, 10.0),
                robot.publish('/camera', robot.image, 4.0),
            ),
            ['/joint_states: too slow, ', 'front (/camera): too slow, '],
        ),
        (
            lambda robot: (
                robot.publish_all(but=['/joint_states']),
                robot.publish('/joint_states', lambda i: robot.joints(i, ['x', 'z']), 50.0),
            ),
            ["joint(s) missing: 'y'", 'it names x, z'],
        ),
        (
            lambda robot: (
                robot.publish_all(but=['/camera']),
                robot.publish('/camera', old(robot.image), 20.0),
            ),
            ['front (/camera): data is too old'],
        ),
    ],
    ids=['absent', 'type', 'silent', 'slow', 'joints', 'old'],
)
def test_an_episode_is_refused_with_every_reason(record, robot, spoil, reasons):
    spoil(robot)
    recorder = record()
    # The answer and the status of the idle recorder say the same.
    recorder.status.clear()
    recorder.status.wait(lambda s: all(reason in s.message for reason in reasons), what=reasons)
    answer = recorder.call('start')
    assert not answer.success
    for reason in reasons:
        assert reason in answer.message
    assert not recorder.root.exists()


def old(make):
    def made(i):
        message = make(i)
        message.header.stamp.sec -= 10
        return message

    return made


def test_what_cannot_be_done_now_is_answered_and_changes_nothing(record, robot):
    robot.publish_all()
    recorder = record()
    for command, words in (
        ('stop', 'nothing is being recorded'),
        ('discard', 'nothing to discard'),
    ):
        answer = recorder.call(command)
        assert not answer.success
        assert words in answer.message
    assert not recorder.call('mark', data=True).success
    recorder.start()
    again = recorder.call('start')
    assert not again.success
    assert 'already being recorded' in again.message
    assert not recorder.call('mark', data=True).success
    bag = recorder.stop()
    assert recorder.call('mark', data=True).success
    assert read_custom_data(bag)['vqbet.outcome'] == 'success'
    assert recorder.call('mark', data=False).success
    assert read_custom_data(bag)['vqbet.outcome'] == 'failure'


def test_a_discarded_episode_is_put_aside_whole(record, robot, read_bag):
    robot.publish_all()
    recorder = record()
    recorder.start()
    path = recorder.node.episodes.session.path
    recorder.wait('recording')
    assert recorder.call('discard').success
    assert not path.exists()
    assert read_bag(recorder.root / '.discarded' / path.name)
    assert not list(recorder.root.glob('small_*'))


@pytest.mark.parametrize(
    ('distro', 'asked', 'version'),
    [('humble', 0, 8), ('iron', 0, 8), ('jazzy', 0, 9), ('', 0, 9), ('humble', 9, 9)],
)
def test_bags_are_such_as_the_sourced_ros_reads(
    record, robot, monkeypatch, distro, asked, version
):
    monkeypatch.setenv('ROS_DISTRO', distro)
    robot.publish_all()
    recorder = record(metadata_version=asked)
    recorder.start()
    information = read_information(recorder.stop())
    assert information['version'] == version
    metadata = information['topics_with_message_count'][0]['topic_metadata']
    assert isinstance(metadata['offered_qos_profiles'], str if version == 8 else list)


def test_the_task_may_change_between_episodes(record, robot):
    robot.publish_all()
    recorder = record(task='one')
    tasks = []
    for task in ('one', 'two'):
        recorder.node.set_parameters([Parameter('task', value=task)])
        recorder.start()
        tasks.append(read_custom_data(recorder.stop())['vqbet.task'])
    assert tasks == ['one', 'two']


def test_a_topic_that_comes_late_is_recorded_from_then_on(record, robot, read_bag):
    robot.publish_all()
    recorder = record(extra_topics=['/late'])
    recorder.start()
    robot.publish('/late', lambda i: String(data=f'{i}'), 50.0)
    recorder.status.clear()
    recorder.status.wait(
        lambda s: any(
            v.key == 'stream /late' and 'recorded' in v.value and ' 0 recorded' not in v.value
            for v in s.values
        )
    )
    recorder.catch_up(robot)
    found = read_bag(recorder.stop())
    assert is_end_of(found['/late'], robot.sent['/late'], 1)


@pytest.mark.parametrize('qos', [100, BEST_EFFORT], ids=['same', 'best effort'])
def test_a_publisher_that_restarts_is_recorded_again(record, robot, read_bag, qos):
    robot.publish_all()
    recorder = record()
    recorder.start()
    recorder.wait('recording')
    robot.stop('/joint_states')
    before = len(robot.sent['/joint_states'])
    robot.publish('/joint_states', robot.joints, 50.0, qos)
    stream = next(s for s in recorder.node.streams.inputs if s.expected.topic == '/joint_states')
    recorder.status.wait(lambda s: stream.newest in robot.sent['/joint_states'][before + 10 :])
    recorder.catch_up(robot)
    found = read_bag(recorder.stop())['/joint_states']
    assert found[-1] == robot.sent['/joint_states'][-1]
    # Between the two nothing is made up, doubled or reordered.
    assert [robot.sent['/joint_states'].index(payload) for payload in found] == sorted(
        {robot.sent['/joint_states'].index(payload) for payload in found}
    )


def test_latched_messages_are_in_every_episode(record, robot, read_bag):
    robot.publish_all()
    publishers = [robot.node.create_publisher(String, '/robot_description', LATCHED) for _ in 'ab']
    for publisher, text in zip(publishers, 'ab', strict=True):
        publisher.publish(String(data=text))
    recorder = record()
    for _ in range(2):
        recorder.start()
        recorder.status.clear()
        recorder.status.wait(
            lambda s: any(
                v.key == 'stream /robot_description' and ' 2 recorded' in v.value for v in s.values
            )
        )
        found = read_bag(recorder.stop())['/robot_description']
        assert {payload[8:9] for payload in found} == {b'a', b'b'}
        assert len(found) == 2


@pytest.mark.parametrize(('prefer', 'topic'), [(True, '/camera/compressed'), (False, '/camera')])
def test_one_transport_of_a_camera_is_recorded(record, robot, read_bag, prefer, topic):
    robot.publish_all()
    robot.publish('/camera/compressed', robot.jpeg, 20.0)
    recorder = record(prefer_compressed=prefer)
    recorder.start()
    recorder.status.clear()
    recorder.status.wait(
        lambda s: any(
            v.key == 'stream front' and 'recorded' in v.value and ' 0 recorded' not in v.value
            for v in s.values
        )
    )
    bag = recorder.stop()
    assert set(read_bag(bag)) == {topic, '/joint_states', '/commands'}
    camera = RobotSpec.from_text(read_custom_data(bag)['vqbet.spec'], 'the bag').cameras[0]
    assert camera.topic == topic
    assert camera.type == f'sensor_msgs/msg/{"CompressedImage" if prefer else "Image"}'


def test_buttons_command_on_their_edges(record, robot, graph):
    robot.publish_all()
    recorder = record(joy_topic='/joy', joy_start=0, joy_stop=0, joy_discard=2, joy_success=3)
    recorder.wait('idle: ready')
    joystick = graph.node.create_publisher(Joy, '/joy', 1)
    down: list[int] = [1, 0, 0, 0]  # held since before the recorder came: no command
    graph.node.create_timer(0.02, lambda: joystick.publish(Joy(buttons=list(down))))
    seen = graph.listen(Joy, '/joy')

    def press(index):
        for buttons in ([0] * 4, [int(i == index) for i in range(4)]):
            down[:] = buttons
            seen.clear()
            seen.wait(lambda m, wanted=buttons: list(m.buttons) == wanted, count=3)

    seen.wait(count=5)
    recorder.wait('idle: ready')
    press(0)
    recorder.wait('recording')
    bag = recorder.node.episodes.session.path
    press(0)
    recorder.wait('idle')
    press(3)
    recorder.status.wait(lambda s: read_custom_data(bag)['vqbet.outcome'] == 'success')
    press(2)
    recorder.status.wait(lambda s: not bag.exists())


def test_messages_and_answers_go_on_while_an_episode_is_being_ended(record, robot, monkeypatch):
    robot.publish_all()
    recorder = record()
    recorder.start()
    go_on = threading.Event()
    stop = recorder.node.episodes.session.stop

    def slow_stop(*arguments):
        assert go_on.wait(20)
        return stop(*arguments)

    monkeypatch.setattr(recorder.node.episodes.session, 'stop', slow_stop)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(recorder.call('stop')))
    thread.start()
    recorder.wait('stopping')
    stream = recorder.node.streams.inputs[1]
    received = stream.received
    recorder.status.wait(lambda s: stream.received > received + 50 and s.message[:8] == 'stopping')
    assert not ended
    go_on.set()
    thread.join(20)
    assert ended[0].success


def test_a_disk_that_fills_ends_the_episode_and_keeps_it(record, robot, monkeypatch, read_bag):
    robot.publish_all()
    recorder = record(stop_free_gb=1.0, warn_free_gb=2.0)
    free = [3e9]
    monkeypatch.setattr(recorder_disk, 'free_bytes', lambda _: int(free[0]))
    recorder.start()
    path = recorder.node.episodes.session.path
    recorder.wait('recording')
    free[0] = 1.5e9
    assert recorder.wait('only 1.5 GB of disk are free').level == DiagnosticStatus.WARN
    free[0] = 0.5e9
    recorder.wait('idle')
    assert read_custom_data(path)['vqbet.outcome'] == 'incomplete'
    assert read_bag(path)
    answer = recorder.call('start')
    assert not answer.success
    assert '0.5 GB of disk are free, expected at least 1 GB' in answer.message


def test_a_full_queue_is_counted_and_an_error(record, robot, monkeypatch, values):
    from vqbet_ros.recording.bag import BagWriter

    robot.publish_all()
    recorder = record(queue_mb=0.05)
    go_on = threading.Event()
    write = BagWriter.write
    monkeypatch.setattr(
        BagWriter, 'write', lambda *arguments: (go_on.wait(20), write(*arguments))[1]
    )
    recorder.start()
    status = recorder.wait('lost: the disk is too slow')
    assert status.level == DiagnosticStatus.ERROR
    assert int(values(status)['lost_here']) > 0
    go_on.set()
    bag = recorder.stop()
    audit = json.loads(read_custom_data(bag)['vqbet.audit'])
    assert audit['verdict'] == 'bad'
    assert sum(stream['lost_here'] for stream in audit['streams'].values()) > 0


def test_diagnostics_while_recording_and_the_callbacks_are_short(record, robot, graph, values):
    robot.publish_all()
    recorder = record()
    listener = graph.listen(DiagnosticArray, '/diagnostics')
    recorder.start()
    array = listener.wait(lambda a: len(a.status) == 1 + len(TOPICS))
    assert {status.name for status in array.status} == {
        'recorder_node: state',
        'recorder_node: front',
        'recorder_node: /joint_states',
        'recorder_node: action',
    }
    assert all(status.hardware_id == 'small' for status in array.status)
    status = recorder.wait('recording')
    # A message is stamped and queued: far from the 5 ms that the design allows, unless the
    # machine itself was busy elsewhere.
    assert 0 < float(values(status)['max_callback_ms']) < 100
    recorder.stop()


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({'spec': '/nowhere.yaml'}, 'no such file: /nowhere.yaml'),
        ({'compression': 'zip'}, "got 'zip', expected one of none, lz4, zstd"),
        ({'metadata_version': 7}, "'metadata_version': got '7', expected one of 0, 8, 9"),
        ({'extra_topics': ['a b']}, 'extra_topics'),
        ({'extra_topics': 'one'}, 'extra_topics'),
        ({'warn_free_gb': 1.0, 'stop_free_gb': 2.0}, 'warn_bytes'),
        ({'queue_mb': 1}, 'write 10.0, not 10'),
    ],
)
def test_wrong_parameters_are_one_clear_error(graph, parameters, message):
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    with pytest.raises(ConfigError, match=message):
        RecorderNode(context=graph.context, parameter_overrides=overrides)


def test_commands_alone_may_be_silent_for_long(record, robot):
    # A demonstrator who waits sends nothing: no reason to refuse, once there was a command.
    robot.publish_all(but=['/commands'])
    recorder = record()
    publisher = robot.node.create_publisher(Float64MultiArray, '/commands', LATCHED)
    publisher.publish(Float64MultiArray(data=[1.0, 2.0]))
    recorder.wait('idle: ready')
