"""The policy between the robot's units and the model's: actions relative to what is measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from vqbet_ros.config import ModelConfig
from vqbet_ros.data.windows import windows
from vqbet_ros.policy.normalizer import Stats
from vqbet_ros.policy.policy import measured_columns, Policy
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec
from vqbet_ros.training.data import load_data

SPEC = RobotSpec.from_yaml(resource('config/robots/pusht_keypoints.yaml'))
TINY = ModelConfig(
    history=2, chunk=3, latent=6, tokenizer_hidden=8, codebook_size=4, layers=1, heads=2, width=8
)


def make(*, relative, spec=SPEC):
    torch.manual_seed(0)
    stats = {
        'state': Stats.of(512 * torch.rand(50, spec.state_dim).numpy()),
        'action': Stats.of(40 * torch.randn(50, spec.action_dim).numpy()),
    }
    return Policy(replace(TINY, relative_actions=relative), spec, stats).eval()


def some(*shape):
    return 512 * torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('relative', [False, True])
def test_chunks_come_back(relative):
    policy, actions, state = make(relative=relative), some(4, 2, 3, 2), some(4, 2, SPEC.state_dim)
    back = policy.to_robot(policy.to_model(actions, state), state)
    torch.testing.assert_close(back, actions, atol=1e-3, rtol=0)


def test_relative_chunks_do_not_know_where_they_begin():
    """Shift the measured positions and the targets alike: the model sees the same chunk."""
    policy, actions, state = make(relative=True), some(5, 3, 2), some(5, SPEC.state_dim)
    shift = torch.tensor([30.0, -70.0])
    moved = state.clone()
    moved[:, :2] += shift
    same = policy.to_model(actions + shift, moved)
    torch.testing.assert_close(same, policy.to_model(actions, state), atol=1e-4, rtol=0)
    absolute = make(relative=False)
    assert not torch.allclose(
        absolute.to_model(actions + shift, moved), absolute.to_model(actions, state)
    )


def test_positions_are_found_by_name_not_by_place():
    joints = replace(SPEC.state[0], names=('y', 'x'))
    turned = replace(SPEC, state=(*SPEC.state[1:], joints))
    assert [turned.state_names[i] for i in measured_columns(turned)] == [
        'x/position',
        'y/position',
    ]


def test_a_chunk_begins_at_the_newest_measured_position():
    """With a decoder and heads that answer zero, the policy says: stay where you are."""
    policy, state = make(relative=True), some(4, 2, SPEC.state_dim)
    zero = policy.normalize_action(torch.zeros(2))
    with torch.no_grad():
        for module in (policy.vqbet.tokenizer.decoder, policy.vqbet.offset_head):
            for parameter in module.parameters():
                parameter.zero_()
        *_, last = policy.vqbet.tokenizer.decoder
        last.bias.copy_(zero.repeat(TINY.chunk))
        actions = policy.act(None, state).actions  # (4, W, 2)
    expected = state[:, -1:, :2].expand_as(actions)
    torch.testing.assert_close(actions, expected, atol=1e-3, rtol=0)


def test_statistics_are_those_of_relative_chunks(tmp_path, make_dataset, tiny_config):
    dataset = make_dataset(tmp_path / 'dataset', camera=False)
    config = replace(tiny_config, model=replace(tiny_config.model, relative_actions=True))
    data = load_data(dataset, config, torch.device('cpu'))
    found = []
    starts = [0, *dataset.episode_ends[:-1]]
    for start, end in zip(starts, dataset.episode_ends, strict=True):
        if start not in data.train.start:
            continue
        for at in range(start, end - config.model.chunk + 1):
            found += [
                dataset.action[at + i] - dataset.state[at] for i in range(config.model.chunk)
            ]
    expected = Stats.of(np.array(found))
    for name in ('min', 'max', 'mean', 'std'):
        np.testing.assert_allclose(
            getattr(data.stats['action'], name), getattr(expected, name), rtol=1e-5, atol=1e-4
        )
    rows = windows(data.train, 1, config.model.chunk)
    whole = torch.from_numpy(rows.mask[:, 0].all(axis=1))
    policy = Policy(config.model, dataset.spec, data.stats)
    chunks = policy.to_model(data.action[rows.actions[:, 0]], data.state[data.train.at])[whole]
    assert float(chunks.min()) == pytest.approx(-1.0, abs=1e-4)
    assert float(chunks.max()) == pytest.approx(1.0, abs=1e-4)


def test_what_relative_actions_need():
    delta = replace(SPEC, action=replace(SPEC.action, reference='delta'))
    with pytest.raises(
        ValueError, match='needs absolute actions in the spec, got reference delta'
    ):
        make(relative=True, spec=delta)
    blind = replace(SPEC, state=SPEC.state[1:])
    with pytest.raises(
        ValueError, match='needs the state to hold x/position, y/position; it holds'
    ):
        make(relative=True, spec=blind)
    with pytest.raises(ValueError, match='relative_actions: true needs state: true'):
        replace(TINY, relative_actions=True, state=False)
