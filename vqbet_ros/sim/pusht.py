"""PushT: a round pusher moves a T-shaped block onto a goal, in pixels of a 512 x 512 table.

The world is gym-pusht's, physics and pixels alike; this module adds the access that a robot has
(10 ms substeps, sensors read one by one) and leaves out what costs time when nobody asks for it.
"""

import os
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from vqbet_ros.errors import VqbetError
from vqbet_ros.resources import how_to_install

SIZE = 512.0
CONTROL_HZ = 10
SUBSTEP_S = 0.01
SUBSTEPS = 10
IMAGE_SIZE = 96
SUCCESS_COVERAGE = 0.95

STATE_NAMES = ('x', 'y')
KEYPOINT_NAMES = tuple(f'kp{i}_{axis}' for i in range(8) for axis in 'xy')

# The block's corners in its own frame, px: the bar's four, then the stem's four, in the order in
# which gym-pusht's physics engine lists the vertices.
_CORNERS = np.array(
    [(-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120)],
    dtype=np.float64,
)
# The bit masks of red, green, blue and alpha in a screen whose bytes are blue, green, red, unused.
_BGRX = (0xFF0000, 0xFF00, 0xFF, 0)


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


class PushTWorld:
    """One PushT table. Call `reset` or `set_state` to begin an episode.

    Args:
        seed: Of the first episode; see `reset`.

    Raises:
        VqbetError: gym-pusht is not installed.
    """

    def __init__(self, seed: int = 0) -> None:
        """Set up the table and its first episode."""
        self._env = _make_env()
        self._pd = (float(self._env.k_p), float(self._env.k_v))
        # Imported here and not above for the same reason as gym-pusht itself.
        from pygame.surfarray import pixels2d

        self._pixels2d = pixels2d
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Begin the episode that gym-pusht begins with this seed."""
        self._env.reset(seed=seed)

    def set_state(self, state: ArrayLike) -> None:
        """Begin an episode at rest in a recorded state.

        Args:
            state: (5,) pusher x, y, block x, y in px and angle in rad.
        """
        pusher_x, pusher_y, x, y, angle = np.asarray(state, dtype=np.float64).tolist()
        self._env._setup()
        agent, block, space = self._env.agent, self._env.block, self._env.space
        agent.position = pusher_x, pusher_y
        # Turning moves the origin, because the body turns about its centre of gravity; so the
        # angle comes first. (gym-pusht's own reset_to_state does it the other way round.)
        block.angle = angle
        block.position = x, y
        space.reindex_shapes_for_body(agent)
        space.reindex_shapes_for_body(block)

    def substep(self, target: ArrayLike | None) -> None:
        """Advance by 10 ms under the PD controller.

        Args:
            target: (2,) where the pusher shall go, px, 0 to 512. None: it brakes and stays.
        """
        if target is None:
            x, y = self._env.agent.position
        else:
            x, y = np.asarray(target, dtype=np.float64).tolist()
        self._substep(x, y)

    def step(self, target: ArrayLike) -> None:
        """Advance by 100 ms: the physics of gym-pusht's `step`, without observing or scoring.

        Args:
            target: (2,) where the pusher shall go, px, 0 to 512.
        """
        x, y = np.asarray(target, dtype=np.float64).tolist()
        for _ in range(SUBSTEPS):
            self._substep(x, y)

    def pusher(self) -> NDArray[np.float32]:
        """Return the pusher's position, (2,) px."""
        return np.array(self._env.agent.position, dtype=np.float32)

    def state(self) -> NDArray[np.float64]:
        """Return (5,) pusher x, y, block x, y in px and angle in rad, which is not wrapped."""
        agent, block = self._env.agent, self._env.block
        return np.array([*agent.position, *block.position, block.angle], dtype=np.float64)

    def keypoints(self) -> NDArray[np.float32]:
        """Return the block's corners, (16,) px, as `tee_keypoints` orders them."""
        return tee_keypoints(self.state()[2:])

    def image(self) -> NDArray[np.uint8]:
        """Return what gym-pusht's camera sees, (96, 96, 3) RGB."""
        screen = self._env._draw()
        if screen.get_masks() != _BGRX:
            return self.frame(IMAGE_SIZE)
        # gym-pusht copies the screen colour by colour before it shrinks it; shrinking the screen's
        # own memory gives the same pixels in a third of the time.
        pixels = self._pixels2d(screen).T.view(np.uint8).reshape(*screen.get_size(), 4)
        small = cv2.resize(pixels, (IMAGE_SIZE, IMAGE_SIZE))
        return np.ascontiguousarray(small[..., 2::-1], dtype=np.uint8)

    def frame(self, size: int, target: ArrayLike | None = None) -> NDArray[np.uint8]:
        """Draw the table for people to look at.

        Args:
            size: Height and width in px.
            target: (2,) px of the table, 0 to 512; drawn as a red cross.

        Returns:
            (size, size, 3) RGB.
        """
        if target is not None:
            self._env._last_action = np.asarray(target, dtype=np.float64)
        image: NDArray[np.uint8] = self._env._get_img(
            self._env._draw(), width=size, height=size, render_action=target is not None
        )
        return image

    def coverage(self) -> float:
        """Return the share of the goal that the block covers, 0 to 1."""
        return float(self._env._get_coverage())

    def success(self) -> bool:
        """Tell whether the block covers more than 95 % of the goal."""
        return self.coverage() > SUCCESS_COVERAGE

    def _substep(self, x: float, y: float) -> None:
        # Plain floats in the order of gym-pusht's expressions: the same bits, a third of the time.
        agent = self._env.agent
        k_p, k_v = self._pd
        (px, py), (vx, vy) = agent.position, agent.velocity
        ax = k_p * (x - px) + k_v * (0 - vx)
        ay = k_p * (y - py) + k_v * (0 - vy)
        agent.velocity = vx + ax * SUBSTEP_S, vy + ay * SUBSTEP_S
        self._env.space.step(SUBSTEP_S)


def _make_env() -> Any:
    # Imported here, so that tee_keypoints works without the simulator. SDL needs no display.
    os.environ.setdefault('SDL_VIDEODRIVER', 'dummy')
    os.environ.setdefault('PYGAME_HIDE_SUPPORT_PROMPT', '1')
    try:
        from gym_pusht.envs.pusht import PushTEnv
    except ImportError as error:
        raise VqbetError(
            f'the PushT world needs gym-pusht, which cannot be imported ({error}); '
            + how_to_install('sim')
        ) from error
    return PushTEnv(obs_type='state')
