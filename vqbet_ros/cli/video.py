"""Writes pictures as MP4 videos through OpenCV."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import VqbetError


class VideoFile:
    """One MP4, opened with its first picture."""

    def __init__(self, path: Path, rate_hz: float) -> None:
        """Name the file; nothing is written yet."""
        self._path, self._rate_hz = path, rate_hz
        self._writer: cv2.VideoWriter | None = None

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Append a picture (H, W, 3) uint8 RGB; all must have the same size.

        Raises:
            VqbetError: The file cannot be written.
        """
        if self._writer is None:
            height, width = picture.shape[:2]
            code = cv2.VideoWriter.fourcc(*'mp4v')
            self._writer = cv2.VideoWriter(str(self._path), code, self._rate_hz, (width, height))
            if not self._writer.isOpened():
                raise VqbetError(f'cannot write the video {self._path}: is the folder writable?')
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None


class Videos:
    """One video an episode, named by its seed."""

    def __init__(self, folder: Path, rate_hz: float) -> None:
        """Make the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._rate_hz = folder, rate_hz
        self._files: dict[int, VideoFile] = {}

    def add(self, seed: int, picture: NDArray[np.uint8]) -> None:
        """Append a picture to the seed's video."""
        if seed not in self._files:
            self._files[seed] = VideoFile(self._folder / f'seed_{seed}.mp4', self._rate_hz)
        self._files[seed].add(picture)

    def close(self) -> None:
        """Finish all videos."""
        for file in self._files.values():
            file.close()
