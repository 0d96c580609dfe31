"""The model card of a checkpoint: what it is for, what it saw, what it measured."""

from collections.abc import Mapping
from typing import Any

from vqbet_ros.policy.policy import Policy


def model_card(policy: Policy, training: Mapping[str, Any]) -> str:
    """Write the card's Markdown from the policy and how it was trained."""
    spec, model = policy.spec, policy.config
    cameras = ', '.join(f'{c.name} {c.height}x{c.width}' for c in spec.cameras) or 'none'
    learned = ', learned relative to the measured position' if model.relative_actions else ''
    how = f'{spec.action.reference}, {spec.action.unit}{learned}'
    data = training['dataset']
    trained = f'phase {training["phase"]}, step {training["step"]}, on {training["device"]}'
    parameters = sum(p.numel() for p in policy.parameters())
    lines = [
        f'# VQ-BeT for {spec.robot}',
        '',
        '| | |',
        '|---|---|',
        f'| robot | {spec.robot}, {spec.rate_hz:g} Hz |',
        f'| cameras | {cameras} |',
        f'| state | {", ".join(spec.state_names) if model.state else "not used"} |',
        f'| action | {", ".join(spec.action_names)} ({how}) |',
        f'| history, chunk | {model.history}, {model.chunk} steps |',
        f'| goal | {f"{model.goal_steps} frames, optional" if model.goal_steps else "none"} |',
        f'| parameters | {parameters:,} |',
        f'| data | {data["source"]}: {data["episodes"]} episodes, {data["frames"]} frames |',
        f'| trained | {trained} |',
        f'| vqbet_ros, torch | {training["package_version"]}, {training["torch_version"]} |',
        '',
        '## Validation on episodes kept out',
        '',
        '| phase | figure | value |',
        '|---|---|---|',
    ]
    for phase, values in training['validation'].items():
        lines += [f'| {phase} | {name} | {value:.4g} |' for name, value in values.items()]
    lines += [
        '',
        'Run it with `ros2 launch vqbet_ros policy.launch.py checkpoint:=<this folder>`.',
    ]
    return '\n'.join(lines) + '\n'
