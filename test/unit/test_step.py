"""A step's figures stay on the device; pictures are the same bits whatever way they take."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from vqbet_ros.config import TrainConfig
from vqbet_ros.training.optimizer import adamw
from vqbet_ros.training.pictures import AHEAD, Pictures
from vqbet_ros.training.step import Stepper

CPU = torch.device('cpu')


class Policy(nn.Linear):
    """One weight, which every phase learns."""

    device = CPU
    encoder = None

    def __init__(self):
        super().__init__(1, 1, bias=False)
        nn.init.ones_(self.weight)


class Descent:
    """A phase whose loss is the weight, times what the test says."""

    name, steps, warmup, clip, average, shared = 'descent', 8, 0, 0.5, None, True

    def __init__(self, policy, factors):
        self.module, self.factors = policy, factors
        self.optimizer = adamw([(policy, 1.0)], lr=0.1, weight_decay=0.0)

    def loss(self, step):
        loss = self.module.weight.sum() * self.factors[step]
        return loss, {'loss': loss.detach(), 'step': float(step)}


def stepper_of(factors):
    policy = Policy()
    return Stepper(policy, Descent(policy, factors), TrainConfig(), 1)  # type: ignore[arg-type]


def test_figures_are_means_since_the_last_time():
    stepper = stepper_of([1.0] * 8)
    weights = []
    for step in range(3):
        weights.append(float(stepper.policy.weight.detach()))
        stepper.step(step)
    assert stepper.counted == 3
    assert stepper.clear() == {'loss': pytest.approx(np.mean(weights)), 'step': 1.0}
    assert stepper.sums == {}
    stepper.step(3)
    assert stepper.clear()['step'] == 3.0


def test_sums_go_on_where_they_were_saved():
    whole, first, second = (stepper_of([1.0] * 8) for _ in range(3))
    for step in range(4):
        whole.step(step)
    for step in range(2):
        first.step(step)
    second.policy.load_state_dict(first.policy.state_dict())
    second.phase.optimizer.load_state_dict(first.phase.optimizer.state_dict())
    second.restore(first.sums, first.counted)
    for step in range(2, 4):
        second.step(step)
    assert second.clear() == whole.clear()


def test_gradients_are_clipped_before_the_step():
    stepper = stepper_of([100.0] * 8)
    stepper.step(0)
    assert float(stepper.policy.weight.grad) == pytest.approx(0.5)


def test_the_first_loss_that_is_not_finite_is_remembered():
    stepper = stepper_of([1.0, 1.0, math.inf, 1.0, math.nan, 1.0, 1.0, 1.0])
    assert stepper.bad_step() is None
    for step in range(2):
        stepper.step(step)
    assert stepper.bad_step() is None
    for step in range(2, 6):
        stepper.step(step)
    step, loss, _ = stepper.bad_step() or (0, 0.0, 0.0)
    assert (step, loss) == (2, math.inf)


@pytest.mark.parametrize('clip', [None, 0.5])
def test_a_gradient_that_is_not_finite_is_remembered_beside_a_loss_that_is(clip):
    stepper = stepper_of([1.0] * 8)
    phase = stepper.phase
    phase.clip = clip

    def loss(step):
        # At 0 the square root is finite and its slope is not.
        value = (stepper.policy.weight * (step != 1)).abs().sqrt().sum()
        return value, {'loss': value.detach()}

    phase.loss = loss
    stepper.step(0)
    assert stepper.bad_step() is None
    stepper.step(1)
    step, value, norm = stepper.bad_step() or (0, 0.0, 0.0)
    assert (step, value) == (1, 0.0)
    assert not math.isfinite(norm)


def test_without_a_bound_the_gradient_stays_as_it_is():
    stepper = stepper_of([100.0] * 8)
    stepper.phase.clip = None
    stepper.step(0)
    assert float(stepper.policy.weight.grad) == 100.0


def test_pictures_are_the_same_kept_read_and_read_ahead(tmp_path, make_dataset):
    dataset = make_dataset(tmp_path / 'dataset')
    rows = np.array([[0, 5, 5], [13, 14, 45]])
    expected = dataset.images['top'][rows][:, :, None]  # (2, 3, 1, H, W_px, 3)
    kept, read, ahead = (Pictures(dataset, CPU, kept=kept) for kept in (True, False, None))
    ahead.read_ahead(rows)
    kept.read_ahead(rows)  # has nothing to do
    for pictures in (kept, read, ahead, ahead):  # the second time nothing waits any more
        found = pictures.read(rows)
        assert found.dtype == torch.uint8
        assert np.array_equal(found.numpy(), expected)


def test_what_nobody_came_for_is_let_go(tmp_path, make_dataset):
    dataset = make_dataset(tmp_path / 'dataset')
    pictures = Pictures(dataset, CPU)
    for first in range(3 * AHEAD):
        pictures.read_ahead(np.array([first, first + 1]))
    assert len(pictures._ahead) == AHEAD
    for first in (0, 3 * AHEAD - 1):
        found = pictures.read(np.array([first, first + 1]))
        assert np.array_equal(found[1, 0].numpy(), dataset.images['top'][first + 1])
    assert len(pictures._ahead) == AHEAD - 1
