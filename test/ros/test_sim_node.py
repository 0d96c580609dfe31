"""sim_node over real topics."""

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")
pytest.importorskip('gym_pusht', reason="needs gym-pusht: extra 'sim'")

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from vqbet_ros.errors import ConfigError
from vqbet_ros.resources import resource
from vqbet_ros.ros.sim_node import SimNode
from vqbet_ros.sim.pusht import PushTWorld, tee_keypoints

pytestmark = pytest.mark.ros

COMMANDS = '/forward_position_controller/commands'
SEED = 7


def stamp_ns(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def position(message):
    return np.array(message.position)


@pytest.fixture
def start(graph):
    """Start a sim_node with parameters; it is closed after the test."""
    nodes = []

    def start(**parameters):
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = SimNode(context=graph.context, parameter_overrides=overrides)
        nodes.append(node)
        graph.add(node)
        node.start()
        return node

    yield start
    for node in nodes:
        node.close()


def test_streams_come_at_their_rates_with_exact_stamps(graph, start):
    start(seed=SEED)
    joints = graph.listen(JointState, '/joint_states')
    images = graph.listen(Image, '/camera/image_raw')
    images.wait(count=11)
    joints.wait(count=51)
    for listener, period_ns in ((joints, 20_000_000), (images, 100_000_000)):
        distances = np.diff([stamp_ns(message) for message in list(listener.messages)])
        # A lost message may leave a gap, but every stamp lies on the grid.
        assert (distances % period_ns == 0).all(), listener.topic
        assert np.median(distances) == period_ns, listener.topic
    both = {stamp_ns(message) for message in joints.messages}
    assert sum(stamp_ns(message) in both for message in images.messages) >= 5


def test_image_shows_the_start_of_the_seed(graph, start, values):
    images = graph.listen(Image, '/camera/image_raw')
    compressed = graph.listen(CompressedImage, '/camera/image_raw/compressed')
    joints = graph.listen(JointState, '/joint_states')
    scores = graph.listen(DiagnosticStatus, '/sim_node/score')
    start(seed=SEED)
    world = PushTWorld(SEED)
    image = images.wait()
    assert (image.encoding, image.height, image.width, image.step) == ('rgb8', 96, 96, 288)
    assert image.header.frame_id == 'top_optical_frame'
    pixels = np.frombuffer(bytes(image.data), np.uint8).reshape(96, 96, 3)
    np.testing.assert_array_equal(pixels, world.image())
    jpeg = compressed.wait()
    assert jpeg.format == 'rgb8; jpeg compressed bgr8'
    decoded = cv2.imdecode(np.frombuffer(bytes(jpeg.data), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.abs(decoded[..., ::-1].astype(int) - world.image()).mean() < 3
    joint = joints.wait()
    assert list(joint.name) == ['x', 'y']
    np.testing.assert_allclose(position(joint), world.pusher(), rtol=1e-6)
    score = values(scores.wait())
    assert float(score['coverage']) == pytest.approx(world.coverage(), abs=1e-5)
    np.testing.assert_allclose(
        [float(score[key]) for key in ('block_x', 'block_y', 'block_angle')],
        world.state()[2:],
        atol=1e-3,
    )


def test_it_holds_until_a_command_comes_and_then_obeys(graph, start):
    start(seed=SEED)
    joints = graph.listen(JointState, '/joint_states')
    first = position(joints.wait())
    np.testing.assert_array_equal(position(joints.wait(count=25)), first)
    target = np.array([100.0, 400.0])
    publisher = graph.node.create_publisher(Float64MultiArray, COMMANDS, 1)
    # Sent until it is seen to act: discovery of the subscription takes its time.
    timer = graph.node.create_timer(
        0.1, lambda: publisher.publish(Float64MultiArray(data=target.tolist()))
    )
    joints.wait(lambda m: np.abs(position(m) - target).max() < 1, what='at the target')
    timer.cancel()
    joints.clear()
    # Without further commands it stays there.
    assert np.abs(position(joints.wait(count=25)) - target).max() < 1


@pytest.mark.parametrize('bad', [[1.0], [1.0, 2.0, 3.0], [float('nan'), 1.0], []])
def test_bad_commands_are_rejected_and_counted(graph, start, values, bad):
    start(seed=SEED)
    joints = graph.listen(JointState, '/joint_states')
    scores = graph.listen(DiagnosticStatus, '/sim_node/score')
    first = position(joints.wait())
    publisher = graph.node.create_publisher(Float64MultiArray, COMMANDS, 1)
    graph.node.create_timer(0.05, lambda: publisher.publish(Float64MultiArray(data=bad)))
    score = values(scores.wait(lambda s: int(values(s)['rejected_commands']) >= 2))
    assert score['commands'] == '0'
    joints.clear()
    np.testing.assert_array_equal(position(joints.wait()), first)


def test_reset_begins_the_next_seed(graph, start, values):
    start(seed=SEED)
    scores = graph.listen(DiagnosticStatus, '/sim_node/score')
    scores.wait(lambda s: int(values(s)['steps']) >= 3)
    answer = graph.call(Trigger, '/sim_node/reset')
    assert answer.success
    assert answer.message == f'episode with seed {SEED + 1}'
    score = values(scores.wait(lambda s: values(s)['seed'] == str(SEED + 1)))
    assert int(score['steps']) <= 1
    assert score['success'] == 'false'
    world = PushTWorld(SEED + 1)
    assert float(score['block_x']) == pytest.approx(world.state()[2], abs=1e-3)


def test_keypoints_of_a_spec_that_asks_for_them(graph, start):
    keypoints = graph.listen(Float64MultiArray, '/keypoints')
    start(seed=SEED, spec=str(resource('config/robots/pusht_keypoints.yaml')))
    expected = tee_keypoints(PushTWorld(SEED).state()[2:])
    np.testing.assert_allclose(keypoints.wait().data, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({'seed': -1}, 'seed'),
        ({'seed': 'one'}, 'seed'),
        ({'jpeg_quality': 101}, 'jpeg_quality'),
        ({'spec': '/nowhere.yaml'}, 'no such file: /nowhere.yaml'),
    ],
)
def test_wrong_parameters_are_one_clear_error(graph, parameters, message):
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    with pytest.raises(ConfigError, match=message):
        SimNode(context=graph.context, parameter_overrides=overrides)


def test_a_spec_that_is_commanded_in_another_way_is_refused(graph, tmp_path):
    text = resource('config/robots/pusht.yaml').read_text(encoding='utf-8')
    path = tmp_path / 'robot.yaml'
    path.write_text(text.replace('forward_position\n', 'joint_trajectory\n'), encoding='utf-8')
    with pytest.raises(ConfigError, match="got command_interface 'joint_trajectory'"):
        SimNode(context=graph.context, parameter_overrides=[Parameter('spec', value=str(path))])


def test_a_spec_that_the_world_cannot_play_lists_every_problem(graph, tmp_path):
    text = resource('config/robots/pusht.yaml').read_text()
    text = text.replace('rate_hz: 50.0', 'rate_hz: 30.0').replace('height: 96', 'height: 480')
    (tmp_path / 'spec.yaml').write_text(text)
    overrides = [Parameter('spec', value=str(tmp_path / 'spec.yaml'))]
    with pytest.raises(ConfigError) as caught:
        SimNode(context=graph.context, parameter_overrides=overrides)
    assert '/joint_states: 30 Hz does not divide 100 Hz' in str(caught.value)
    assert '/camera/image_raw: expected 96x96' in str(caught.value)
