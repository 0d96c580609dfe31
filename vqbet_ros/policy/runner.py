"""Runs a policy's program on buffers that stay where they are: frames and numbers in, numbers out.

All numbers of a decision go in as one vector and come out as one, so that a GPU is asked once for
each. On a CPU the program runs as it is; `graphs.GraphRunner` replays it on a GPU.

Legend: h history steps, n cameras, S state channels, G code layers, C codes a layer, W chunk,
A action channels, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from vqbet_ros.policy.heads import Stay
from vqbet_ros.policy.packed import Numbers
from vqbet_ros.policy.policy import Goal, Policy
from vqbet_ros.policy.program import Prefix, Program
from vqbet_ros.policy.vision import middle

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """What a decision depends on, but for the features and the goal.

    Attributes:
        rows: (h, n) of the ring, the features of each step's frames.
        state: (h, S) in the robot's units.
        present: (h,) bool.
        noise: (1, G, C) standard Gumbel noise; nothing at temperature 0.
        running: The primary code that is being executed, -1 for none.
        hysteresis: See `Engine.plan`.
    """

    rows: Sequence[Sequence[int]]
    state: NDArray[np.float32]
    present: NDArray[np.bool_]
    noise: Tensor | None = None
    running: int = -1
    hysteresis: float = 0.0


@dataclass(frozen=True)
class Answer:
    """A decision: actions (W, A), codes (G,), probabilities (C,) of the primary codes."""

    actions: NDArray[np.float32]
    codes: NDArray[np.int64]
    probabilities: NDArray[np.float32]


class Runner:
    """A policy's program with its ring of features and its buffers."""

    runtime = 'PyTorch'

    def __init__(self, policy: Policy, *, rows: int, temperature: float, numbers: Numbers) -> None:
        """Prepare the program.

        Args:
            policy: In evaluation mode, on its device.
            rows: Of the ring.
            temperature: See `CodeHead.choose`.
            numbers: What encoder and trunk compute with.
        """
        self.policy, self.temperature, self.numbers = policy, temperature, numbers
        self.program = Program(policy, numbers)
        self.device, config = policy.device, policy.config
        self.ring = torch.zeros(rows, config.vision.features, device=self.device)
        self.prefix: Prefix | None = None
        history, codes = config.history, (config.code_layers, config.codebook_size)
        self._sizes: dict[str, Shape] = {
            'rows': (history, len(policy.spec.cameras)),
            'state': (history, policy.spec.state_dim),
            'present': (history,),
            'noise': codes,
            'running': (1,),
            'hysteresis': (1,),
        }
        self._answer: dict[str, Shape] = {
            'actions': (config.chunk, policy.spec.action_dim),
            'codes': codes[:1],
            'probabilities': codes[1:],
        }
        pinned = self.device.type == 'cuda'
        self._question = torch.zeros(_length(self._sizes), pin_memory=pinned)
        views = _split(self._question, self._sizes)
        self._fields = {name: view.numpy() for name, view in views.items()}

    def set_goal(self, goal: Goal | None) -> None:
        """Decide with this goal from now on; features (1, g, n, F) and state (1, g, S) of it."""
        with torch.inference_mode():
            self.prefix = None if goal is None else self.program.goal(goal)

    def encode(self, image: NDArray[np.uint8], row: int) -> None:
        """Put the features of an image (H, W_px, 3) into a row of the ring."""
        with torch.inference_mode():
            pixels = torch.from_numpy(np.require(self._crop(image), requirements=['C', 'W']))
            self.ring[row] = self.program.encode(pixels[None].to(self.device))[0]

    def settle(self, rows: Sequence[int]) -> None:
        """See to it that a step's frames, (n,) rows, need no computing when it is decided on."""

    def decide(self, question: Question) -> Answer:
        """Answer one question."""
        with torch.inference_mode():
            self._ask(question)
            return self._told(self._compute(self._question.to(self.device)))

    def _ask(self, question: Question) -> None:
        fields = self._fields
        # Row numbers and codes are small: float32 holds them exactly. By numpy, because torch
        # warns of arrays that nobody may write to.
        fields['rows'][:] = question.rows
        fields['state'][:] = question.state
        fields['present'][:] = question.present
        if question.noise is not None:
            fields['noise'][:] = question.noise[0].numpy()
        fields['running'][0] = question.running
        fields['hysteresis'][0] = question.hysteresis

    def _told(self, answer: Tensor) -> Answer:
        fields = _split(answer, self._answer)
        return Answer(
            fields['actions'].numpy().copy(),
            fields['codes'].numpy().astype(np.int64),
            fields['probabilities'].numpy().copy(),
        )

    def _compute(self, question: Tensor) -> Tensor:
        """Turn one vector of numbers into another, on the device, without asking the host."""
        fields = _split(question, self._sizes)
        rows = fields['rows'].long()
        decoded = self.program.decide(
            self.ring[rows][None] if rows.numel() else None,  # (1, h, n, F)
            fields['state'][None],
            fields['present'][None] > 0,
            self.prefix,
            temperature=self.temperature,
            noise=fields['noise'][None],
            stay=Stay(fields['running'].long(), fields['hysteresis'][0]),
        )
        parts = (decoded.actions, decoded.codes, decoded.probabilities[:, 0])
        return torch.cat([part.flatten().float() for part in parts])

    def _crop(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        crop = self.policy.config.vision.crop
        return image[middle(image.shape[0], crop), middle(image.shape[1], crop)]


def _length(sizes: dict[str, Shape]) -> int:
    return sum(int(np.prod(shape)) for shape in sizes.values())


def _split(vector: Tensor, sizes: dict[str, Shape]) -> dict[str, Tensor]:
    """Return views of a vector by name."""
    lengths = [int(np.prod(shape)) for shape in sizes.values()]
    parts = vector.split(lengths)
    return {name: part.view(sizes[name]) for name, part in zip(sizes, parts, strict=True)}
