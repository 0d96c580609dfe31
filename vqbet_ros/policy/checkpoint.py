"""Checkpoints: a directory that says all that decides the policy's output. No pickle.

config.json         format, version, the model's configuration, how it was trained
spec.yaml           the robot that it was trained for
stats.json          the normalisation's statistics
model.safetensors   weights
README.md           the model card
"""

from collections.abc import Mapping
import ctypes
from dataclasses import dataclass, field
import errno
import json
import os
from pathlib import Path
import shutil
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
import torch
from torch import Tensor
from vqbet_ros.config import ModelConfig
from vqbet_ros.errors import BadCheckpoint, ConfigError, listed, VqbetError
from vqbet_ros.policy.normalizer import stats_from_mapping
from vqbet_ros.policy.policy import Policy
from vqbet_ros.spec import RobotSpec
from vqbet_ros.structured import from_mapping, to_mapping

FORMAT, VERSION = 'vqbet_ros', 1
FILES = ('config.json', 'spec.yaml', 'stats.json', 'model.safetensors')


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the policy in evaluation mode, and what was written beside it."""

    policy: Policy
    training: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(
    directory: Path,
    policy: Policy,
    *,
    card: str,
    training: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
    half: bool = False,
    extra_tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    extra_json: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a checkpoint; it appears whole or not at all.

    Args:
        directory: Where; replaced if it is there already.
        policy: Gives configuration, spec, statistics and, unless `weights` is given, weights.
        card: Text of README.md.
        training: How it was trained; JSON values.
        weights: For example the moving average of the policy's weights.
        half: Store weights in float16, which halves the file; tensors with numbers beyond its
            range stay as they are.
        extra_tensors: More safetensors files, by name without suffix; for resuming.
        extra_json: More JSON files, by name without suffix.

    Raises:
        VqbetError: The disk is full or not writable; an older checkpoint stays whole.
    """
    directory = Path(directory).resolve()
    partial = directory.with_name(f'.{directory.name}.partial')
    state = dict(policy.state_dict() if weights is None else weights)
    if half:
        state = {k: _half(v) if v.is_floating_point() else v for k, v in state.items()}
    config = {
        'format': FORMAT,
        'version': VERSION,
        'model': to_mapping(policy.config),
        'training': dict(training),
    }
    stats = {name: item.to_mapping() for name, item in policy.stats.items()}
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial / 'config.json', json.dumps(config, indent=2) + '\n')
        _write(partial / 'spec.yaml', policy.spec.to_yaml())
        _write(partial / 'stats.json', json.dumps(stats, indent=2) + '\n')
        _write(partial / 'README.md', card)
        for name, mapping in (extra_json or {}).items():
            _write(partial / f'{name}.json', json.dumps(mapping, indent=2) + '\n')
        for name, tensors in {'model': state, **(extra_tensors or {})}.items():
            _save_tensors(partial / f'{name}.safetensors', tensors)
        replace_directory(partial, directory)
    except (OSError, SafetensorError) as error:
        full = getattr(error, 'errno', None) == errno.ENOSPC or 'No space' in str(error)
        reason = 'the disk is full' if full else str(error)
        raise VqbetError(
            f'could not save the checkpoint {directory}: {reason}\n'
            'What was there before is untouched; free some room and go on with --resume.'
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_checkpoint(directory: str | Path, device: str = 'cpu') -> Checkpoint:
    """Load a checkpoint for use.

    Args:
        directory: A checkpoint directory.
        device: torch device.

    Raises:
        BadCheckpoint: Files are missing, cut short, foreign, of another version, or the weights do
            not fit the configuration; every problem is listed.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise BadCheckpoint(f'no such checkpoint directory: {directory}')
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise BadCheckpoint(
            listed(f'{directory} is no whole checkpoint; missing:', missing)
            + f'\nexpected {", ".join(FILES)}, as `vqbet train` writes them'
        )
    config = read_json(directory / 'config.json')
    if config.get('format') != FORMAT:
        raise BadCheckpoint(
            f'{directory}/config.json: got format {config.get("format")!r}, expected {FORMAT!r}: '
            'this is not a checkpoint of this package'
        )
    if config.get('version') != VERSION:
        raise BadCheckpoint(
            f'{directory}/config.json: version {config.get("version")!r}, this package reads '
            f'{VERSION}: update the package or train again'
        )
    try:
        model = from_mapping(ModelConfig, config.get('model'), f'{directory}/config.json')
        spec = RobotSpec.from_yaml(directory / 'spec.yaml')
        dims = {'action': spec.action_dim}
        if model.state and spec.state_dim:
            dims['state'] = spec.state_dim
        stats = stats_from_mapping(
            read_json(directory / 'stats.json'), f'{directory}/stats.json', dims
        )
        policy = Policy(model, spec, stats, load_vision_weights=False)
    except (ConfigError, ValueError) as error:
        raise BadCheckpoint(f'{directory}: {error}') from error
    load_weights(policy, read_tensors(directory / 'model.safetensors'), directory)
    training = config.get('training')
    return Checkpoint(policy.to(device).eval(), training if isinstance(training, dict) else {})


def load_weights(policy: Policy, state: Mapping[str, Tensor], where: Path) -> None:
    """Put weights into a policy.

    Raises:
        BadCheckpoint: Lists missing, unexpected, misshapen and non-finite tensors.
    """
    wanted = policy.state_dict()
    problems = [f'missing {key}' for key in wanted.keys() - state.keys()]
    problems += [f'unexpected {key}' for key in state.keys() - wanted.keys()]
    for key in sorted(wanted.keys() & state.keys()):
        got, expected = tuple(state[key].shape), tuple(wanted[key].shape)
        if got != expected:
            problems.append(f'{key}: shape {got}, expected {expected}')
        elif state[key].is_floating_point() and not torch.isfinite(state[key]).all():
            problems.append(f'{key}: holds numbers that are not finite')
    if problems:
        shown = sorted(problems)[:10] + ([f'… {len(problems)} in all'] if problems[10:] else [])
        raise BadCheckpoint(listed(f'{where}: the weights do not fit the configuration', shown))
    policy.load_state_dict(dict(state))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; BadCheckpoint if it is none."""
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f'{path} is unreadable: {error}') from error
    if not isinstance(value, dict):
        raise BadCheckpoint(f'{path}: expected a JSON object, got {type(value).__name__}')
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; BadCheckpoint if it is cut short or none."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadCheckpoint(f'{path} is truncated or no safetensors file: {error}') from error


def replace_directory(new: Path, target: Path) -> None:
    """Put a finished directory in place of another, which is removed.

    A crash leaves the old or the new one. Where the file system cannot swap two directories in one
    step, there is a moment at which the old one lies beside it as `.<name>.old`.
    """
    if target.exists() and _exchange(new, target):
        shutil.rmtree(new, ignore_errors=True)
        return
    old = target.with_name(f'.{target.name}.old')
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths in one step; False where that cannot be done (it needs Linux)."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h and linux/fs.h
    return bool(renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0)


def _half(tensor: Tensor) -> Tensor:
    half = tensor.half()
    return half if torch.isfinite(half).all() else tensor


def _write(path: Path, text: str) -> None:
    with path.open('w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Clones, since safetensors refuses tensors that share memory.
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, path)
    with path.open('rb+') as file:
        os.fsync(file.fileno())
