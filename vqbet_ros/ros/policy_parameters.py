"""The parameters of `policy_node`."""

from dataclasses import dataclass

from vqbet_ros.ros.parameters import parameter


@dataclass(frozen=True)
class PolicyParameters:
    """The parameters of `policy_node`."""

    checkpoint: str = parameter('', 'Checkpoint directory; needed.')
    spec: str = parameter('', "The robot's spec (YAML file); empty: the checkpoint's own.")
    goal: str = parameter(
        '',
        'Goal: PATH[:episode/E][:FRAME] of a dataset or bag (without FRAME its last), or an image '
        'file; empty: no goal.',
        read_only=False,
    )
    device: str = parameter(
        'auto', "'auto' takes a CUDA GPU if there is one.", choices=('auto', 'cpu', 'cuda')
    )
    threads: int = parameter(
        0, 'CPU threads of the inference; 0: all cores but one.', bounds=(0, 256)
    )
    control_rate_hz: float = parameter(
        0.0,
        "Rate of the commands in Hz; 0: the spec's runtime.control_rate_hz, or its rate.",
        bounds=(0.0, 1000.0),
    )
    thread_priority: int = parameter(
        50,
        'Real-time priority (SCHED_FIFO) of the thread that commands, if the system allows it; '
        'those of executor and inference are one and two less. 0: ordinary threads.',
        bounds=(0, 98),
    )
    plan_every: int = parameter(
        0,
        'Steps of a chunk that are executed before the next is planned; 0: all but the last.',
        bounds=(0, 1000),
    )
    speed_scale: float = parameter(
        1.0,
        'Share of the largest velocities that is used.',
        bounds=(0.0, 1.0),
        read_only=False,
    )
    shadow: bool = parameter(False, 'Send commands to ~/shadow only: the robot stays where it is.')
    compressed: bool = parameter(
        False, "Subscribe to each raw camera's <topic>/compressed instead."
    )
    autostart: bool = parameter(
        False, 'Configure and activate at the start (for a node started without launch).'
    )
    enable: bool = parameter(
        False, 'Let commands out as soon as the node is active and all streams are there.'
    )
