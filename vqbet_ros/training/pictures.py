"""A dataset's pictures on the way to the device: kept there when they fit, else read ahead.

Legend: n cameras, H x W_px an image, N frames.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.windows import Rows
from vqbet_ros.policy.device import upload

KEPT_SHARE = 0.4  # of a GPU's free memory that pictures may take; the rest is the training's
AHEAD = 4  # batches that may wait, read but not taken


class Pictures:
    """Reads pictures by rows; the same bits whatever way they take."""

    def __init__(self, dataset: Dataset, device: torch.device, kept: bool | None = None) -> None:
        """Copy all pictures to the device, where that is worth it.

        Args:
            dataset: Where they are; its files are mapped into memory.
            device: Where they are wanted.
            kept: Whether all are kept on the device; None decides by what fits.
        """
        self.device = device
        self._arrays = [dataset.images[camera.name] for camera in dataset.spec.cameras]
        self._kept: list[Tensor] | None = None
        self._ahead: dict[bytes, Future[Tensor]] = {}
        self._reader: ThreadPoolExecutor | None = None
        if self._fit() if kept is None else kept:
            self._kept = [torch.tensor(array, device=device) for array in self._arrays]

    def read(self, rows: Rows) -> Tensor:
        """Return the pictures at rows (...) as (..., n, H, W_px, 3) uint8 on the device.

        Raises:
            ValueError: The cameras differ in size.
        """
        flat = rows.reshape(-1)
        if self._kept is not None:
            at = upload(flat, self.device)
            stacked = torch.stack([pictures[at] for pictures in self._kept], dim=1)
        else:
            waiting = self._ahead.pop(flat.tobytes(), None)
            gathered = self._gather(flat) if waiting is None else waiting.result()
            # From pinned memory nobody waits for the copy: the device makes it in its turn.
            stacked = gathered.to(self.device, non_blocking=True)
        return stacked.reshape(*rows.shape, *stacked.shape[1:])  # (..., n, H, W_px, 3)

    def read_ahead(self, rows: Rows) -> None:
        """Begin to read rows that `read` will be asked for soon."""
        if self._kept is not None or not self._arrays:
            return
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix='pictures')
        while len(self._ahead) >= AHEAD:  # nobody came for the oldest
            self._ahead.pop(next(iter(self._ahead))).cancel()
        flat = rows.reshape(-1)
        self._ahead[flat.tobytes()] = self._reader.submit(self._gather, flat)

    def _gather(self, flat: Rows) -> Tensor:
        gathered = torch.from_numpy(np.stack([array[flat] for array in self._arrays], axis=1))
        return gathered.pin_memory() if self.device.type == 'cuda' else gathered

    def _fit(self) -> bool:
        if self.device.type != 'cuda':
            return False  # the files are in memory as it is
        free, _ = torch.cuda.mem_get_info(self.device)
        return sum(array.nbytes for array in self._arrays) <= KEPT_SHARE * free
