"""From the policy node's parameters to a loaded policy, its robot and its goal."""

import dataclasses
import os
from typing import Any

from vqbet_ros.data.goals import read_goal
from vqbet_ros.errors import ConfigError
from vqbet_ros.spec import RobotSpec


def load_engine(checkpoint: str, device: str, threads: int | None) -> Any:
    """Load a checkpoint.

    Args:
        checkpoint: Its directory.
        device: 'auto', 'cpu' or 'cuda'.
        threads: CPU threads; None for all cores but one.

    Raises:
        ConfigError: No checkpoint was named, or CUDA was asked for and is absent.
        BadCheckpoint: The checkpoint cannot be loaded.
    """
    if not checkpoint:
        raise ConfigError("parameter 'checkpoint': got '', expected a checkpoint directory")
    # torch takes seconds to import: a node that waits to be configured does without it.
    import torch
    from vqbet_ros.policy.engine import Engine

    has_cuda = torch.cuda.is_available()
    if device == 'cuda' and not has_cuda:
        raise ConfigError(
            "parameter 'device': got 'cuda', but torch sees no CUDA GPU here "
            f'(torch {torch.__version__}); use cpu or auto, or check the driver with nvidia-smi'
        )
    chosen = 'cuda' if device == 'cuda' or (device == 'auto' and has_cuda) else 'cpu'
    # A core is left to the threads that carry messages and commands: on 2 cores that takes 50 ms
    # off the slowest plans, and nothing off the others.
    cores = len(os.sched_getaffinity(0))
    return Engine.load(checkpoint, device=chosen, threads=threads or max(1, cores - 1))


def robot_spec(checkpoint: RobotSpec, path: str, *, compressed: bool) -> RobotSpec:
    """Decide the robot that is run: topics, rates and limits as at the robot.

    Args:
        checkpoint: The spec that the policy was trained with.
        path: The robot's own spec; empty takes the checkpoint's.
        compressed: Take each raw camera's <topic>/compressed.

    Raises:
        ConfigError: The robot's spec cannot be read.
        SpecMismatch: It differs from the checkpoint's in what the policy sees or does.
    """
    spec = checkpoint
    if path:
        spec = RobotSpec.from_yaml(path)
        checkpoint.require_equal(spec)
    if not compressed:
        return spec
    return dataclasses.replace(spec, cameras=tuple(c.compressed for c in spec.cameras))


def apply_goal(engine: Any, goal: str) -> None:
    """Give the policy a goal.

    Args:
        engine: The policy.
        goal: PATH[:frame], or empty for none.

    Raises:
        ConfigError: The policy knows no goals, or the goal does not fit it.
        BadDataset: See vqbet_ros.data.goals.read_goal.
        SpecMismatch: See there.
    """
    if not goal:
        engine.set_goal(None)
        return
    if engine.goal_steps == 0:
        raise ConfigError(
            f"parameter 'goal': got '{goal}', but this checkpoint was trained without goals "
            '(goal_steps: 0); leave it empty, or train with goal_steps of 1 or more'
        )
    data = read_goal(goal, engine.spec, engine.goal_steps)
    engine.set_goal(data.images, data.state)
