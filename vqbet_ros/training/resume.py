"""The state of an unfinished training, next to its checkpoint, without pickle.

resume.json          phase, step, the configuration, counters
resume.safetensors   weights, moving average and optimiser moments
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vqbet_ros.config import TrainConfig
from vqbet_ros.errors import BadCheckpoint, listed
from vqbet_ros.policy.checkpoint import read_json, read_tensors
from vqbet_ros.policy.policy import Policy
from vqbet_ros.structured import to_mapping
from vqbet_ros.training.phases.common import Phase


def resume_state(
    phase: Phase, step: int, policy: Policy, config: TrainConfig
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `restore_policy` and `restore_phase` need, after `step` steps of the phase."""
    tensors = {f'policy/{key}': value for key, value in policy.state_dict().items()}
    for key, value in phase.module.state_dict().items():
        tensors[f'module/{key}'] = value
    if phase.average is not None:
        tensors |= {f'average/{key}': value for key, value in phase.average.state.items()}
    for index, moments in phase.optimizer.state_dict()['state'].items():
        tensors |= {f'optimizer/{index}/{key}': value for key, value in moments.items()}
    return tensors, {
        'phase': phase.name,
        'step': step,
        'average_updates': phase.average.updates if phase.average else 0,
        'config': to_mapping(config),
    }


def read_resume(checkpoint: Path, config: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the state that `resume_state` gave.

    Raises:
        BadCheckpoint: There is none, it is broken, or it belongs to another configuration, every
            difference of which is listed.
    """
    paths = (checkpoint / 'resume.json', checkpoint / 'resume.safetensors')
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        raise BadCheckpoint(listed('nothing to resume; missing:', absent))
    meta = read_json(paths[0])
    old, new = flattened(meta['config']), flattened(to_mapping(config))
    differences = [
        f'{key}: was {old.get(key)!r}, now {new.get(key)!r}'
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differences:
        raise BadCheckpoint(
            listed(f'{checkpoint} was trained with another configuration', differences)
        )
    return read_tensors(paths[1]), meta


def restore_policy(policy: Policy, tensors: Mapping[str, Tensor]) -> None:
    """Put the saved weights into the policy."""
    policy.load_state_dict(_part(tensors, 'policy/'))


def restore_phase(phase: Phase, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Put the saved weights, moments and average into the phase."""
    phase.module.load_state_dict(_part(tensors, 'module/'))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, 'optimizer/').items():
        index, name = key.split('/')
        moments.setdefault(int(index), {})[name] = value
    state = phase.optimizer.state_dict()
    phase.optimizer.load_state_dict({**state, 'state': moments})
    # Files are row-major. The fused kernel takes moments to lie in memory as their weights do.
    for parameter, values in phase.optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter.detach()).copy_(value)
    if phase.average is not None:
        for key, value in _part(tensors, 'average/').items():
            phase.average.state[key].copy_(value)
        phase.average.updates = int(meta['average_updates'])


def step_seed(seed: int, phase: int, step: int, process: int = 0) -> int:
    """Mix the numbers that decide a step's randomness into one 63-bit seed."""
    mixed = torch.iinfo(torch.int64).max
    return (
        seed * 1_000_003 + phase * 7_919 + step * 2_654_435_761 + process * 97_003_001_729
    ) % mixed


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def flattened(mapping: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return a nested mapping as one level with dotted keys, for example 'model.vision.crop'."""
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            result |= flattened(value, f'{prefix}{key}.')
        else:
            result[f'{prefix}{key}'] = value
    return result
