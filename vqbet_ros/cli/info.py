"""`vqbet info`: says what a bag, a dataset, a checkpoint or a spec holds."""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

from vqbet_ros.cli.figures import write_json

if TYPE_CHECKING:
    from vqbet_ros.spec import RobotSpec


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet`."""
    parser = subparsers.add_parser(
        'info',
        help='say what a bag, dataset, checkpoint or spec holds',
        description='Say what a bag, a dataset, a checkpoint or a spec holds. Durations are in s, '
        'rates in Hz, sizes in MB.',
    )
    parser.add_argument(
        'path', metavar='PATH', type=Path, help='bag, dataset, checkpoint directory or spec file'
    )
    parser.add_argument('--json', metavar='FILE', type=Path, help='write it here too')


def run(args: argparse.Namespace) -> int:
    """Describe what is there; returns the exit status."""
    found = describe(args.path)
    for line in lines(found):
        print(line)
    write_json(found, args.json)
    return 0


def describe(path: Path) -> dict[str, Any]:
    """Return what is known of a bag, dataset, checkpoint or spec; `kind` says which it is.

    Raises:
        VqbetError: It is none of them, or a broken one.
    """
    from vqbet_ros.data.bag_opening import METADATA, STORAGES
    from vqbet_ros.data.layout import INDEX
    from vqbet_ros.errors import ConfigError

    if not path.exists():
        raise ConfigError(f'no such file or directory: {path}')
    if path.is_file() and path.suffix in ('.yaml', '.yml') and path.name != METADATA:
        return _spec(path)
    if path.is_file() and path.name in (METADATA, INDEX, 'config.json'):
        return describe(path.parent)
    if path.is_file() and path.suffix in STORAGES:
        return _bag(path)
    if path.is_dir():
        if (path / INDEX).exists():
            return _dataset(path)
        if (path / 'model.safetensors').exists() or (path / 'stats.json').exists():
            return _checkpoint(path)
        inside = list(path.iterdir())
        if any(file.name == METADATA or file.suffix in STORAGES for file in inside):
            return _bag(path)
        if (path / 'checkpoints').is_dir():
            raise ConfigError(
                f'{path} is a run; name one of its checkpoints: vqbet info {path}/checkpoints/last'
            )
    raise ConfigError(
        f'{path} is none of what is known: a bag (directory with {METADATA}, or an .mcap or .db3 '
        f'file), a dataset (directory with {INDEX}), a checkpoint (directory with config.json and '
        'model.safetensors), a spec (.yaml file)'
    )


def lines(found: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """Lay a description out as text."""
    width = max((len(str(key)) for key in found), default=0)
    for key, value in found.items():
        label = ' ' * indent + f'{key:<{width}}'
        if isinstance(value, Mapping):
            yield label.rstrip()
            yield from lines(value, indent + 2)
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield label.rstrip()
            for item in value:
                yield ' ' * (indent + 2) + ', '.join(f'{k} {v}' for k, v in item.items())
        else:
            shown = ', '.join(map(str, value)) if isinstance(value, list) else value
            yield f'{label}  {"none" if shown in (None, "") else shown}'


def _bag(path: Path) -> dict[str, Any]:
    from vqbet_ros.data.bag import Bag

    bag = Bag.open(path)
    duration_s = (bag.end_ns - bag.start_ns) / 1e9
    audit = bag.custom_data.get('vqbet.audit')
    try:
        verdict = json.loads(audit).get('verdict') if audit else None
    except (ValueError, AttributeError):
        verdict = 'unreadable'
    own = {
        key.removeprefix('vqbet.'): text
        for key, text in bag.custom_data.items()
        if key not in ('vqbet.spec', 'vqbet.audit', 'vqbet.versions')
    }
    return {
        'kind': 'bag',
        'path': str(path),
        'size_mb': _size_mb(*bag.files()),
        'start_ns': bag.start_ns,
        'duration_s': round(duration_s, 3),
        'messages': sum(topic.count for topic in bag.topics.values()),
        'topics': {
            name: f'{topic.type}, {topic.count} messages, {_rate(topic.count, duration_s)} Hz'
            for name, topic in bag.topics.items()
        },
        'verdict': verdict,
        'custom_data': own,
        'spec': _short(bag.spec) if bag.spec else None,
    }


def _dataset(path: Path) -> dict[str, Any]:
    import numpy as np
    from vqbet_ros.data.manifest import Manifest
    from vqbet_ros.data.store import Dataset
    from vqbet_ros.structured import to_mapping

    dataset = Dataset.open_unfilled(path)
    manifest = Manifest.read(path, dataset.episode_ends.tolist())
    lengths = np.diff(dataset.episode_ends, prepend=0).tolist()
    return {
        'kind': 'dataset',
        'path': str(path),
        'size_mb': _size_mb(*path.glob('*.npy')),
        'source': dataset.source,
        'episodes': dataset.num_episodes,
        'frames': dataset.num_frames,
        'duration_s': round(dataset.num_frames / dataset.spec.rate_hz, 3),
        'steps_of_an_episode': f'{min(lengths)} to {max(lengths)}' if lengths else None,
        'outcomes': dict(Counter(dataset.outcomes)),
        'targets': list(dataset.target_names),
        'prepared': None if manifest is None else to_mapping(manifest.parameters),
        'bags': None
        if manifest is None
        else [
            {
                'bag': bag.name,
                'episodes': len(bag.episodes),
                'frames': sum(episode.frames for episode in bag.episodes),
                'outcome': bag.outcome,
                'verdict': bag.verdict or 'not audited',
                'problems': len(bag.problems),
            }
            for bag in manifest.bags
        ],
        'spec': _short(dataset.spec),
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    from vqbet_ros.policy.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    model, training = checkpoint.policy.config, checkpoint.training
    return {
        'kind': 'checkpoint',
        'path': str(path),
        'size_mb': _size_mb(path / 'model.safetensors'),
        'parameters': sum(p.numel() for p in checkpoint.policy.parameters()),
        'history': model.history,
        'chunk': model.chunk,
        'goal_steps': model.goal_steps,
        'temperature': model.temperature,
        'phase': training.get('phase'),
        'step': training.get('step'),
        'dataset': training.get('dataset'),
        'validation': training.get('validation'),
        'spec': _short(checkpoint.policy.spec),
    }


def _spec(path: Path) -> dict[str, Any]:
    from vqbet_ros.spec import RobotSpec

    return {'kind': 'spec', 'path': str(path), **_short(RobotSpec.from_yaml(path))}


def _short(spec: 'RobotSpec') -> dict[str, Any]:
    """Return what a person wants to know of a spec."""
    action = spec.action
    return {
        'robot': spec.robot,
        'rate_hz': spec.rate_hz,
        'cameras': {
            c.name: f'{c.height}x{c.width} px, {c.rate_hz:g} Hz, {c.topic}' for c in spec.cameras
        },
        'state': {
            part.topic: f'{", ".join(part.channels)}; {part.unit}, {part.rate_hz:g} Hz'
            for part in spec.state
        },
        'action': {
            'channels': list(spec.action_names),
            'kind': f'{action.kind}, {action.reference}, {action.unit}',
            'read_from': [source.topic for source in action.sources] or ['the next state'],
            'sent_to': action.command_topic,
        },
    }


def _rate(count: int, duration_s: float) -> str:
    return f'{(count - 1) / duration_s:.1f}' if duration_s > 0 and count > 1 else '-'


def _size_mb(*files: Path) -> float:
    return round(sum(file.stat().st_size for file in files) / 1e6, 3)
