"""Commands in messages of other packages than ROS 2's own, and who says whether they are taken.

What stands for a manager of controllers is a real server of the package's own type.
"""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from command_parts import (
    ACTION,
    GRIPPER,
    JOINTS,
    needed,
    NOW_NS,
    PERIOD_NS,
    until,
    VELOCITIES,
)
import fault_robot as fault
import rclpy
from rclpy.time import Time
from vqbet_ros.ros.commands import active_check
from vqbet_ros.ros.commands.active_check import ActiveCheck
from vqbet_ros.spec import GripperCommand

pytestmark = pytest.mark.ros
pytest_plugins = ['command_rig', 'fault_rig']

LIST = 'controller_manager_msgs/srv/ListControllers'


def test_joint_jogs(commander, listen):
    kind = needed('control_msgs/msg/JointJog')
    topic = '/servo_node/delta_joint_cmds'
    action = replace(
        VELOCITIES, command_interface='servo_joint', command_topic=topic, frame_id='base_link'
    )
    commands = commander(action)
    listener = listen(kind, topic)
    commands.stop(NOW_NS)  # nothing was sent: nothing to stop
    commands.send(np.array([0.1, -0.2]), NOW_NS)
    commands.stop(NOW_NS + 5)
    commands.stop(NOW_NS + 6)
    commands.send(np.array([0.3, 0.3]), NOW_NS + 7)
    listener.wait(count=3)
    assert [list(m.velocities) for m in listener.messages] == [[0.1, -0.2], [0, 0], [0.3, 0.3]]
    for message, after_ns in zip(listener.messages, (0, 5, 7), strict=True):
        assert list(message.joint_names) == list(JOINTS)
        assert not message.displacements
        assert message.duration == PERIOD_NS / 1e9
        assert message.header.frame_id == 'base_link'
        assert Time.from_msg(message.header.stamp).nanoseconds == NOW_NS + after_ns


def test_groups_of_interbotix_and_their_gripper(commander, listen):
    group_kind = needed('interbotix_xs_msgs/msg/JointGroupCommand')
    single_kind = needed('interbotix_xs_msgs/msg/JointSingleCommand')
    jaw = GripperCommand('joint_single', '/robot/commands/joint_single', min_change=0.1)
    action = replace(
        ACTION,
        command_interface='joint_group',
        command_topic='/robot/commands/joint_group',
        gripper=replace(GRIPPER, command=jaw),
    )
    commands = commander(action)
    group = listen(group_kind, action.command_topic)
    single = listen(single_kind, jaw.topic)
    for i, values in enumerate([(0.1, 0.2, 0.5), (0.2, 0.3, 0.55), (0.3, 0.4, 0.9)]):
        commands.send(np.array(values), NOW_NS + i * 10**9)
    commands.stop(NOW_NS + 3 * 10**9)
    group.wait(count=3)
    single.wait(count=2)
    assert {message.name for message in group.messages} == {'arm'}
    sent = [list(message.cmd) for message in group.messages]
    assert np.allclose(sent, [[0.1, 0.2], [0.2, 0.3], [0.3, 0.4]], atol=1e-7)  # 32 bits
    assert [(m.name, round(m.cmd, 6)) for m in single.messages] == [('jaw', 0.5), ('jaw', 0.9)]


class Manager:
    """A controller_manager that knows some controllers."""

    def __init__(self, graph, namespace=''):
        self.states, self.asked = {}, 0
        self.node = graph.add(
            rclpy.create_node('controller_manager', namespace=namespace, context=graph.context)
        )
        self._service = self.node.create_service(needed(LIST), '~/list_controllers', self._answer)

    def _answer(self, _, response):
        self.asked += 1
        one = needed('controller_manager_msgs/msg/ControllerState')
        response.controller = [one(name=n, state=state) for n, state in self.states.items()]
        return response

    def leave(self):
        self.node.destroy_service(self._service)


@pytest.fixture
def often(monkeypatch):
    """Ask whether a controller is active more often than once per second."""
    needed(LIST)
    monkeypatch.setattr(active_check, '_ASK_EVERY_S', 0.05)


@pytest.fixture
def check(sender, often):
    """Ask whether a controller is active."""
    made = []

    def make(topic='/arm/commands'):
        made.append(ActiveCheck(sender, topic))
        return made[-1]

    yield make
    for one in made:
        one.destroy()
        one.destroy()
    assert not [c for c in sender.clients if 'list_controllers' in c.srv_name]


@pytest.mark.parametrize('namespace', ['', '/follower'])
def test_a_controller_that_is_not_active_is_a_problem(graph, check, namespace):
    one = check(f'{namespace}/arm/commands')
    manager = Manager(graph, namespace)

    def problem(states):
        """Return what is said two answers later: the first may have been on its way."""
        manager.states, asked = states, manager.asked
        until(lambda: manager.asked >= asked + 3, 'questions')
        return one.problem

    where = f' -c {namespace}/controller_manager' if namespace else ''
    switch = f'ros2 control switch_controllers --activate arm{where}'
    assert problem({}) is None, 'a controller of another manager'
    assert problem({'other': 'inactive'}) is None
    assert problem({'arm': 'inactive', 'other': 'active'}) == f'arm is inactive: {switch}'
    configure = f'ros2 control set_controller_state arm inactive{where}'
    assert problem({'arm': 'unconfigured'}) == f'arm is unconfigured: {configure} && {switch}'
    assert problem({'arm': 'active', 'other': 'inactive'}) is None
    assert problem({'arm': 'inactive'}) is not None
    manager.leave()
    until(lambda: one.problem is None, 'with the manager gone, nothing is known')


def test_a_manager_that_never_answers_holds_nothing_up(graph, check):
    silent = rclpy.create_node('controller_manager', context=graph.context)  # nothing spins it
    silent.create_service(needed(LIST), '~/list_controllers', lambda _, response: response)
    one, questions = check(), {None}

    def asked_again():
        questions.add(one._asking._pending)
        return len(questions) > 3

    until(asked_again, 'questions, one after the other')
    assert one.problem is None
    silent.destroy_node()


def test_a_node_drives_its_robot_while_the_controller_is_active(graph, rig, often):
    manager, controller = Manager(graph), fault.COMMANDS.split('/')[1]
    manager.states[controller] = 'inactive'
    one, problem = rig(), f'{controller} is inactive: ros2 control switch_controllers'
    one.activate()
    until(lambda: problem in one.enable().message, 'a refusal')
    manager.states[controller] = 'active'
    one.go()
    row = one.suffer(lambda: manager.states.update({controller: 'inactive'}), 'hold', problem)
    one.check_stop(row, 1.0)  # what is known of controllers is looked at twice per second
    manager.states[controller] = 'active'
    one.wait_motion()  # by itself
    one.check_limits()
