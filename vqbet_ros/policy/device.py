"""Where a policy is computed."""

from typing import Literal

import torch
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
