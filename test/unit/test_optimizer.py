"""The schedule, AdamW's groups, the moving average."""

import copy
import math

import pytest
import torch
from torch import nn
from vqbet_ros.training.optimizer import (
    adamw,
    learning_rate_factor,
    MovingAverage,
    set_learning_rate,
)


@pytest.mark.parametrize(
    ('steps', 'warmup'), [(2, 0), (2, 5), (3, 1), (10, 0), (100, 10), (7, 99)]
)
def test_the_schedule_warms_up_and_ends_at_exactly_zero(steps, warmup):
    factors = [learning_rate_factor(step, steps, warmup) for step in range(steps)]
    assert factors[-1] == 0.0
    assert all(0.0 < factor <= 1.0 for factor in factors[:-1])
    top = factors.index(max(factors))
    assert top <= steps // 2
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_the_schedule_in_numbers():
    factors = [learning_rate_factor(step, 105, 4) for step in range(105)]
    assert factors[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert factors[54] == pytest.approx(0.5)
    assert factors[29] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3), nn.LayerNorm(3))


def test_weights_decay_and_nothing_else_does():
    net, other = network(), nn.Linear(3, 2)
    net[0].requires_grad_(False)
    optimizer = adamw([(net, 1.0), (other, 0.1)], lr=0.5, weight_decay=0.01)
    decayed = {id(p) for g in optimizer.param_groups if g['weight_decay'] for p in g['params']}
    assert decayed == {id(net[2].weight), id(other.weight)}
    every = [p for g in optimizer.param_groups for p in g['params']]
    assert len(every) == len({id(p) for p in every}) == 6
    assert {g['base_lr'] for g in optimizer.param_groups} == {0.5, 0.05}


def test_base_rates_and_moments_survive_a_reload():
    def build():
        net = network()
        return net, adamw([(net[2], 1.0), (net[3], 0.1)], lr=0.5, weight_decay=0.01)

    net, optimizer = build()
    for factor in (0.3, 0.7):
        set_learning_rate(optimizer, factor)
        net(torch.ones(4, 1, 2, 2)).square().sum().backward()
        optimizer.step()
    again, restored = build()
    again.load_state_dict(net.state_dict())
    # As `resume` does: groups as the configuration builds them, moments as they were saved.
    moments = copy.deepcopy(optimizer.state_dict()['state'])
    restored.load_state_dict({**restored.state_dict(), 'state': moments})
    assert [g['base_lr'] for g in restored.param_groups] == [0.5, 0.5, 0.05]
    for one, its in ((net, optimizer), (again, restored)):
        its.zero_grad()
        set_learning_rate(its, 0.9)
        one(torch.ones(4, 1, 2, 2)).square().sum().backward()
        its.step()
    for key, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_the_moving_average_follows_its_recurrence():
    net = nn.BatchNorm1d(2)
    average = MovingAverage(net, decay=0.5)
    expected = net.weight.detach().clone()
    for update in range(1, 20):
        with torch.no_grad():
            net.weight.copy_(torch.tensor([update, -update]))
            net.get_buffer('num_batches_tracked').add_(1)
        average.update(net)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * net.weight.detach()
        assert torch.allclose(average.state['weight'], expected)
    assert average.updates == 19
    assert int(average.state['num_batches_tracked']) == 19
    assert average.state['weight'].data_ptr() != net.weight.data_ptr()
