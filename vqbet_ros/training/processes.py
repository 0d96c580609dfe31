"""Several processes that train one policy, started by `accelerate launch`.

Each takes its share of every batch; gradients are added up, so that all hold the same weights.
The first one, `main`, writes everything.
"""

from collections.abc import Sequence
import os
from typing import Literal

import torch
from torch import distributed, nn, Tensor
from vqbet_ros.data.windows import FrameTable


class Processes:
    """This process among all that train; alone, until `start` says otherwise."""

    def __init__(self, rank: int = 0, count: int = 1, device: str = 'cpu') -> None:
        """Stand at place `rank` of `count`; tensors that are exchanged lie on the device."""
        self.rank, self.count, self._device = rank, count, device

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, frames: FrameTable) -> FrameTable:
        """Return the samples of a batch that this process takes."""
        return frames.take(slice(self.rank, None, self.count))  # type: ignore[arg-type]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over all processes."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])  # one message, not hundreds
        distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def lowest(self, value: float) -> float:
        """Return the lowest of all processes' values."""
        if self.count == 1:
            return value
        values = torch.tensor([value], dtype=torch.float64, device=self._device)
        distributed.all_reduce(values, distributed.ReduceOp.MIN)
        return float(values)

    def any(self, flag: bool) -> bool:
        """Return whether it is so in any of the processes."""
        return self.lowest(-float(flag)) < 0

    def equal(self, module: nn.Module) -> None:
        """Give all processes the main one's weights and buffers."""
        if self.count > 1:
            for value in module.state_dict().values():
                distributed.broadcast(value, 0)

    def leave(self) -> None:
        """Part from the others; a process that ends without it may be aborted while it ends."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


ALONE = Processes()


def start(device: Literal['cpu', 'cuda']) -> Processes:
    """Join the processes that were started together; alone where there is one.

    Raises:
        ModuleNotFoundError: There are several, but accelerate (extra `distributed`) is missing.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=device == 'cpu')  # also chooses this process's GPU
    return Processes(state.process_index, state.num_processes, device)
