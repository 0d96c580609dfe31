"""PushT: a round pusher moves a T-shaped block onto a goal, in pixels of a 512 x 512 table."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

STATE_NAMES = ('x', 'y')
KEYPOINT_NAMES = tuple(f'kp{i}_{axis}' for i in range(8) for axis in 'xy')

# The block's corners in its own frame, px: the bar's four, then the stem's four, in the order in
# which gym-pusht's physics engine lists the vertices.
_CORNERS = np.array(
    [(-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120)],
    dtype=np.float64,
)


def tee_keypoints(pose: ArrayLike) -> NDArray[np.float32]:
    """Place the block's 8 corners, in the order of gym-pusht's `get_keypoints`.

    Args:
        pose: (..., 3) block x and y in px and angle in rad. x and y are the body's origin (the
            middle of the bar's outer edge), not its centre of gravity.

    Returns:
        (..., 16) float32 px: x0, y0, x1, y1, ...
    """
    pose = np.asarray(pose, dtype=np.float64)
    cos, sin = np.cos(pose[..., 2:3]), np.sin(pose[..., 2:3])  # (..., 1)
    x = pose[..., 0:1] + cos * _CORNERS[:, 0] - sin * _CORNERS[:, 1]  # (..., 8)
    y = pose[..., 1:2] + sin * _CORNERS[:, 0] + cos * _CORNERS[:, 1]
    corners = np.stack([x, y], axis=-1)  # (..., 8, 2)
    return corners.reshape(*pose.shape[:-1], 16).astype(np.float32)
