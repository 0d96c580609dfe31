"""Where the robot is, in the order of what is commanded."""

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.spec import RobotSpec


class Measured:
    """Picks the numbers of the state that the action commands.

    Args:
        spec: The robot.
    """

    def __init__(self, spec: RobotSpec) -> None:
        velocity = spec.action.is_velocity
        arm = set(spec.action.arm_channels)
        self._columns = [
            # What commands a velocity has no place to be at.
            None if velocity and name in arm else spec.measured(name)
            for name in spec.action_names
        ]

    def of(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (A,) of a state (S,), NaN for what is not measured."""
        return np.array([np.nan if column is None else state[column] for column in self._columns])
