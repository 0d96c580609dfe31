"""A policy as one ONNX graph of static shapes, for ONNX Runtime, TensorRT and their like.

One run decides once, and encodes one frame of each camera. The features of the steps before are
inputs: they were outputs of the runs that saw those frames. So are those of a goal's frames.

Legend: h history steps, n cameras, F features, S state channels, g goal steps, G code layers,
C codes a layer, W chunk, A action channels, H x W_px an image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn, Tensor
from vqbet_ros.errors import VqbetError
from vqbet_ros.policy.heads import gumbel_noise, Stay
from vqbet_ros.policy.policy import Goal, Policy
from vqbet_ros.policy.program import Program
from vqbet_ros.policy.vision import middle

OPSET = 18
OUTPUTS = ('actions', 'codes', 'probabilities', 'features')
FORMAT = 1
"""Of the graph: raised with every change of what it takes, gives or computes, so that graphs of
before are told from those of now; then those of models/ have to be exported anew."""
FINGERPRINT = 'vqbet_policy'
"""The metadata that holds what `fingerprint` gives."""
TOLERANCE = 1e-3
"""Of actions, as a share of the range of the demonstrations' actions."""


class Step(nn.Module):
    """One decision on tensors with names."""

    def __init__(self, policy: Policy, temperature: float) -> None:
        """Take over a policy's weights; see `Program`."""
        super().__init__()
        self.program = Program(policy)
        self.policy, self.temperature = policy, temperature

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Decide; see `example` for the inputs and `OUTPUTS` for what is returned."""
        policy = self.policy
        newest = None
        history = None
        if policy.spec.cameras:
            newest = torch.stack(
                [self._encode(inputs[image_name(c.name)]) for c in policy.spec.cameras]
            )
            history = torch.cat([inputs['earlier_features'], newest[None]])[None]  # (1, h, n, F)
        prefix = None
        if 'goal_present' in inputs:
            goal = (inputs[name][None] if name in inputs else None for name in GOAL)
            prefix = self.program.goal(Goal(*goal))
        decoded = self.program.decide(
            history,
            inputs['state'][None],
            inputs['present'][None],
            prefix,
            temperature=self.temperature,
            noise=inputs['noise'][None] if 'noise' in inputs else None,
            stay=Stay(inputs['running'], inputs['hysteresis'][0]),
        )
        answer = (decoded.actions[0], decoded.codes[0], decoded.probabilities[0, 0])
        return answer if newest is None else (*answer, newest)

    def _encode(self, image: Tensor) -> Tensor:
        """Return the features (F,) of an image (H, W_px, 3)."""
        crop = self.policy.config.vision.crop
        image = image[middle(image.shape[0], crop), middle(image.shape[1], crop)]
        return self.program.encode(image[None])[0]


GOAL = ('goal_features', 'goal_state', 'goal_present')


def image_name(camera: str) -> str:
    """Return the input that takes a camera's newest frame."""
    return f'image_{camera}'


def example(policy: Policy, temperature: float, seed: int) -> dict[str, Tensor]:
    """Make inputs of the right shapes and types, with values as they may occur.

    Args:
        policy: Decides which inputs there are.
        temperature: With 0 there is no noise.
        seed: Of the values.

    Returns:
        By name: `image_<camera>` (H, W_px, 3) uint8, `earlier_features` (h-1, n, F), `state`
        (h, S), `present` (h,) bool, `goal_features` (g, n, F), `goal_state` (g, S),
        `goal_present` (g,) bool, `noise` (G, C) standard Gumbel, `running` (1,) int64 with -1 for
        none, `hysteresis` (1,). Without cameras, goals or noise theirs are not there.
    """
    generator = torch.Generator().manual_seed(seed)
    config, spec = policy.config, policy.spec
    features = len(spec.cameras), config.vision.features

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def states(steps: int) -> Tensor:
        low, high = torch.zeros(spec.state_dim), torch.ones(spec.state_dim)
        if policy.normalize_state is not None:
            low, high = (
                torch.tensor(x) for x in (policy.stats['state'].min, policy.stats['state'].max)
            )
        return low + uniform(steps, spec.state_dim) * (high - low)

    inputs: dict[str, Tensor] = {}
    for camera in spec.cameras:
        shape = (camera.height, camera.width, 3)
        image = torch.randint(0, 256, shape, generator=generator)
        inputs[image_name(camera.name)] = image.to(torch.uint8)
    if spec.cameras:
        inputs['earlier_features'] = uniform(config.history - 1, *features)
    inputs['state'] = states(config.history)
    inputs['present'] = uniform(config.history) < 0.7
    inputs['present'][-1] = True
    if config.goal_steps and spec.cameras:
        inputs['goal_features'] = uniform(config.goal_steps, *features)
    if config.goal_steps and policy.vqbet.goal_state:
        inputs['goal_state'] = states(config.goal_steps)
    if config.goal_steps:
        inputs['goal_present'] = torch.full((config.goal_steps,), seed % 2 == 0)
    if temperature > 0.0:
        inputs['noise'] = gumbel_noise((config.code_layers, config.codebook_size), generator)
    inputs['running'] = torch.tensor([seed % (config.codebook_size + 1) - 1])
    inputs['hysteresis'] = 0.3 * uniform(1)
    return inputs


def expected(policy: Policy, temperature: float, inputs: dict[str, Tensor]) -> Iterator[Tensor]:
    """Yield what the policy's own forward pass gives, in the order of `OUTPUTS`."""
    newest, features, goal = None, None, None
    if policy.spec.cameras:
        images = [inputs[image_name(c.name)] for c in policy.spec.cameras]
        newest = torch.stack([policy.encode(image[None])[0] for image in images])
        features = torch.cat([inputs['earlier_features'], newest[None]])[None]
    if 'goal_present' in inputs:
        goal = Goal(*(inputs[name][None] if name in inputs else None for name in GOAL))
    decoded = policy.act(
        features,
        inputs['state'][None],
        inputs['present'][None],
        goal,
        temperature=temperature,
        noise=inputs['noise'][None] if 'noise' in inputs else None,
        stay=Stay(inputs['running'], inputs['hysteresis'][0]),
    )
    yield from (decoded.actions[0], decoded.codes[0], decoded.probabilities[0, 0])
    if newest is not None:
        yield newest


@dataclass(frozen=True)
class Agreement:
    """How an exported graph compares with the policy.

    Attributes:
        cases: Random inputs that both were asked.
        same_codes: Share of them with the same codes.
        action_error: Largest difference of an action where the codes are the same, as a share of
            the range of the demonstrations' actions.
        probability_error: Largest difference of a probability.
        feature_error: Largest difference of a feature; 0 without cameras.
    """

    cases: int
    same_codes: float
    action_error: float
    probability_error: float
    feature_error: float


def export(policy: Policy, path: Path, *, temperature: float, cases: int = 32) -> Agreement:
    """Write a policy as an ONNX file, once it gives the same numbers in ONNX Runtime.

    Args:
        policy: In evaluation mode, on the CPU.
        path: The file.
        temperature: See `CodeHead.choose`; with 0 the graph has no input for noise.
        cases: Random inputs to compare.

    Raises:
        VqbetError: The numbers differ; nothing is written.
    """
    unfinished = path.with_name(f'.{path.name}.unfinished')
    inputs = example(policy, temperature, seed=0)
    names = OUTPUTS if policy.spec.cameras else OUTPUTS[:-1]
    try:
        with torch.inference_mode():
            torch.onnx.export(
                Step(policy, temperature).eval(),
                f=unfinished,
                kwargs={'inputs': inputs},
                input_names=list(inputs),
                output_names=list(names),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        _sign(unfinished, fingerprint(policy, temperature))
        found = compare(policy, unfinished, temperature=temperature, cases=cases)
        if max(found.action_error, found.probability_error) > TOLERANCE or found.same_codes < 1.0:
            raise VqbetError(
                f'ONNX Runtime does not decide as the policy does: {found}; expected the same '
                f'codes, and differences of at most {TOLERANCE:g}. {path} was not written.'
            )
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return found


def fingerprint(policy: Policy, temperature: float) -> str:
    """Return what tells a graph from any other: its format, its policy's weights and its draw."""
    names = [camera.name for camera in policy.spec.cameras]
    digest = hashlib.sha256(repr((FORMAT, policy.config, names, float(temperature))).encode())
    # Of the buffers also those that a state dict leaves out: the normalisation.
    for name, value in sorted([*policy.named_parameters(), *policy.named_buffers()]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _sign(path: Path, text: str) -> None:
    """Say whose graph it is; take out the tracebacks, with paths of this machine, of its nodes."""
    import onnx  # an extra

    model = onnx.load(path)
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = FINGERPRINT, text
    onnx.save(model, path)


def compare(policy: Policy, path: Path, *, temperature: float, cases: int) -> Agreement:
    """Ask an exported graph and its policy the same; see `Agreement`."""
    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    stats = policy.stats['action']
    spread = np.maximum(np.array(stats.max) - np.array(stats.min), 1e-6)
    same, errors = [], {'actions': 0.0, 'probabilities': 0.0, 'features': 0.0}
    for seed in range(cases):
        inputs = example(policy, temperature, seed)
        values = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        with torch.inference_mode():
            wanted = [value.numpy() for value in expected(policy, temperature, inputs)]
        got, want = (dict(zip(OUTPUTS, v, strict=False)) for v in (values, wanted))
        same.append(np.array_equal(got['codes'], want['codes']))
        for name in errors:
            if name in want and (name != 'actions' or same[-1]):
                scale = spread if name == 'actions' else 1.0
                error = float((np.abs(got[name] - want[name]) / scale).max())
                errors[name] = max(errors[name], error)
    return Agreement(
        cases, float(np.mean(same)), errors['actions'], errors['probabilities'], errors['features']
    )
