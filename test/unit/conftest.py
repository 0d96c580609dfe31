"""What the tests of training share: a dataset that is made in a moment and a model as small."""

from dataclasses import replace
from typing import Any

from hypothesis import settings
import numpy as np
import pytest
from vqbet_ros.config import (
    EncoderPhase,
    ModelConfig,
    PolicyPhase,
    TokenizerPhase,
    TrainConfig,
    VisionConfig,
)
from vqbet_ros.data.episode import Episode
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec

SIDE_PX = 24

# How long an example takes says more about the machine than about the code.
settings.register_profile('any_machine', deadline=None)
settings.load_profile('any_machine')


@pytest.fixture(scope='session')
def make_dataset():
    """Write a dataset of a point that walks over the table, seen by a camera if asked for."""

    def make(path, lengths=(14, 9, 12, 11), camera=True, seed=0):
        spec = RobotSpec.from_yaml(resource('config/robots/pusht.yaml'))
        cameras = [replace(c, height=SIDE_PX, width=SIDE_PX) for c in spec.cameras]
        spec = replace(spec, cameras=tuple(cameras) if camera else ())
        rng: Any = np.random.default_rng(seed)
        with DatasetWriter(path, spec, 'a walk', ('sum',) if camera else ()) as writer:
            for length in lengths:
                walk: Any = 256 + np.cumsum(rng.normal(0, 20, (length + 1, 2)), axis=0)
                walk = walk.clip(0, 512).astype(np.float32)
                images = rng.integers(0, 256, (length, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
                writer.add(
                    Episode(
                        state=walk[:-1],
                        action=walk[1:],
                        images={'top': images} if camera else {},
                        targets=walk[:-1].sum(1, keepdims=True) if camera else None,
                    )
                )
        return Dataset.open(path)

    return make


@pytest.fixture(scope='session')
def tiny_config():
    """Return a training of all three phases that takes about a second."""
    return TrainConfig(
        model=ModelConfig(
            history=2,
            chunk=3,
            codebook_size=4,
            latent=8,
            tokenizer_hidden=8,
            layers=1,
            heads=2,
            width=16,
            vision=VisionConfig(
                stages=1,
                keypoints=2,
                features=4,
                crop=20,
                train='frozen',
                normalisation='unit',
                colour_jitter=0.1,
            ),
        ),
        encoder=EncoderPhase(steps=4, batch=4, warmup=1),
        tokenizer=TokenizerPhase(steps=5, batch=16, warmup=1),
        policy=PolicyPhase(
            steps=6, batch=8, lr=1e-3, warmup=2, state_noise=0.01, feature_copies=1
        ),
        val_fraction=0.25,
        log_every=2,
        val_every=3,
        save_every=100,
    )
