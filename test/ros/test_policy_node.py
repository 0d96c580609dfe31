"""policy_node over real topics: the test plays the robot, a stand-in plays the policy."""

from dataclasses import dataclass, replace
import threading
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State as LifecycleState
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64, Float64MultiArray, Header
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory
from vqbet_ros.errors import BadCheckpoint, ConfigError
from vqbet_ros.resources import resource
from vqbet_ros.ros.policy_node import PolicyNode
from vqbet_ros.spec import GripperCommand, GripperSpec, JointLimits, RobotSpec

pytestmark = pytest.mark.ros

SPEC = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
COMMANDS = SPEC.action.command_topic
ACTION = (100.0, 200.0)
CHUNK = 5


@dataclass(frozen=True)
class Output:
    actions: np.ndarray
    confidence: float = 0.5
    codes: tuple[int, ...] = (3, 1)


class StandIn:
    """Has the methods of policy.remote.EngineProcess; answers with a constant chunk."""

    where = 'a test'

    def __init__(self, goal_steps=0):
        self.spec = SPEC
        self.history = 2
        self.chunk = CHUNK
        self.goal_steps = goal_steps
        self.goal_state = False
        self.observations = []
        self.looked = []
        self.resets = 0
        self.actions = np.tile(np.array(ACTION, np.float32), (CHUNK, 1))
        self.error = None
        self.goals: list[Any] = []

    def reset(self):
        self.resets += 1

    def warm_up(self):
        pass

    def close(self):
        pass

    def set_goal(self, images, state=None):
        self.goals.append(images)

    def look(self, observation):
        self.looked.append(observation)

    def plan(self, observation, *, running=None, hysteresis=0.0):
        if self.error is not None:
            raise self.error
        self.observations.append(observation)
        return Output(self.actions)


class Robot:
    """Publishes camera and joints at 10 and 50 Hz until told otherwise."""

    def __init__(self, graph):
        self.graph = graph
        self.camera = True
        self.joints = True
        self.names = ['x', 'y']
        self.encode = self.raw
        self.frame = 0
        node = graph.node
        self.images = node.create_publisher(Image, '/camera/image_raw', 5)
        self.jpegs = node.create_publisher(CompressedImage, '/camera/image_raw/compressed', 5)
        self.states = node.create_publisher(JointState, '/joint_states', 5)
        node.create_timer(1 / SPEC.cameras[0].rate_hz, self.send_image)
        node.create_timer(1 / SPEC.state[0].rate_hz, self.send_joints)

    def header(self):
        return Header(stamp=self.graph.node.get_clock().now().to_msg())

    def raw(self, pixels):
        return Image(
            header=self.header(),
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding='rgb8',
            step=3 * pixels.shape[1],
            data=pixels.tobytes(),
        )

    def send_image(self):
        self.frame = (self.frame + 1) % 250
        if self.camera:
            pixels = np.full((96, 96, 3), self.frame, np.uint8)
            message = self.encode(pixels)
            publisher = self.images if isinstance(message, Image) else self.jpegs
            publisher.publish(message)

    def send_joints(self):
        if self.joints:
            position = [{'x': 10.0, 'y': 20.0}.get(name, 5.0) for name in self.names]
            self.states.publish(
                JointState(header=self.header(), name=self.names, position=position)
            )


class Driver:
    """A policy_node with its stand-in, and what it sends."""

    def __init__(self, graph, values, engine, **parameters):
        self.graph, self.values, self.engine = graph, values, engine
        self.commands = graph.listen(Float64MultiArray, COMMANDS)
        self.status = graph.listen(DiagnosticStatus, '/policy_node/status')
        self.diagnostics = graph.listen(DiagnosticArray, '/diagnostics')
        self.plans = graph.listen(JointTrajectory, '/policy_node/plan')
        parameters = {'checkpoint': 'stand-in', 'plan_every': 1, **parameters}
        self.node = PolicyNode(
            load=lambda checkpoint, device, threads: engine,
            context=graph.context,
            parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()],
        )
        graph.add(self.node)

    def change(self, transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.graph.call(ChangeState, '/policy_node/change_state', request).success

    def lifecycle(self):
        return self.graph.call(GetState, '/policy_node/get_state').current_state.id

    def activate(self):
        assert self.change(Transition.TRANSITION_CONFIGURE)
        assert self.change(Transition.TRANSITION_ACTIVATE)

    def wait_ready(self):
        """Wait until both streams arrive: then nothing but the enabling is missing."""
        self.status.wait(lambda s: self.values(s)['reason'] == 'not enabled', what='not enabled')

    def enable(self, on=True):
        return self.graph.call(SetBool, '/policy_node/enable', SetBool.Request(data=on))

    def wait_state(self, state, reason=''):
        return self.status.wait(
            lambda s: self.values(s)['state'] == state and reason in self.values(s)['reason'],
            what=f"'{state}' for '{reason}'",
        )

    def component(self, name, accept=lambda status: True):
        def find(array):
            return [s for s in array.status if s.name == f'policy_node: {name}']

        array = self.diagnostics.wait(
            lambda a: any(accept(s) for s in find(a)), what=f'component {name}'
        )
        return find(array)[0]


@pytest.fixture
def robot(graph):
    return Robot(graph)


@pytest.fixture
def drive(graph, values):
    drivers = []

    def drive(engine=None, **parameters):
        drivers.append(Driver(graph, values, engine or StandIn(), **parameters))
        return drivers[-1]

    yield drive
    for driver in drivers:
        driver.node.close()


def stamp_ns(message):
    return Time.from_msg(message.header.stamp).nanoseconds


def test_commands_flow_only_between_enable_and_disable(robot, drive):
    driver = drive(control_rate_hz=50.0)
    refused = driver.enable()
    assert not refused.success
    assert 'not active' in refused.message
    driver.activate()
    driver.wait_ready()
    assert driver.enable().success
    driver.wait_state('running')
    command = driver.commands.wait(count=10)
    assert list(command.data) == list(ACTION)
    assert driver.enable(False).success
    assert driver.lifecycle() == LifecycleState.PRIMARY_STATE_ACTIVE
    driver.commands.clear()
    driver.status.clear()
    for _ in range(2):  # status comes once a second
        driver.status.wait(lambda s: driver.values(s)['state'] == 'disarmed')
    assert len(driver.commands) == 0


def test_nothing_is_sent_before_it_is_enabled(robot, drive):
    driver = drive()
    driver.activate()
    driver.wait_ready()
    driver.diagnostics.clear()
    driver.diagnostics.wait(count=2)
    assert len(driver.commands) == 0
    assert not driver.engine.observations
    driver.component('observation/top', lambda s: s.level == DiagnosticStatus.OK)


def test_enable_is_refused_while_a_stream_is_missing(robot, drive):
    robot.camera = False
    driver = drive()
    driver.activate()
    answer = driver.enable()
    assert not answer.success
    assert 'top: no data' in answer.message
    assert len(driver.commands) == 0


def test_history_has_the_stamps_of_the_messages_and_begins_at_enable(robot, drive):
    driver = drive()
    images = driver.graph.listen(Image, '/camera/image_raw')
    driver.activate()
    driver.wait_ready()
    enabled_ns = driver.graph.node.get_clock().now().nanoseconds
    assert driver.enable().success
    driver.plans.wait(count=5)
    driver.enable(False)
    observations = list(driver.engine.observations)
    sent = {stamp_ns(m): bytes(m.data)[0] for m in images.messages}
    first = observations[0]
    assert first.stamp_ns >= enabled_ns
    assert first.valid.tolist() == [False, True]
    assert first.frames[0] is None
    for observation in observations[1:]:
        frame = observation.frames[-1]['top']
        assert frame.image.shape == (96, 96, 3)
        assert sent[frame.stamp_ns] == frame.image[0, 0, 0]
        np.testing.assert_allclose(observation.state[-1], [10, 20])
    distances = np.diff([observation.stamp_ns for observation in observations])
    assert (distances >= 0.9 * SPEC.period_ns).all()
    assert driver.engine.resets == 1


def test_the_policy_looks_at_a_frame_of_the_next_history_when_it_comes(robot, drive):
    driver = drive(plan_every=4)  # of a policy that sees two steps
    driver.activate()
    driver.wait_ready()
    assert driver.enable().success
    driver.plans.wait(count=4)
    driver.enable(False)
    planned = [observation.frames for observation in driver.engine.observations[:4]]
    looked = [observation.frames[-1]['top'].stamp_ns for observation in driver.engine.looked[:3]]
    assert [earlier['top'].stamp_ns for earlier, _ in planned[1:]] == looked


@pytest.mark.parametrize(('plan_every', 'steps'), [(0, CHUNK - 1), (2, 2), (100, CHUNK)])
def test_a_chunk_is_executed_before_the_next_is_planned(robot, drive, plan_every, steps):
    driver = drive(plan_every=plan_every)
    driver.activate()
    driver.wait_ready()
    assert driver.enable().success
    driver.plans.wait(count=3)
    driver.enable(False)
    stamps = [stamp_ns(plan) for plan in driver.plans.messages]
    # A tenth of a period is left to trembling stamps.
    assert (np.diff(stamps) >= (steps - 0.1) * SPEC.period_ns).all()


def test_plan_shows_the_chunk_with_the_time_of_each_action(robot, drive):
    driver = drive()
    driver.activate()
    driver.wait_ready()
    driver.enable()
    plan = driver.plans.wait()
    assert list(plan.joint_names) == ['x', 'y']
    assert [list(point.positions) for point in plan.points] == [list(ACTION)] * CHUNK
    assert [point.time_from_start.nanosec for point in plan.points] == [
        (i + 1) * 10**8 for i in range(CHUNK)
    ]
    assert stamp_ns(plan) == driver.engine.observations[0].stamp_ns


@pytest.mark.parametrize(('stream', 'name'), [('camera', 'top'), ('joints', '/joint_states')])
def test_a_stream_that_stops_stops_the_commands(robot, drive, stream, name):
    driver = drive(control_rate_hz=50.0)
    driver.activate()
    driver.wait_ready()
    driver.enable()
    driver.wait_state('running')
    setattr(robot, stream, False)
    status = driver.wait_state('hold', f'{name}: data is too old')
    assert status.level == DiagnosticStatus.WARN
    assert 'ros2 topic hz' in driver.values(status)['hint']
    stale = driver.component(f'observation/{name}', lambda s: s.level == DiagnosticStatus.STALE)
    assert 'too old' in stale.message
    driver.commands.clear()
    driver.diagnostics.clear()
    driver.diagnostics.wait()
    assert len(driver.commands) == 0
    # It goes on by itself once the stream is back, and no zeros were ever sent.
    setattr(robot, stream, True)
    assert list(driver.commands.wait().data) == list(ACTION)


def test_a_truncated_jpeg_stops_the_commands(robot, drive):
    def jpeg(pixels):
        content = cv2.imencode('.jpg', pixels)[1].tobytes()
        return CompressedImage(header=robot.header(), format='jpeg', data=content[: robot.cut])

    robot.encode, robot.cut = jpeg, None
    driver = drive(compressed=True)
    driver.activate()
    driver.wait_ready()
    driver.enable()
    driver.wait_state('running')
    robot.cut = -20
    driver.wait_state('hold', 'truncated after')
    bad = driver.component('observation/top', lambda s: s.level == DiagnosticStatus.ERROR)
    assert int(driver.values(bad)['bad_messages']) >= 1
    robot.cut = None
    driver.status.clear()
    driver.wait_state('running')


def change_encoding(robot):
    def encode(pixels):
        message = robot.raw(pixels)
        message.encoding = 'bayer_rggb8'
        return message

    robot.encode = encode


def change_size(robot):
    robot.encode = lambda _: robot.raw(np.zeros((48, 96, 3), np.uint8))


def drop_joint(robot):
    robot.names = ['x', 'z']


@pytest.mark.parametrize(
    ('spoil', 'reason'),
    [
        (change_encoding, "encoding 'bayer_rggb8' is not supported"),
        (change_size, 'the picture is 96x48, expected 96x96'),
        (drop_joint, 'y/position: in none of the newest messages'),
    ],
)
def test_messages_that_do_not_fit_the_spec_stop_the_commands(robot, drive, spoil, reason):
    driver = drive()
    driver.activate()
    driver.wait_ready()
    driver.enable()
    driver.wait_state('running')
    spoil(robot)
    driver.wait_state('hold', reason)
    driver.commands.clear()
    driver.diagnostics.clear()
    driver.diagnostics.wait()
    assert len(driver.commands) == 0


def test_joints_in_another_order_and_with_others_are_understood(robot, drive):
    robot.names = ['gripper', 'y', 'x']
    driver = drive()
    driver.activate()
    driver.wait_ready()
    driver.enable()
    driver.plans.wait()
    np.testing.assert_allclose(driver.engine.observations[-1].state[-1], [10, 20])


def test_commands_stay_in_the_range_of_the_spec_and_clamping_is_counted(robot, drive):
    engine = StandIn()
    engine.actions = np.full((CHUNK, 2), 530.0, np.float32)
    driver = drive(engine)
    driver.activate()
    driver.wait_ready()
    driver.enable()
    assert list(driver.commands.wait().data) == [512.0, 512.0]
    limiter = driver.component('limiter', lambda s: s.level == DiagnosticStatus.WARN)
    assert int(driver.values(limiter)['clamped x, position']) >= 1


@pytest.mark.parametrize('wild', [np.nan, np.inf, 9000.0])
def test_a_wild_chunk_is_a_fault_and_never_sent(robot, drive, wild):
    engine = StandIn()
    engine.actions = np.full((CHUNK, 2), wild, np.float32)
    driver = drive(engine)
    driver.activate()
    driver.wait_ready()
    driver.enable()
    driver.wait_state('fault', 'chunk cannot be used')
    rejected = driver.component(
        'inference', lambda s: 'rejected: chunk cannot be used' in driver.values(s)
    )
    assert int(driver.values(rejected)['rejected: chunk cannot be used']) >= 1
    assert len(driver.commands) == 0


def test_an_error_of_the_policy_is_a_fault_that_stays_until_reset(robot, drive):
    driver = drive()
    driver.activate()
    driver.wait_ready()
    driver.enable()
    driver.wait_state('running')
    driver.engine.error = RuntimeError('out of luck')
    status = driver.wait_state('fault', 'inference: RuntimeError: out of luck')
    assert status.level == DiagnosticStatus.ERROR
    driver.component('state', lambda s: s.level == DiagnosticStatus.ERROR)
    refused = driver.enable()
    assert not refused.success
    assert 'out of luck' in refused.message
    driver.commands.clear()
    driver.engine.error = None
    assert driver.graph.call(Trigger, '/policy_node/reset').success
    driver.wait_state('disarmed')
    assert len(driver.commands) == 0
    assert driver.enable().success
    driver.commands.wait()


def test_diagnostics_name_every_component_with_its_figures(robot, drive):
    driver = drive(control_rate_hz=50.0)
    driver.activate()
    driver.wait_ready()
    driver.enable()
    driver.commands.wait(count=30)
    control = driver.values(
        driver.component('control', lambda s: int(driver.values(s)['ticks']) > 30)
    )
    assert float(control['p50_ms']) == pytest.approx(20, abs=3)
    assert {'p99_ms', 'max_ms', 'missed_ticks'} <= set(control)
    inference = driver.values(
        driver.component('inference', lambda s: int(driver.values(s)['count']) > 0)
    )
    assert float(inference['confidence']) == 0.5
    latency = driver.values(
        driver.component('latency', lambda s: int(driver.values(s)['count']) > 0)
    )
    assert 0 < float(latency['p50_ms']) < 100
    top = driver.component('observation/top', lambda s: float(driver.values(s)['rate_hz']) > 5)
    assert top.hardware_id == 'pusht'


def test_figures_are_of_the_time_since_the_last_enabling(robot, drive):
    engine = StandIn()
    engine.actions = np.full((CHUNK, 2), 530.0, np.float32)  # is clamped
    driver = drive(engine)
    driver.activate()
    driver.wait_ready()
    assert driver.enable().success
    driver.component('inference', lambda s: int(driver.values(s)['count']) >= 20)
    assert driver.enable(False).success
    driver.wait_state('disarmed')
    driver.diagnostics.clear()
    before = driver.component('limiter', lambda s: s.level == DiagnosticStatus.WARN)
    assert driver.enable().success
    driver.diagnostics.clear()
    begun = driver.component('inference', lambda s: int(driver.values(s)['count']) > 0)
    assert int(driver.values(begun)['count']) < 20
    after = driver.component('limiter', lambda s: s.level == DiagnosticStatus.WARN)
    key = 'clamped x, position'
    assert int(driver.values(after)[key]) < int(driver.values(before)[key])


def test_diagnostics_tell_how_old_a_stream_is_and_how_far_it_lags(robot, drive):
    def late(pixels):
        image = robot.raw(pixels)
        stamp = Time.from_msg(robot.header().stamp) - Duration(nanoseconds=100_000_000)
        image.header.stamp = stamp.to_msg()
        return image

    robot.encode = late
    driver = drive()
    driver.activate()
    driver.wait_ready()
    driver.diagnostics.clear()
    top = driver.values(driver.component('observation/top'))
    joints = driver.values(driver.component('observation//joint_states'))
    assert 100 <= float(top['age_ms']) <= float(top['max_age_ms'])
    assert float(top['skew_ms']) >= 100 - float(joints['age_ms']) - 50
    assert float(joints['age_ms']) < 100 + float(top['skew_ms'])
    assert top['lost'] == joints['lost'] == '0'


def test_enable_parameter_arms_as_soon_as_the_streams_are_there(graph, drive):
    driver = drive(enable=True)
    driver.activate()
    driver.wait_state('waiting', 'no data')
    Robot(graph)
    driver.commands.wait()


def test_deactivate_stops_the_commands_and_activate_needs_a_new_enable(robot, drive):
    driver = drive()
    driver.activate()
    driver.wait_ready()
    driver.enable()
    driver.commands.wait()
    assert driver.change(Transition.TRANSITION_DEACTIVATE)
    driver.commands.clear()
    assert driver.change(Transition.TRANSITION_ACTIVATE)
    driver.status.clear()
    driver.wait_ready()
    assert len(driver.commands) == 0
    assert driver.enable().success
    driver.commands.wait()
    assert driver.change(Transition.TRANSITION_DEACTIVATE)
    assert driver.change(Transition.TRANSITION_CLEANUP)
    assert driver.lifecycle() == LifecycleState.PRIMARY_STATE_UNCONFIGURED
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {'inference', 'control'}
    assert driver.change(Transition.TRANSITION_CONFIGURE)


def failing(error):
    def load(checkpoint, device, threads):
        raise error

    return load


@pytest.mark.parametrize('error', [BadCheckpoint('cut short'), ConfigError('no CUDA')])
def test_a_checkpoint_that_cannot_be_loaded_leaves_it_unconfigured(graph, error):
    node = graph.add(
        PolicyNode(
            load=failing(error),
            context=graph.context,
            parameter_overrides=[Parameter('checkpoint', value='x')],
        )
    )
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert not graph.call(ChangeState, '/policy_node/change_state', request).success
    state = graph.call(GetState, '/policy_node/get_state').current_state.id
    assert state == LifecycleState.PRIMARY_STATE_UNCONFIGURED
    node.close()


def test_a_robot_that_differs_from_the_checkpoint_is_refused(drive, tmp_path):
    text = resource('config/robots/pusht.yaml').read_text()
    (tmp_path / 'robot.yaml').write_text(
        text.replace('names: [x, ', 'names: [z, ').replace('x: {pos', 'z: {pos')
    )
    driver = drive(spec=str(tmp_path / 'robot.yaml'))
    assert not driver.change(Transition.TRANSITION_CONFIGURE)
    assert driver.lifecycle() == LifecycleState.PRIMARY_STATE_UNCONFIGURED


def test_a_goal_for_a_policy_without_goals_is_refused(drive):
    driver = drive(goal='somewhere')
    assert not driver.change(Transition.TRANSITION_CONFIGURE)
    driver.node.set_parameters([Parameter('goal', value='')])
    assert driver.change(Transition.TRANSITION_CONFIGURE)
    request = SetParameters.Request(
        parameters=[Parameter('goal', value='somewhere').to_parameter_msg()]
    )
    answer = driver.graph.call(SetParameters, '/policy_node/set_parameters', request).results[0]
    assert not answer.successful
    assert 'was trained without goals' in answer.reason


def test_a_new_goal_is_taken_while_it_runs_and_a_bad_one_changes_nothing(robot, drive, tmp_path):
    cv2.imwrite(str(tmp_path / 'goal.png'), np.full((96, 96, 3), 7, np.uint8))
    driver = drive(StandIn(goal_steps=3))
    driver.activate()
    driver.wait_ready()
    driver.enable()
    driver.commands.wait()
    assert driver.engine.goals == [None]

    def change(goal):
        request = SetParameters.Request(
            parameters=[Parameter('goal', value=str(goal)).to_parameter_msg()]
        )
        return driver.graph.call(SetParameters, '/policy_node/set_parameters', request).results[0]

    assert change(tmp_path / 'goal.png').successful
    driver.status.wait(lambda s: driver.values(s)['goal'].endswith('goal.png'))
    assert driver.engine.goals[-1]['top'].shape == (3, 96, 96, 3)
    answer = change(tmp_path / 'nowhere.png')
    assert not answer.successful
    assert 'no such dataset or picture' in answer.reason
    assert driver.engine.goals[-1]['top'][0, 0, 0, 0] == 7
    status = driver.status.wait(lambda s: driver.values(s)['goal'].endswith('goal.png'))
    assert driver.values(status)['state'] == 'running'


GRIPPER = GripperSpec(
    'finger',
    'm',
    JointLimits((0.0, 0.08)),
    topic='/gripper/recorded',
    type='std_msgs/msg/Float64MultiArray',
    command=GripperCommand('float64', '/gripper/command'),
)


class Gripping(StandIn):
    """Closes its gripper as well."""

    def __init__(self):
        super().__init__()
        self.spec = replace(SPEC, action=replace(SPEC.action, gripper=GRIPPER))
        self.actions = np.tile(np.array([*ACTION, 0.05], np.float32), (CHUNK, 1))


def test_in_shadow_mode_the_gripper_is_not_commanded(robot, drive, graph):
    gripper = graph.listen(Float64, '/gripper/command')
    shadow = graph.listen(Float64, '/policy_node/shadow/gripper')
    driver = drive(Gripping(), shadow=True)
    driver.activate()
    driver.wait_ready()
    assert driver.enable().success
    assert shadow.wait().data == pytest.approx(0.05)
    driver.wait_state('running')
    driver.diagnostics.wait(count=2)
    assert len(gripper) == len(driver.commands) == 0


def test_somebody_else_who_commands_the_gripper_is_a_fault(robot, drive, graph):
    gripper = graph.listen(Float64, '/gripper/command')
    driver = drive(Gripping())
    driver.activate()
    driver.wait_ready()
    assert driver.enable().success
    assert gripper.wait().data == pytest.approx(0.05)
    graph.node.create_publisher(Float64, '/gripper/command', 1)
    driver.wait_state('fault', '/observer on /gripper/command')


@pytest.mark.parametrize(
    'parameters',
    [{'device': 'gpu'}, {'control_rate_hz': -1.0}, {'control_rate_hz': 10}, {'threads': -1}],
)
def test_wrong_parameters_are_one_clear_error(graph, parameters):
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    with pytest.raises(ConfigError, match=next(iter(parameters))):
        PolicyNode(context=graph.context, parameter_overrides=overrides)


def test_status_says_what_to_do_before_anything_is_configured(graph, values):
    status = graph.listen(DiagnosticStatus, '/policy_node/status')
    node = graph.add(PolicyNode(context=graph.context))
    seen = values(status.wait())
    assert seen['state'] == 'unconfigured'
    assert seen['hint'] == 'ros2 lifecycle set /policy_node configure'
    node.close()


@pytest.fixture
def spec_with(tmp_path):
    """Write the robot's spec with another way to command it."""

    def write(**action):
        path = tmp_path / 'robot.yaml'
        spec = replace(SPEC, action=replace(SPEC.action, **action))
        path.write_text(spec.to_yaml(), encoding='utf-8')
        return str(path)

    return write


def test_the_spec_chooses_the_messages_of_the_commands(robot, drive, graph, spec_with):
    trajectories = graph.listen(JointTrajectory, '/arm/joint_trajectory')
    spec = spec_with(command_interface='joint_trajectory', command_topic='/arm/joint_trajectory')
    driver = drive(spec=spec, control_rate_hz=50.0)
    driver.activate()
    driver.wait_ready()
    assert driver.enable().success
    message = trajectories.wait(count=3)
    assert message.joint_names == ['x', 'y']
    (point,) = message.points
    assert list(point.positions) == list(ACTION)
    assert point.time_from_start.nanosec == 20_000_000
    assert len(driver.commands) == 0


@pytest.mark.parametrize('joints', [['y', 'x'], ['x', 'y']])
def test_what_listens_in_another_order_is_never_commanded(robot, drive, graph, joints):
    controller = rclpy.create_node('forward_position_controller', context=graph.context)
    controller.create_subscription(Float64MultiArray, COMMANDS, lambda _: None, 1)
    controller.declare_parameter('joints', joints)
    driver = drive(enable=True)  # before the controller can have answered
    driver.activate()
    refused = driver.enable()
    assert not refused.success
    assert 'has not yet said which joints it commands' in refused.message
    graph.add(controller)  # now it can
    if joints == ['x', 'y']:
        assert list(driver.commands.wait().data) == list(ACTION)
        return
    problem = "commands ['y', 'x'], the spec ['x', 'y']"
    driver.status.wait(lambda s: problem in driver.values(s)['reason'], what=problem)
    assert problem in driver.enable().message
    driver.diagnostics.clear()
    driver.diagnostics.wait(count=2)
    assert len(driver.commands) == 0


@pytest.mark.parametrize(
    ('action', 'message'),
    [
        ({'command_interface': 'joint_group'}, 'needs interbotix_xs_msgs/msg/JointGroupCommand'),
    ],
)
def test_what_cannot_be_commanded_is_refused_at_configure(
    drive, spec_with, capfd, action, message
):
    driver = drive(spec=spec_with(**action))
    assert not driver.change(Transition.TRANSITION_CONFIGURE)
    assert driver.lifecycle() == LifecycleState.PRIMARY_STATE_UNCONFIGURED
    assert message in capfd.readouterr().err
