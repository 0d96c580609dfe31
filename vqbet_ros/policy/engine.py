"""Runs a trained policy: observations in, action chunks out, every camera frame encoded once.

Legend: B batch, h history steps, n cameras, F features, S state channels, W chunk, A action
channels, G code layers, H x W_px an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from vqbet_ros.errors import ConfigError
from vqbet_ros.policy.checkpoint import load_checkpoint
from vqbet_ros.policy.heads import gumbel_noise, Stay
from vqbet_ros.policy.policy import Goal, Policy
from vqbet_ros.policy.vqbet import Decoded
from vqbet_ros.spec import RobotSpec


class Frame(Protocol):
    """One camera image; `stamp_ns` and the camera's name identify it."""

    @property
    def stamp_ns(self) -> int:
        """Time of exposure."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """(H, W_px, 3) uint8 RGB of the spec's size."""


class Observation(Protocol):
    """What the engine reads of an observation; see `runtime.observation.Observation`."""

    @property
    def frames(self) -> Sequence[Mapping[str, Frame] | None]:
        """H steps, oldest first: frames by camera name, None where the step is not valid."""

    @property
    def state(self) -> NDArray[np.float32]:
        """(h, S) in the robot's units."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(h,), False for steps before the episode began."""


@dataclass(frozen=True)
class PolicyOutput:
    """A decision.

    Attributes:
        actions: (W, A) float32 in the robot's units, the first for the observation's own step.
        codes: (G,) int64, the primary code first.
        probabilities: (C,) float32 of the primary codes, at temperature 1.
        confidence: The largest of them.
    """

    actions: NDArray[np.float32]
    codes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    confidence: float


class Engine:
    """A policy ready to run; not thread-safe, one caller at a time."""

    def __init__(self, policy: Policy, *, temperature: float | None = None, seed: int = 0) -> None:
        """Wrap a policy in evaluation mode.

        Args:
            policy: Loaded weights, on its device.
            temperature: 0 takes the most probable codes; otherwise they are drawn. None takes the
                checkpoint's own.
            seed: Of the draws.
        """
        self.policy = policy.eval().requires_grad_(False)
        self.temperature = policy.config.temperature if temperature is None else temperature
        self._generator = torch.Generator().manual_seed(seed)
        self._cache: dict[tuple[str, int], Tensor] = {}
        self._goal: Goal | None = None

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        device: str = 'cpu',
        threads: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> 'Engine':
        """Load a checkpoint directory.

        Args:
            checkpoint: Directory as `vqbet train` writes it.
            device: torch device.
            threads: CPU threads of the whole process; None leaves them.
            temperature: See `Engine`.
            seed: See `Engine`.

        Raises:
            BadCheckpoint: See `load_checkpoint`.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_checkpoint(checkpoint, device)
        return cls(loaded.policy, temperature=temperature, seed=seed)

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
        self._cache.clear()

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

    @torch.inference_mode()
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
        decoded = self.decode(
            self._features(observation),
            torch.as_tensor(observation.state)[None],
            torch.as_tensor(observation.valid)[None],
            Stay(
                torch.tensor([-1 if running is None else running], device=self.policy.device),
                torch.tensor(hysteresis, dtype=torch.float32, device=self.policy.device),
            ),
        )
        probabilities = decoded.probabilities[0, 0].cpu().numpy()
        return PolicyOutput(
            actions=decoded.actions[0].float().cpu().numpy(),
            codes=decoded.codes[0].cpu().numpy(),
            probabilities=probabilities,
            confidence=float(probabilities.max()),
        )

    def warm_up(self) -> None:
        """Decide a few times on empty observations, so that the first real one is not slow."""
        draws = self._generator.get_state()
        device, spec = self.policy.device, self.spec
        for _ in range(3):
            features = None
            if spec.cameras:
                images = {
                    c.name: np.zeros((1, c.height, c.width, 3), np.uint8) for c in spec.cameras
                }
                features = self.encode(images).expand(self.history, -1, -1)[None]
            state = torch.zeros(1, self.history, spec.state_dim, device=device)
            present = torch.ones(1, self.history, dtype=torch.bool, device=device)
            for there in (present, present.cumsum(1) == self.history):
                self.decode(features, state, there).actions.cpu()
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
        noise = None
        if self.temperature > 0.0:
            tokenizer = self.policy.vqbet.tokenizer
            shape = (batch, tokenizer.layers, tokenizer.codebook_size)
            noise = gumbel_noise(shape, self._generator).to(device)
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
            noise=noise,
            stay=stay,
        )

    def _features(self, observation: Observation) -> Tensor | None:
        """Gather the history's features (1, h, n, F), encoding only frames not seen before."""
        if not self.spec.cameras:
            return None
        width = self.policy.config.vision.features
        used: dict[tuple[str, int], Tensor] = {}
        rows = []
        for step in observation.frames:
            if step is None:
                empty = torch.zeros(len(self.spec.cameras), width, device=self.policy.device)
                rows.append(empty)
                continue
            row = []
            for camera in self.spec.cameras:
                frame = step[camera.name]
                key = (camera.name, frame.stamp_ns)
                if key not in used:
                    used[key] = (
                        self._cache[key] if key in self._cache else self._encode(frame.image)
                    )
                row.append(used[key])
            rows.append(torch.stack(row))
        self._forget(used)
        return torch.stack(rows)[None]

    def _forget(self, used: dict[tuple[str, int], Tensor]) -> None:
        """Keep what this observation used, and what lies between: the next one may take it.

        A camera that is faster than the policy gives an observation every other frame or so, and
        the observation after it those in between.
        """
        span: dict[str, tuple[int, int]] = {}
        for camera, stamp_ns in used:
            first_ns, last_ns = span.get(camera, (stamp_ns, stamp_ns))
            span[camera] = (min(first_ns, stamp_ns), max(last_ns, stamp_ns))
        kept = {
            (camera, stamp_ns): feature
            for (camera, stamp_ns), feature in self._cache.items()
            if camera in span and span[camera][0] <= stamp_ns <= span[camera][1]
        }
        self._cache = {**kept, **used}

    def _encode(self, image: NDArray[np.uint8]) -> Tensor:
        pixels = _tensor(image).to(self.policy.device)
        return self.policy.encode(pixels[None])[0]  # (F,)


def _tensor(image: NDArray[np.uint8]) -> Tensor:
    # torch warns of arrays that it could not write to, which decoded and mapped images may be.
    return torch.from_numpy(np.require(image, requirements=['C', 'W']))
