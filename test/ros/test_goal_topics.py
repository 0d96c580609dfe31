"""Goals over real topics and from the parameter, while somebody else uses the policy."""

from dataclasses import replace
import threading

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image
from vqbet_ros.data.messages import DECODERS
from vqbet_ros.errors import ConfigError, VqbetError
from vqbet_ros.message_types import COMPRESSED_IMAGE
from vqbet_ros.resources import resource
from vqbet_ros.ros import goals
from vqbet_ros.ros.checkpoints import read_goal_for
from vqbet_ros.ros.goal_topics import APART_S, GoalTopics
from vqbet_ros.ros.goals import Goals
from vqbet_ros.spec import Crop, RobotSpec

pytestmark = pytest.mark.ros

PUSHT = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
WRIST = replace(
    PUSHT.cameras[0], name='wrist', topic='/wrist', height=24, width=32, crop=Crop(0, 0, 48, 64)
)
SPEC = replace(PUSHT, cameras=(PUSHT.cameras[0], WRIST))
VOLATILE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def pixels(seed, height=96, width=96):
    """Return a picture that a JPEG keeps."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)


def raw(rgb):
    height, width, _ = rgb.shape
    return Image(height=height, width=width, encoding='rgb8', step=3 * width, data=rgb.tobytes())


def jpeg(rgb):
    return CompressedImage(format='jpeg', data=cv2.imencode('.jpg', rgb[..., ::-1])[1].tobytes())


class News:
    """Keeps what was said, and waits for more."""

    def __init__(self):
        self.items = []
        self._condition = threading.Condition()

    def __call__(self, item):
        with self._condition:
            self.items.append(item)
            self._condition.notify_all()

    def wait(self, count, timeout_s=20.0):
        with self._condition:
            came = self._condition.wait_for(lambda: len(self.items) >= count, timeout_s)
            assert came, f'{len(self.items)} of {count}: {self.items}'
            return self.items[count - 1]


class Sender:
    """Publishes once somebody listens."""

    def __init__(self, graph):
        self._node = graph.add(rclpy.create_node('goal_giver', context=graph.context))
        self._publishers = {}

    def send(self, topic, message, profile=VOLATILE):
        if topic not in self._publishers:
            self._publishers[topic] = self._node.create_publisher(type(message), topic, profile)
        publisher = self._publishers[topic]
        matched = threading.Event()
        for _ in range(2000):
            if publisher.get_subscription_count():
                break
            matched.wait(0.01)
        assert publisher.get_subscription_count() == 1, topic
        publisher.publish(message)


@pytest.fixture
def sender(graph):
    return Sender(graph)


@pytest.fixture
def listen(graph):
    """Start GoalTopics on a node of its own; returns what is applied, told and refused."""
    started = []

    def start(spec=SPEC, steps=3, needs_state=False, apply=None, **more):
        node = graph.add(rclpy.create_node('policy_node', context=graph.context))
        applied, told, refused = News(), News(), News()
        topics = GoalTopics(
            node,
            spec,
            steps=steps,
            needs_state=needs_state,
            apply=apply or applied,
            tell=told,
            refuse=refused,
            **more,
        )
        started.append(topics)
        return applied, told, refused

    yield start
    for topics in started:
        topics.destroy()


def test_a_goal_is_there_once_every_camera_has_its_picture(listen, sender):
    applied, told, refused = listen()
    top, wrist = pixels(1), pixels(2, 60, 64)
    sender.send('/policy_node/goal/image/top', raw(top))
    assert told.wait(1) == 'goal image of top is there, waiting for wrist'
    assert applied.items == []
    compressed = jpeg(wrist)
    sender.send('/policy_node/goal/image/wrist/compressed', compressed, LATCHED)
    goal = applied.wait(1)
    np.testing.assert_array_equal(goal.images['top'], np.stack([top] * 3))
    live = DECODERS[COMPRESSED_IMAGE](serialize_message(compressed), WRIST)
    np.testing.assert_array_equal(goal.images['wrist'], np.stack([live] * 3))
    assert goal.state is None
    assert refused.items == []
    # The next goal needs all of its own pictures.
    sender.send('/policy_node/goal/image/wrist/compressed', compressed)
    assert told.wait(2) == 'goal image of wrist is there, waiting for top'
    sender.send('/policy_node/goal/image/top', raw(wrist[:60, :60].repeat(2, 0).repeat(2, 1)))
    assert applied.wait(2).images['top'].shape == (3, 96, 96, 3)


def test_a_picture_that_was_published_before_anybody_listened_is_lost_but_not_the_next(
    listen, sender
):
    """Publishers that keep their last message are heard too, like all others."""
    spec = replace(SPEC, cameras=SPEC.cameras[:1])
    applied, _, _ = listen(spec, steps=1)
    for seed in (1, 2):
        sender.send('/policy_node/goal/image/top', raw(pixels(seed)), LATCHED)
        np.testing.assert_array_equal(applied.wait(seed).images['top'][0], pixels(seed))


def test_a_picture_that_does_not_fit_is_refused_with_the_reason(listen, sender):
    applied, _, refused = listen()
    topic = '/policy_node/goal/image/wrist'
    sender.send(topic, raw(pixels(1, 40, 64)))
    assert 'wrist refused, the old goal stays' in refused.wait(1)
    assert 'the picture is 64x40, too small for the crop' in refused.items[0]
    sender.send(topic, Image(height=4, width=4, encoding='32FC1', step=16, data=bytes(64)))
    assert "encoding '32FC1' is not supported" in refused.wait(2)
    sender.send(f'{topic}/compressed', CompressedImage(format='jpeg', data=b'\xff\xd8nothing'))
    assert 'truncated' in refused.wait(3)
    assert applied.items == []


@pytest.mark.parametrize(
    ('settings', 'text'),
    [
        ({'steps': 0}, 'trained without goals'),
        ({'needs_state': True}, "this policy's goals have a state"),
    ],
)
def test_policies_that_pictures_are_no_goal_for_say_so(listen, sender, settings, text):
    applied, _, refused = listen(**settings)
    sender.send('/policy_node/goal/image/top', raw(pixels(1)))
    assert text in refused.wait(1)
    assert applied.items == []


def test_what_the_policy_refuses_is_reported(listen, sender):
    def apply(goal):
        raise ConfigError('the goal does not fit the policy: too blue')

    spec = replace(SPEC, cameras=SPEC.cameras[:1])
    _, _, refused = listen(spec, apply=apply)
    sender.send('/policy_node/goal/image/top', raw(pixels(1)))
    assert refused.wait(1).endswith('too blue')


def test_half_a_goal_does_not_wait_for_ever(listen, sender):
    times = iter([0.0, APART_S + 1, APART_S + 2])
    applied, told, refused = listen(clock=lambda: next(times))
    sender.send('/policy_node/goal/image/top', raw(pixels(1)))
    told.wait(1)
    sender.send('/policy_node/goal/image/wrist', raw(pixels(2, 60, 64)))
    assert refused.wait(1) == 'goal image of top let go: 61 s old'
    assert told.wait(2) == 'goal image of wrist is there, waiting for top'
    sender.send('/policy_node/goal/image/top', raw(pixels(3)))
    np.testing.assert_array_equal(applied.wait(1).images['top'][0], pixels(3))


class StandIn:
    """What Goals asks of an engine."""

    def __init__(self, goal_steps=2, goal_state=False):
        self.spec, self.goal_steps, self.goal_state = PUSHT, goal_steps, goal_state
        self.goals = News()
        self.refusal = None

    def set_goal(self, images, state=None):
        if self.refusal is not None:
            raise self.refusal
        self.goals(None if images is None else images['top'][:, 0, 0, 0].tolist())


class Changing:
    """Goals on a node that has the parameter, as policy_node has."""

    def __init__(self, graph, engine):
        self.graph = graph
        self.node = graph.add(rclpy.create_node('policy_node', context=graph.context))
        self.node.declare_parameter('goal', '')
        self.engine, self.lock, self.changes = engine, threading.Lock(), News()
        self.refusals, self.parameters = News(), News()
        self.goals = Goals(self.node, engine, PUSHT, lock=self.lock, changed=self._on_change)
        self.node.add_on_set_parameters_callback(self._on_parameters)

    def _on_change(self):
        assert self.lock.locked()
        self.changes(self.goals.name)

    def _on_parameters(self, parameters):
        try:
            self.goals.request(parameters[0].value, wait_s=0.0)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.parameters(parameters[0].value)
        return SetParametersResult(successful=True)

    def set(self, value):
        request = SetParameters.Request(
            parameters=[Parameter('goal', value=str(value)).to_parameter_msg()]
        )
        name = '/policy_node/set_parameters'
        return self.graph.call(SetParameters, name, request).results[0]

    def wait_for(self, value):
        """Wait until the parameter has a value."""
        pause = threading.Event()
        for _ in range(2000):
            if self.node.get_parameter('goal').value == str(value):
                return
            pause.wait(0.01)
        pytest.fail(f'goal is {self.node.get_parameter("goal").value}, expected {value}')


@pytest.fixture
def changing(graph):
    made = []

    def make(**engine):
        made.append(Changing(graph, StandIn(**engine)))
        return made[-1]

    yield make
    for one in made:
        one.goals.close()


@pytest.fixture
def picture(tmp_path):
    def write(grey, size=96):
        path = tmp_path / f'{grey}_{size}.png'
        cv2.imwrite(str(path), np.full((size, 96, 3), grey, np.uint8))
        return path

    return write


def test_a_goal_waits_for_the_policy_and_not_the_node_for_the_goal(changing, picture):
    one = changing()
    with one.lock:  # the policy is deciding
        assert one.set(picture(7)).successful  # and the node goes on at once
        assert one.engine.goals.items == []
        assert one.goals.name == ''
    assert one.changes.wait(1) == str(picture(7))
    assert one.engine.goals.items == [[7, 7]]
    assert one.set('').successful
    one.changes.wait(2)
    assert one.engine.goals.items[-1] is None


def test_the_last_request_counts(changing, picture):
    one = changing()
    with one.lock:
        for grey in (1, 2, 3):
            assert one.set(picture(grey)).successful
    assert one.changes.wait(1) == str(picture(3))
    one.goals.close()
    assert one.engine.goals.items == [[3, 3]]


def test_what_is_plain_to_see_is_refused_at_once(changing, picture, tmp_path):
    one = changing()
    answer = one.set(tmp_path / 'nowhere.png')
    assert not answer.successful
    assert 'no such dataset or picture, nor bag' in answer.reason
    answer = one.set(f'{picture(1)}:3')
    assert 'which has no frame 3' in answer.reason
    assert one.changes.items == []


def test_policies_without_goals_say_so_at_once(changing, picture):
    one = changing(goal_steps=0)
    assert 'trained without goals' in one.set(picture(1)).reason
    assert one.set('').successful


def test_a_goal_that_turns_out_wrong_sets_the_parameter_back(changing, picture):
    one = changing()
    one.set(picture(7))
    one.changes.wait(1)
    one.parameters.wait(1)
    assert one.set(picture(8, size=40)).successful
    assert one.parameters.wait(3) == str(picture(7))
    one.wait_for(picture(7))
    one.engine.refusal = RuntimeError('out of memory')
    one.set(picture(9))
    assert one.parameters.wait(5) == str(picture(7))
    one.wait_for(picture(7))
    assert one.goals.name == str(picture(7))
    assert one.engine.goals.items == [[7, 7]]


def test_waiting_for_a_goal_raises_what_is_wrong_with_it(changing, picture):
    one = changing()
    one.goals.request(str(picture(5)), wait_s=20.0)
    assert one.goals.name == str(picture(5))
    with pytest.raises(ConfigError, match='the picture is 96x40'):
        one.goals.request(str(picture(8, size=40)), wait_s=20.0)
    assert one.engine.goals.items == [[5, 5]]


def test_waiting_for_a_policy_that_hangs_ends_with_a_refusal(changing, picture):
    one = changing()
    one.goals.request(str(picture(5)), wait_s=20.0)
    with one.lock, pytest.raises(VqbetError, match='not come back from a decision'):
        one.goals.request(str(picture(6)), wait_s=0.2)
    one.goals.request(str(picture(7)), wait_s=20.0)
    assert one.engine.goals.items == [[5, 5], [7, 7]]


def test_what_takes_longer_than_anybody_waits_goes_on_beside(changing, picture, monkeypatch):
    one, go = changing(), threading.Event()
    one.set(picture(5))
    one.changes.wait(1)
    one.parameters.wait(1)
    monkeypatch.setattr(goals, 'read_goal_for', lambda *a: go.wait(20.0) and read_goal_for(*a))
    one.goals.request(str(picture(6)), wait_s=0.1)  # returns, and refuses nothing
    go.set()
    assert one.changes.wait(2) == str(picture(6))
    go.clear()
    one.goals.request(str(picture(8, size=40)), wait_s=0.1)
    go.set()
    assert one.parameters.wait(2) == str(picture(6))  # set back


def test_a_goal_from_the_topic_takes_the_place_of_the_parameters(changing, picture, sender):
    one = changing()
    one.set(picture(5))
    one.changes.wait(1)
    sender.send('/policy_node/goal/image/top', raw(np.full((96, 96, 3), 9, np.uint8)))
    assert one.changes.wait(2) == '/policy_node/goal/image'
    assert one.engine.goals.items == [[5, 5], [9, 9]]
    one.set(picture(5))  # the same again
    assert one.changes.wait(3) == str(picture(5))


def test_closed_goals_leave_no_thread_and_no_subscription(changing, picture):
    one = changing()
    before = threading.active_count()
    with one.lock:
        one.set(picture(1))
        assert threading.active_count() == before + 1
        closing = threading.Thread(target=one.goals.close)
        closing.start()
    closing.join(20.0)
    assert not closing.is_alive()
    assert threading.active_count() == before
    assert [s.topic_name for s in one.node.subscriptions if 'goal' in s.topic_name] == []
