"""Half the bits for weights: a trained policy decides as in float32 on what it meets."""

from engine_parts import Frame, Observation
import numpy as np
import pytest

pytest.importorskip('gym_pusht', reason="needs gym-pusht: extra 'sim'")

from vqbet_ros.policy.engine import Engine
from vqbet_ros.resources import resource
from vqbet_ros.sim.pusht import PushTWorld

EPISODES, STEPS = 8, 40
PERIOD_NS = 100_000_000


class Eyes:
    """Sees a world as a policy's observations want it."""

    def __init__(self, engine, seed):
        self.spec, self.history = engine.spec, engine.history
        self.world = PushTWorld(seed)
        self.frames, self.states = [], []

    def observe(self):
        stamp_ns = len(self.states) * PERIOD_NS
        image = {camera.name: Frame(stamp_ns, self.world.image()) for camera in self.spec.cameras}
        state = np.concatenate([self.world.pusher(), self.world.keypoints()])
        self.frames = [*self.frames, image]
        self.states = [*self.states, state[: self.spec.state_dim].astype(np.float32)]
        absent = max(0, self.history - len(self.states))
        return Observation(
            (*(None,) * absent, *self.frames[-self.history :]),
            np.stack([*self.states[:1] * absent, *self.states[-self.history :]]),
            np.arange(self.history) >= absent,
        )


@pytest.mark.slow
@pytest.mark.parametrize('model', ['pusht_image', 'pusht_state'])
def test_trained_policies_decide_the_same_with_half_the_bits(model):
    path = resource(f'models/{model}')
    exact, half = (Engine.load(path, temperature=0.0, precision=p) for p in ('float32', 'float16'))
    if half.numbers.packing != 'float16':
        pytest.skip('this PyTorch has no such layers for this CPU')
    assert exact.numbers.packing != 'float16'
    same, error = compare(exact, half)
    assert same >= 0.995
    assert 0.0 < error < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize('model', ['pusht_image', 'pusht_state'])
def test_the_graphs_that_come_with_the_package_decide_as_their_policies(model):
    pytest.importorskip('onnxruntime')
    path = resource(f'models/{model}')
    graph, exact = Engine.load(path), Engine.load(path, precision='float32')
    assert graph.runtime == 'ONNX Runtime', 'made anew by: vqbet export onnx models/...'
    same, error = compare(exact, graph)
    assert same >= 0.995
    assert error < 1e-4


def compare(exact, other):
    """Return the share of decisions with the same codes, and their largest error, of the range."""
    table = exact.policy.stats['action']
    spread = np.subtract(table.max, table.min)
    same, errors = [], []
    for seed in range(EPISODES):
        exact.reset()
        other.reset()
        eyes = Eyes(exact, 1000 + seed)
        for _ in range(STEPS):
            observation = eyes.observe()
            first, second = (engine.plan(observation) for engine in (exact, other))
            same.append(np.array_equal(first.codes, second.codes))
            if same[-1]:
                errors.append(np.abs(first.actions - second.actions) / spread)
            eyes.world.step(first.actions[0])
    assert len(same) == EPISODES * STEPS
    return np.mean(same), np.max(errors)
