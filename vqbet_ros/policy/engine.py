"""Runs a trained policy: observations in, action chunks out, every camera frame encoded once.

Legend: B batch, h history steps, n cameras, F features, S state channels, W chunk, A action
channels, G code layers, H x W_px an image.
"""

from collections.abc import Mapping
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from vqbet_ros.errors import BadCheckpoint, ConfigError
from vqbet_ros.policy.checkpoint import load_checkpoint
from vqbet_ros.policy.feature_rows import FeatureRows, Key, NOTHING
from vqbet_ros.policy.graphs import GraphRunner
from vqbet_ros.policy.heads import gumbel_noise, Stay
from vqbet_ros.policy.interface import Frame, Observation, PolicyOutput
from vqbet_ros.policy.onnx_runner import OnnxRunner
from vqbet_ros.policy.packed import Numbers, Precision
from vqbet_ros.policy.policy import Goal, Policy
from vqbet_ros.policy.runner import Question, Runner
from vqbet_ros.policy.vqbet import Decoded
from vqbet_ros.spec import RobotSpec

GRAPH = 'policy.onnx'
"""The file of a checkpoint that runs in ONNX Runtime on a CPU, where there is one."""
log = logging.getLogger(__name__)
KEPT = 4
"""Observations whose frames there is room for: a camera may be faster than the policy."""


class Engine:
    """A policy ready to run; not thread-safe, one caller at a time."""

    def __init__(
        self,
        policy: Policy,
        *,
        temperature: float | None = None,
        seed: int = 0,
        precision: Precision | None = None,
        graph: Path | None = None,
    ) -> None:
        """Wrap a policy in evaluation mode.

        Args:
            policy: Loaded weights, on its device.
            temperature: 0 takes the most probable codes; otherwise they are drawn. None takes the
                checkpoint's own.
            seed: Of the draws.
            precision: Of encoder and trunk, on a CPU float16 of the trunk's weights alone; codes
                and all that decodes them are float32. None is float16.
            graph: An ONNX file that was exported from this policy, to run instead of it; see
                `onnx_runner`.

        Raises:
            BadCheckpoint: The graph is not this policy's.
        """
        self.policy = policy.eval().requires_grad_(False)
        self.temperature = policy.config.temperature if temperature is None else temperature
        self._generator = torch.Generator().manual_seed(seed)
        self._goal: Goal | None = None
        cameras = len(policy.spec.cameras)
        self._rows = FeatureRows(KEPT * policy.config.history * cameras, max(1, cameras))
        self._runner: Runner | OnnxRunner
        how: dict[str, Any] = {'rows': self._rows.count, 'temperature': self.temperature}
        if graph is not None:
            self._runner = OnnxRunner(self.policy, graph, **how)
        else:
            kind = GraphRunner if policy.device.type == 'cuda' else Runner
            numbers = Numbers.best(policy.device, precision)
            self._runner = kind(self.policy, numbers=numbers, **how)

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        device: str = 'cpu',
        threads: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
        precision: Precision | None = None,
    ) -> 'Engine':
        """Load a checkpoint directory.

        Args:
            checkpoint: Directory as `vqbet train` writes it.
            device: torch device.
            threads: CPU threads of the whole process; None leaves them.
            temperature: See `Engine`.
            seed: See `Engine`.
            precision: See `Engine`.

        Raises:
            BadCheckpoint: See `load_checkpoint`.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        policy = load_checkpoint(checkpoint, device).policy
        file = Path(checkpoint) / GRAPH
        if precision is None and policy.device.type == 'cpu' and file.exists():
            try:
                engine = cls(policy, temperature=temperature, seed=seed, graph=file)
            except (BadCheckpoint, ImportError) as error:  # also of one that cannot be loaded
                log.warning('%s is not used: %s', file, error)
            else:
                log.info('%s runs in ONNX Runtime', file)
                return engine
        return cls(policy, temperature=temperature, seed=seed, precision=precision)

    @property
    def runtime(self) -> str:
        """What computes decisions."""
        return self._runner.runtime

    @property
    def numbers(self) -> Numbers:
        """What encoder and trunk compute with."""
        return self._runner.numbers

    @property
    def spec(self) -> RobotSpec:
        """The robot that the policy was trained for."""
        return self.policy.spec

    @property
    def history(self) -> int:
        """Observation steps h."""
        return self.policy.config.history

    @property
    def chunk(self) -> int:
        """Action steps W."""
        return self.policy.config.chunk

    @property
    def goal_steps(self) -> int:
        """Goal frames g that the policy takes, 0 for none."""
        return self.policy.config.goal_steps

    @property
    def goal_state(self) -> bool:
        """Whether a goal frame has a state beside its images."""
        return bool(self.policy.vqbet.goal_state)

    def reset(self) -> None:
        """Forget the features of earlier frames."""
        self._rows.clear()

    def set_goal(
        self,
        images: Mapping[str, NDArray[np.uint8]] | None,
        state: NDArray[np.float32] | None = None,
    ) -> None:
        """Set the goal of all decisions from now on.

        Args:
            images: (g, H, W_px, 3) by camera name; None takes the goal away.
            state: (g, S), needed where the policy's goals have a state.

        Raises:
            ConfigError: The policy takes no goals, or the goal does not fit it; the old one stays.
        """
        if images is None:
            self._goal = None
            self._runner.set_goal(None)
            return
        spec = self.spec
        problems = []
        if self.goal_steps == 0:
            problems.append('this policy was trained without goals (goal_steps: 0)')
        for camera in spec.cameras:
            wanted = (self.goal_steps, camera.height, camera.width, 3)
            if camera.name not in images:
                problems.append(f'camera {camera.name}: got nothing, expected {wanted} uint8')
                continue
            image = images[camera.name]
            if image.shape != wanted or image.dtype != np.uint8:
                problems.append(
                    f'camera {camera.name}: got {image.shape} {image.dtype}, '
                    f'expected {wanted} uint8'
                )
        needs_state = self.goal_state
        if needs_state and (state is None or state.shape != (self.goal_steps, spec.state_dim)):
            got = 'nothing' if state is None else state.shape
            problems.append(f'state: got {got}, expected {(self.goal_steps, spec.state_dim)}')
        elif needs_state and not np.isfinite(state).all():  # type: ignore[arg-type]
            problems.append('state: holds numbers that are not finite')
        if problems:
            raise ConfigError('the goal does not fit the policy: ' + '; '.join(problems))
        features = None
        if spec.cameras:
            features = self.encode(images)[None]  # (1, g, n, F)
        tensor = None
        if needs_state:
            copy = np.array(state, dtype=np.float32)  # the caller may go on writing to its own
            tensor = torch.from_numpy(copy).to(self.policy.device)[None]  # (1, g, S)
        self._goal = Goal(features, tensor)
        self._runner.set_goal(self._goal)

    def plan(
        self, observation: Observation, *, running: int | None = None, hysteresis: float = 0.0
    ) -> PolicyOutput:
        """Decide on a chunk for one observation.

        Args:
            observation: What the robot has seen.
            running: The primary code of the chunk that is being executed. It is decoded again
                unless another one is more probable by more than `hysteresis`, then the most
                probable one is. None, nothing running, leaves the choice to the temperature.
            hysteresis: A probability, 0 to 1.

        Raises:
            ValueError: The newest step is not valid, or there is no such code.
        """
        if not observation.valid[-1]:
            raise ValueError('the newest step of an observation must be valid')
        codes = self.policy.config.codebook_size
        if running is not None and not 0 <= running < codes:
            raise ValueError(f'running: got {running}, expected a code from 0 to {codes - 1}')
        answer = self._runner.decide(
            Question(
                rows=self._encoded(observation),
                state=np.asarray(observation.state, dtype=np.float32),
                present=observation.valid,
                noise=self._noise(1),
                running=-1 if running is None else running,
                hysteresis=hysteresis,
            )
        )
        return PolicyOutput(
            answer.actions, answer.codes, answer.probabilities, float(answer.probabilities.max())
        )

    def look(self, observation: Observation) -> None:
        """Encode an observation's frames, so that a later `plan` finds that done."""
        self._runner.settle(self._encoded(observation)[-1])

    def warm_up(self) -> None:
        """Run everything a few times, so that the first real plan is as fast as the others."""
        draws = self._generator.get_state()
        goals = [None] if self.goal_steps == 0 else [self._empty_goal(), None]
        images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in self.spec.cameras}
        try:
            for goal in goals:
                if goal is not None and images:  # as `set_goal` encodes its frames
                    self.encode({n: np.stack([i] * self.goal_steps) for n, i in images.items()})
                self._runner.set_goal(goal)
                for _ in range(5):
                    for image, row in zip(images.values(), self._rows.scratch, strict=False):
                        self._runner.encode(image, row)
                    for known in (1, self.history):
                        self._runner.decide(self._empty_question(known))
        finally:
            self._runner.set_goal(self._goal)
            self._generator.set_state(draws)

    @torch.inference_mode()
    def encode(self, images: Mapping[str, NDArray[np.uint8]]) -> Tensor:
        """Return the features (N, n, F) of images (N, H, W_px, 3) by camera name.

        Cameras may differ in size; each is encoded by itself.
        """
        device = self.policy.device
        features = [
            self.policy.encode(_tensor(images[c.name]).to(device)) for c in self.spec.cameras
        ]
        return torch.stack(features, dim=1)

    @torch.inference_mode()
    def decode(
        self,
        features: Tensor | None,
        state: Tensor,
        present: Tensor | None,
        stay: Stay | None = None,
    ) -> Decoded:
        """Decide on a batch, with the goal that is set.

        Args:
            features: (B, h, n, F), None without cameras.
            state: (B, h, S) in the robot's units.
            present: (B, h) bool, None when all steps are there.
            stay: See `CodeHead.choose`.

        Returns:
            See `Policy.act`.
        """
        device, batch = self.policy.device, state.shape[0]
        noise = self._noise(batch)
        goal = self._goal
        if goal is not None and batch > 1:
            goal = Goal(
                *(
                    None if t is None else t.expand(batch, *t.shape[1:])
                    for t in (goal.features, goal.state)
                )
            )
        return self.policy.act(
            features,
            state.to(device, torch.float32),
            None if present is None else present.to(device),
            goal,
            temperature=self.temperature,
            noise=None if noise is None else noise.to(device),
            stay=stay,
        )

    def _empty_goal(self) -> Goal:
        device, steps = self.policy.device, self.goal_steps
        cameras, features = len(self.spec.cameras), self.policy.config.vision.features
        return Goal(
            torch.zeros(1, steps, cameras, features, device=device) if cameras else None,
            torch.zeros(1, steps, self.spec.state_dim, device=device),
        )

    def _empty_question(self, known: int) -> Question:
        steps = self.history
        return Question(
            rows=[self._rows.scratch[: len(self.spec.cameras)]] * steps,
            state=np.zeros((steps, self.spec.state_dim), np.float32),
            present=np.arange(steps) >= steps - known,
            noise=self._noise(1),
        )

    def _noise(self, batch: int) -> Tensor | None:
        """Draw what `CodeHead.choose` needs, (batch, G, C)."""
        if self.temperature <= 0.0:
            return None
        tokenizer = self.policy.vqbet.tokenizer
        return gumbel_noise((batch, tokenizer.layers, tokenizer.codebook_size), self._generator)

    def _encoded(self, observation: Observation) -> list[list[int]]:
        """Return the rows (h, n) of the frames' features, encoding only frames not seen before."""
        frames: dict[Key, Frame] = {}
        wanted: list[list[Key | None]] = []
        for step in observation.frames:
            keys: list[Key | None] = [None] * len(self.spec.cameras)
            if step is not None:
                for number, camera in enumerate(self.spec.cameras):
                    frame = step[camera.name]
                    keys[number] = key = (camera.name, frame.stamp_ns)
                    frames.setdefault(key, frame)
            wanted.append(keys)
        for key in self._rows.keep(frames):
            self._runner.encode(frames[key].image, self._rows.next_row())
            self._rows.take(key)
        return [[NOTHING if key is None else self._rows[key] for key in keys] for keys in wanted]


def _tensor(image: NDArray[np.uint8]) -> Tensor:
    # torch warns of arrays that it could not write to, which decoded and mapped images may be.
    return torch.from_numpy(np.require(image, requirements=['C', 'W']))
