"""What tests share: datasets and bags that are made in a moment, a model as small."""

from dataclasses import replace
from typing import Any

from hypothesis import settings
import numpy as np
import pytest
from rosbags.typesys import get_typestore, Stores
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
from vqbet_ros.recording.bag import BagOptions, BagWriter, Topic
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec

BAG_BEGIN_NS = 1_700_000_000_000_000_000
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


@pytest.fixture(scope='session')
def bag_spec():
    """Return a robot of two joints and a small camera, at 10 Hz."""
    return RobotSpec.from_text(
        """
robot: twig
rate_hz: 10.0
cameras:
  - {name: top, topic: /top, type: sensor_msgs/msg/Image, height: 8, width: 12, rate_hz: 10.0,
     max_age_s: 0.25}
state:
  - {topic: /joint_states, type: sensor_msgs/msg/JointState, names: [a, b], unit: rad,
     rate_hz: 50.0, max_age_s: 0.1}
action:
  names: [a, b]
  unit: rad
  record_topic: /commands
  record_type: std_msgs/msg/Float64MultiArray
  command_topic: /commands
  limits: {a: {position: [-2.0, 2.0]}, b: {position: [-2.0, 2.0]}}
runtime: {interpolation: step}
""",
        'twig',
    )


@pytest.fixture(scope='session')
def write_bag(bag_spec):
    """Write a bag of a twig that swings, as the recorder writes it."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    types: Any = store.types

    def header(stamp_ns):
        stamp = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1_000_000_000))
        return types['std_msgs/msg/Header'](stamp=stamp, frame_id='')

    def joints_at(time_s):
        return np.array([np.sin(time_s), np.cos(time_s)])

    def write(path, seconds=2.0, seed=0, *, spec=bag_spec, outcome='', lost=(), custom=None):
        """Write a bag; no frames between the two times `lost`, in s from its begin."""
        rng = np.random.default_rng(seed)
        begin_ns = BAG_BEGIN_NS + seed * 3_600_000_000_000
        texts = {'vqbet.task': 'swing', 'vqbet.outcome': outcome, **(custom or {})}
        if spec is not None:
            texts['vqbet.spec'] = spec.to_yaml()
        writer = BagWriter(path, BagOptions(), texts)
        image, joints, commands = (
            writer.add_topic(Topic(topic, kind))
            for topic, kind in (
                ('/top', 'sensor_msgs/msg/Image'),
                ('/joint_states', 'sensor_msgs/msg/JointState'),
                ('/commands', 'std_msgs/msg/Float64MultiArray'),
            )
        )
        none = np.zeros(0)
        layout = types['std_msgs/msg/MultiArrayLayout'](dim=[], data_offset=0)
        for tick in range(round(seconds * 50)):
            stamp_ns = begin_ns + tick * 20_000_000
            now_s = tick / 50
            position = joints_at(now_s)
            message = types['sensor_msgs/msg/JointState'](
                header(stamp_ns), ['b', 'a'], position[::-1].copy(), none, none
            )
            payload = bytes(store.serialize_cdr(message, 'sensor_msgs/msg/JointState'))
            writer.write(joints, payload, stamp_ns + 1_000_000, stamp_ns)
            if tick % 5:
                continue
            if not lost or not lost[0] <= now_s < lost[1]:
                pixels = rng.integers(0, 256, 8 * 12 * 3, dtype=np.uint8)
                message = types['sensor_msgs/msg/Image'](
                    header(stamp_ns), 8, 12, 'rgb8', 0, 36, pixels
                )
                payload = bytes(store.serialize_cdr(message, 'sensor_msgs/msg/Image'))
                writer.write(image, payload, stamp_ns + 3_000_000, stamp_ns)
            message = types['std_msgs/msg/Float64MultiArray'](layout, joints_at(now_s + 0.1))
            payload = bytes(store.serialize_cdr(message, 'std_msgs/msg/Float64MultiArray'))
            writer.write(commands, payload, stamp_ns + 4_000_000, stamp_ns + 4_000_000)
        writer.close(texts)
        return path

    return write
