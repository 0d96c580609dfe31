"""The nodes as programs: they start by themselves, do their work, and end on a signal."""

import signal

import pytest

pytest.importorskip('rclpy', reason="needs rclpy: extra 'ros' or a sourced ROS 2")
pytest.importorskip('gym_pusht', reason="needs gym-pusht: extra 'sim'")

from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

TARGET = [100.0, 400.0]


def end(process, number):
    process.send_signal(number)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 0, text
    assert 'Traceback' not in text, text


@pytest.mark.slow
@pytest.mark.parametrize(
    ('robot', 'number'), [('pusht', signal.SIGINT), ('pusht_keypoints', signal.SIGTERM)]
)
def test_policy_drives_the_simulated_robot_and_both_end_on_a_signal(
    graph, start_process, make_checkpoint, robot, number
):
    checkpoint = make_checkpoint(TARGET, robot)
    simulator = start_process('sim_node', spec=checkpoint / 'spec.yaml')
    policy = start_process(
        'policy_node',
        checkpoint=checkpoint,
        autostart='true',
        enable='true',
        control_rate_hz=50.0,
    )
    commands = graph.listen(Float64MultiArray, '/forward_position_controller/commands')
    joints = graph.listen(JointState, '/joint_states')
    commands.wait(timeout_s=60)
    joints.wait(
        lambda m: max(abs(m.position[i] - TARGET[i]) for i in range(2)) < 1, what='at the target'
    )
    assert list(commands.messages[-1].data) == pytest.approx(TARGET)
    end(policy, number)  # in the middle of commanding
    commands.clear()
    joints.clear()
    joints.wait(count=25)
    assert len(commands) == 0
    end(simulator, number)


@pytest.mark.parametrize(
    ('name', 'parameters', 'message'),
    [
        ('sim_node', {'spec': '/nowhere.yaml'}, 'no such file: /nowhere.yaml'),
        ('policy_node', {'device': 'tpu'}, "got 'tpu', expected one of auto, cpu, cuda"),
        ('policy_node', {'autostart': 'true'}, 'expected a checkpoint directory'),
        (
            'policy_node',
            {'autostart': 'true', 'checkpoint': '/nowhere'},
            'no such checkpoint directory: /nowhere',
        ),
    ],
)
def test_a_mistake_is_one_clear_message_and_status_1(start_process, name, parameters, message):
    process = start_process(name, **parameters)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1, text
    assert message in text
    assert 'Traceback' not in text


def test_cuda_that_is_absent_is_one_clear_message(start_process, make_checkpoint):
    torch = pytest.importorskip('torch')
    if torch.cuda.is_available():
        pytest.skip('this machine has a CUDA GPU')
    checkpoint = make_checkpoint(TARGET)
    process = start_process('policy_node', autostart='true', checkpoint=checkpoint, device='cuda')
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 1, text
    assert "device: got 'cuda', but torch sees no CUDA GPU here" in text
    assert 'Traceback' not in text
