"""From the policy node's parameters to a loaded policy, its robot and its goal."""

from collections.abc import Callable
import dataclasses
import os
from typing import Any

from vqbet_ros.data.goals import GoalData, read_goal
from vqbet_ros.errors import ConfigError
from vqbet_ros.policy.remote import EngineProcess
from vqbet_ros.spec import RobotSpec


def load_engine(checkpoint: str, device: str, threads: int | None) -> EngineProcess:
    """Load a checkpoint, in a process of its own.

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
    # A core is left to the threads that carry messages and commands: on 2 cores that takes 50 ms
    # off the slowest plans, and nothing off the others.
    cores = len(os.sched_getaffinity(0))
    return EngineProcess(checkpoint, device, threads or max(1, cores - 1))


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


def apply_goal(engine: Any, goal: str, spec: RobotSpec | None = None) -> None:
    """Give the policy a goal.

    Args:
        engine: The policy.
        goal: PATH[:episode/E][:FRAME], or empty for none.
        spec: The robot at hand; None for the policy's own.

    Raises:
        VqbetError: See read_goal_for; or the goal does not fit the policy.
    """
    data = read_goal_for(engine, goal, spec or engine.spec)
    if data is None:
        engine.set_goal(None)
    else:
        engine.set_goal(data.images, data.state)


def read_goal_for(
    engine: Any, goal: str, spec: RobotSpec, cancelled: Callable[[], bool] = lambda: False
) -> GoalData | None:
    """Read a goal for a policy, which stays as it is.

    Args:
        engine: The policy.
        goal: PATH[:episode/E][:FRAME], or empty for none.
        spec: The robot at hand.
        cancelled: See vqbet_ros.data.goals.read_goal.

    Raises:
        ConfigError: The policy knows no goals, or there is no such goal.
        BadDataset: See read_goal.
        BadBag: See there.
        SpecMismatch: See there.
    """
    if not goal:
        return None
    require_goals(engine.goal_steps, f"parameter 'goal': got '{goal}'")
    return read_goal(goal, spec, engine.goal_steps, cancelled)


def require_goals(steps: int, what: str) -> None:
    """Refuse a goal for a policy that knows none.

    Args:
        steps: Goal frames of the policy.
        what: What was given to it.

    Raises:
        ConfigError: It takes no goals.
    """
    if steps == 0:
        raise ConfigError(
            f'{what}, but this checkpoint was trained without goals (goal_steps: 0); '
            'give none, or train with goal_steps of 1 or more'
        )
