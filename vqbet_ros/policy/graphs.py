"""The runner of a GPU: a decision is two replays, of the encoder and of the rest.

A CUDA graph holds every launch from the upload of the frame or the numbers to the download of the
answer, and is replayed as a whole; nothing in it waits for the host. Its tensors stay where they
are. Where a graph cannot be captured the program runs without, and the log says why.

Legend: P goal tokens, H heads, E width of a head; else as in `runner`.
"""

from collections.abc import Callable
import logging

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from vqbet_ros.policy.packed import Numbers
from vqbet_ros.policy.policy import Goal, Policy
from vqbet_ros.policy.runner import Answer, Question, Runner

log = logging.getLogger(__name__)


class GraphRunner(Runner):
    """A runner whose work is captured in CUDA graphs: one a size of frame, one with a goal."""

    def __init__(self, policy: Policy, *, rows: int, temperature: float, numbers: Numbers) -> None:
        """See `Runner`; graphs are captured when they are first used."""
        super().__init__(policy, rows=rows, temperature=temperature, numbers=numbers)
        self._stream = torch.cuda.Stream(self.device)
        # Weights and buffers may still be on their way there, by the stream of who loaded them.
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        self._decisions: dict[bool, tuple[Callable[[], None], Tensor]] = {}
        self._encoders: dict[tuple[int, ...], tuple[Callable[[], None], Tensor]] = {}
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._row = torch.zeros(1, dtype=torch.int64).pin_memory()
        self._prefix = self.prefix  # of the captured graph: goals are copied into it

    # All that follows is done in inference mode: tensors that were made in it may not be written
    # to outside of it, and which ones were depends on who called first.

    @torch.inference_mode()
    def set_goal(self, goal: Goal | None) -> None:
        """See `Runner`; a new goal takes the place of the old one in the captured graph."""
        self._stream.synchronize()
        super().set_goal(goal)
        if self.prefix is None:
            return
        if self._prefix is None:
            self._prefix = self.prefix
        else:
            self._prefix.present.copy_(self.prefix.present)
            for kept, new in zip(self._prefix.layers, self.prefix.layers, strict=True):
                for one, other in zip(kept, new, strict=True):
                    one.copy_(other)
        self.prefix = self._prefix
        torch.cuda.synchronize(self.device)

    @torch.inference_mode()
    def encode(self, image: NDArray[np.uint8], row: int) -> None:
        """See `Runner`; returns before the features are there."""
        pixels = self._crop(image)
        self._stream.synchronize()  # the frame before it has been uploaded from the same memory
        if pixels.shape not in self._encoders:
            self._encoders[pixels.shape] = self._encoder(pixels.shape)
        replay, host = self._encoders[pixels.shape]
        np.copyto(host.numpy(), pixels)
        self._row[0] = row
        replay()

    @torch.inference_mode()
    def decide(self, question: Question) -> Answer:
        """See `Runner`."""
        self._ask(question)
        with_goal = self.prefix is not None
        if with_goal not in self._decisions:
            self._decisions[with_goal] = self._decision()
        replay, answer = self._decisions[with_goal]
        replay()
        self._stream.synchronize()
        return self._told(answer)

    def _encoder(self, shape: tuple[int, ...]) -> tuple[Callable[[], None], Tensor]:
        host = torch.zeros(shape, dtype=torch.uint8).pin_memory()

        def work() -> None:
            pixels = host.to(self.device, non_blocking=True)
            row = self._row.to(self.device, non_blocking=True)
            self.ring.index_copy_(0, row, self.program.encode(pixels[None]))

        # Capturing runs the work: it must not write over a row that is in use.
        self._row[0] = len(self.ring) - 1
        return self._captured(work, 'the encoder'), host

    def _decision(self) -> tuple[Callable[[], None], Tensor]:
        length = sum(int(np.prod(shape)) for shape in self._answer.values())
        answer = torch.zeros(length).pin_memory()

        def work() -> None:
            question = self._question.to(self.device, non_blocking=True)
            answer.copy_(self._compute(question), non_blocking=True)

        return self._captured(work, 'the decision'), answer

    def _captured(self, work: Callable[[], None], name: str) -> Callable[[], None]:
        """Return what does the work on the runner's stream, as a graph where that is possible."""

        def plainly() -> None:
            with torch.cuda.stream(self._stream):
                work()

        chosen, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            for _ in range(3):  # libraries set themselves up, and try out which kernel is fastest
                plainly()
            self._stream.synchronize()
            return self._replayed(work, name) or plainly
        finally:
            torch.backends.cudnn.benchmark = chosen

    def _replayed(self, work: Callable[[], None], name: str) -> Callable[[], None] | None:
        """Return what replays the work, None where it cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        # Also one that failed: its end would give back memory that a capture has begun to use.
        self._graphs.append(graph)
        try:
            # The stream is set here too: a capture that fails does not put back the one before.
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode='thread_local'),
            ):
                work()
        except RuntimeError as error:
            reason = str(error).partition('\n')[0]
            log.warning('%s runs without a CUDA graph, which is slower: %s', name, reason)
            torch.cuda.synchronize(self.device)
            return None

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay
