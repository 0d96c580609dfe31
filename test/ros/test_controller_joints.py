"""Which joints a controller commands: it is asked, and nothing is sent before it has answered."""

import numpy as np
import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")

from command_parts import ACTION, NOW_NS, TRAJECTORY, until
import rclpy
from rclpy.parameter import Parameter
from std_msgs.msg import Float64MultiArray
from vqbet_ros.ros.commands import joints_check

pytestmark = pytest.mark.ros
pytest_plugins = ['command_rig']


def controller(graph, name, **parameters):
    """A node that answers for its parameters as a controller does."""
    node = rclpy.create_node(name, context=graph.context)
    for key, value in parameters.items():
        node.declare_parameter(key, value)
    return graph.add(node)


def test_an_order_that_differs_from_the_controllers_is_found(graph, commander):
    commands = commander(ACTION)
    assert commands.problem is None, 'nobody is there yet'
    controller(graph, 'arm', joints=['b', 'a'])
    until(lambda: 'order must be the same' in str(commands.problem), 'the answer')
    assert "/arm commands ['b', 'a'], the spec ['a', 'b']" in str(commands.problem)


def test_until_a_controller_has_said_its_joints_nothing_may_be_sent(graph, commander):
    commands = commander(ACTION)
    arm = rclpy.create_node('arm', context=graph.context)  # nothing spins it yet
    arm.declare_parameter('joints', ['a', 'b'])
    arm.create_subscription(Float64MultiArray, '/arm/commands', lambda _: None, 1)
    until(lambda: commands.problem is not None, 'the controller to be seen')
    assert commands.problem == '/arm has not yet said which joints it commands'
    graph.add(arm)
    until(lambda: commands._arm._check.answered, 'the answer of the controller')
    assert commands.problem is None


def test_who_listens_and_has_no_parameters_is_believed_after_a_while(
    graph, commander, monkeypatch
):
    monkeypatch.setattr(joints_check, '_ASK_EVERY_S', 0.05)
    arm = rclpy.create_node('arm', context=graph.context, start_parameter_services=False)
    arm.create_subscription(Float64MultiArray, '/arm/commands', lambda _: None, 1)
    graph.add(arm)
    commands = commander(ACTION)
    problem = '/arm has not yet said which joints it commands'
    until(lambda: commands.problem == problem, 'the controller to be seen')
    until(lambda: commands.problem is None, 'trust')


def test_a_controller_is_asked_again_and_again(graph, commander):
    arm = controller(graph, 'arm', joints=['a', 'b'])
    commands = commander(ACTION)
    check = commands._arm._check
    until(lambda: check.answered, 'the answer of the controller')
    arm.set_parameters([Parameter('joints', value=['b', 'a'])])
    until(lambda: commands.problem is not None, 'the other order')
    graph.remove(arm)
    until(lambda: not check.answered and commands.problem is None, 'its end')
    controller(graph, 'arm', joints=['a', 'c'])
    until(lambda: "/arm commands ['a', 'c']" in str(commands.problem), 'the next one')


def test_the_same_order_is_no_problem(graph, commander, listen):
    controller(graph, 'arm', joints=['a', 'b'])
    commands = commander(ACTION)
    until(lambda: commands._arm._check.answered, 'the answer of the controller')
    assert commands.problem is None
    listener = listen(Float64MultiArray, '/arm/commands')
    commands.send(np.array([0.25, -0.5]), NOW_NS)
    listener.wait()


@pytest.mark.parametrize('partial', [False, True])
def test_a_trajectory_controller_may_have_another_order_but_not_other_joints(
    graph, commander, partial
):
    controller(graph, 'arm', joints=['c', 'b', 'a'], allow_partial_joints_goal=partial)
    commands = commander(TRAJECTORY)
    until(lambda: commands._arm._check.answered, 'the answer of the controller')
    assert (commands.problem is None) == partial
    assert not commands._arm._check.jerky, 'it has no such parameter'


@pytest.mark.parametrize('name', ['interpolate_from_desired_state', 'open_loop_control'])
@pytest.mark.parametrize('smooth', [False, True])
def test_whether_a_controller_begins_where_joints_are_measured(graph, commander, name, smooth):
    controller(graph, 'arm', joints=['a', 'b'], allow_partial_joints_goal=False, **{name: smooth})
    commands = commander(TRAJECTORY)
    until(lambda: commands._arm._check.answered, 'the answer of the controller')
    assert commands._arm._check.jerky is not smooth
    assert commands.problem is None


def test_a_controller_without_the_parameter_is_believed(graph, commander):
    controller(graph, 'arm')
    commands = commander(ACTION)
    check = commands._arm._check
    until(lambda: check._said[2], 'the answer of the controller')
    assert check._said[2].startswith('/arm has no list of joints to compare with the spec')
    assert commands.problem is None
