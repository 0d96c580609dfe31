"""Videos of the demo: what the robot's camera saw, enlarged, with what was measured."""

from pathlib import Path
import threading

import cv2
import numpy as np
from numpy.typing import NDArray
from vqbet_ros.cli.video import VideoFile

_ZOOM = 4
_TABLE_PX = 512  # the side of PushT's world


class DemoVideo:
    """Writes the frames of one episode after another, enlarged, with what was measured.

    Frames come from another thread than `open` and `close`.
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._lock = threading.Lock()
        self._file: VideoFile | None = None

    def open(self, path: Path) -> None:
        """Begin a video; its size is that of the first frame."""
        with self._lock:
            self._file = VideoFile(path, self._rate_hz)

    def add(
        self, image: NDArray[np.uint8], score: dict[str, str], command: list[float] | None
    ) -> None:
        """Write one frame, if a video is open.

        Args:
            image: (H, W, 3) RGB.
            score: What sim_node measures.
            command: Target (x, y) in px of the table, drawn as a cross.
        """
        with self._lock:
            if self._file is not None and score:
                self._file.add(_draw(image, score, command))

    def close(self) -> None:
        """End the video, if one is open."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def _draw(
    image: NDArray[np.uint8], score: dict[str, str], command: list[float] | None
) -> NDArray[np.uint8]:
    """Enlarge an RGB frame and write on it."""
    height, width = (side * _ZOOM for side in image.shape[:2])
    frame = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    if command is not None:
        x, y = (round(value * width / _TABLE_PX) for value in command[:2])
        cv2.drawMarker(frame, (x, y), (255, 0, 0), cv2.MARKER_CROSS, 12, 2)
    text = f'overlap {float(score["coverage"]):.2f}, best {float(score["max_coverage"]):.2f}'
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(frame, text, (8, 20), font, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.asarray(frame, dtype=np.uint8)
