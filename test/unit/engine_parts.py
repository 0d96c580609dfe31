"""What the tests of the engine share: a small policy, an episode, the plain forward pass."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from vqbet_ros.config import ModelConfig, VisionConfig
from vqbet_ros.policy.engine import Engine
from vqbet_ros.policy.normalizer import Stats
from vqbet_ros.policy.policy import Policy
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec

ONE = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
TOP = replace(ONE.cameras[0], height=32, width=32)
SIDE = replace(TOP, name='side', topic='/side/image_raw', height=40, width=36)
SPEC = replace(ONE, cameras=(TOP, SIDE))
KEYPOINTS = RobotSpec.from_yaml(resource('config/robots/pusht_keypoints.yaml'))
HISTORY, GOALS = 3, 2
VISION = VisionConfig(stages=1, keypoints=4, features=6, crop=28)
CONFIG = ModelConfig(
    history=HISTORY,
    chunk=4,
    goal_steps=GOALS,
    goal_state=True,
    codebook_size=4,
    latent=6,
    tokenizer_hidden=8,
    layers=1,
    heads=2,
    width=16,
    vision=VISION,
)


@dataclass(frozen=True)
class Frame:
    stamp_ns: int
    image: np.ndarray


@dataclass(frozen=True)
class Observation:
    frames: tuple
    state: np.ndarray
    valid: np.ndarray


def make_engine(config=CONFIG, spec=SPEC, **settings):
    """Make an engine of random weights; in float32, so that it gives what the plain pass gives."""
    torch.manual_seed(0)
    stats = {
        'state': Stats.of(512 * torch.rand(50, spec.state_dim).numpy()),
        'action': Stats.of(512 * torch.rand(50, 2).numpy()),
    }
    policy = Policy(config, spec, stats)
    chunks = torch.randn(32, config.chunk, 2)
    policy.vqbet.tokenizer.loss(chunks, torch.ones(chunks.shape[:2], dtype=torch.bool))
    with torch.no_grad():
        for parameter in policy.vqbet.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Engine(policy, **{'precision': 'float32', **settings})


class Recording:
    """An episode's images and states, and observations of it."""

    def __init__(self, length=8, seed=0):
        rng = np.random.default_rng(seed)
        self.images = {
            c.name: rng.integers(0, 256, (length, c.height, c.width, 3), dtype=np.uint8)
            for c in SPEC.cameras
        }
        self.state = rng.uniform(0, 512, (length, 2)).astype(np.float32)

    def frames(self, step):
        return {
            name: Frame(1000 + 100 * step, images[step]) for name, images in self.images.items()
        }

    def observation(self, step, missing=(), start=0):
        """Observe at a step; steps before `start` and the missing ones are not there."""
        wanted = range(step - HISTORY + 1, step + 1)
        valid = np.array([s >= start and s not in missing for s in wanted])
        state = np.zeros((HISTORY, 2), np.float32)
        for row, s in enumerate(wanted):
            if valid[row]:
                state[row] = self.state[s]
        frames = tuple(
            self.frames(s) if there else None for s, there in zip(wanted, valid, strict=True)
        )
        return Observation(frames, state, valid)


def plain(engine, recording, step, missing=(), start=0):
    """Decide by a forward pass over all frames, nothing kept."""
    steps = list(range(step - HISTORY + 1, step + 1))
    known = np.clip(steps, 0, None)
    features = engine.encode({name: i[known] for name, i in recording.images.items()})[None]
    there = torch.tensor([[s >= start and s not in missing for s in steps]])
    return engine.decode(features, torch.from_numpy(recording.state[known])[None], there)


def assert_decides_as(engine, exact):
    """Compare each plan of an episode with the plain pass of `exact`, which may be the engine."""
    recording = Recording()

    def compare(step, **changes):
        output = engine.plan(recording.observation(step, **changes))
        assert_same(output, plain(exact, recording, step, **changes))

    for step in range(5):
        compare(step)
    # Begun in the middle, with a goal, a frame lost, another goal, none.
    engine.reset()
    for step, begin in ((5, 6), (6, 5), (7, None)):
        goal = None
        if begin is not None:
            goal = {n: images[begin : begin + GOALS] for n, images in recording.images.items()}
        for one in {engine, exact}:
            one.set_goal(goal, recording.state[6 : 6 + GOALS])
        for missing in ((), (step - 1,)):
            compare(step, missing=missing, start=4)


def assert_same(output, decoded):
    np.testing.assert_allclose(output.actions, decoded.actions[0], rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(output.codes, decoded.codes[0])
    assert output.confidence == pytest.approx(float(decoded.probabilities[0, 0].max()), abs=1e-4)
