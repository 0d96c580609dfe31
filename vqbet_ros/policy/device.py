"""Where a policy is computed, and how numbers get there."""

from typing import Any, Literal

from numpy.typing import NDArray
import torch
from torch import Tensor
from vqbet_ros.errors import ConfigError


def pick_device(name: str) -> Literal['cpu', 'cuda']:
    """Turn `auto`, `cpu` or `cuda` into a device that is there.

    Raises:
        ConfigError: CUDA is asked for and absent.
    """
    present = torch.cuda.is_available()
    if name == 'cuda' and not present:
        raise ConfigError(
            "device: got 'cuda', but torch sees no CUDA GPU here "
            f'(torch {torch.__version__}, built for CUDA {torch.version.cuda}): '
            'use cpu, or check the driver with nvidia-smi'
        )
    return 'cuda' if name == 'cuda' or (name == 'auto' and present) else 'cpu'


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on the device; nobody waits for a GPU to take it."""
    tensor = torch.from_numpy(array)
    if device.type == 'cuda':
        # Only from pinned memory can a GPU fetch it later, and until then torch keeps it.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
