"""The last stage before the robot: keeps each command within the spec's limits.

This stage knows the range of positions. Speed, acceleration and jerk have their places in the
spec; a spec that sets them is refused until this stage keeps them.
"""

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import ConfigError, listed
from vqbet_ros.spec import ActionSpec


class Limiter:
    """Clamps positions to their range.

    Args:
        action: Absolute joint targets with a range for each.

    Attributes:
        clamped: For each joint, how many commands were outside its range.

    Raises:
        ConfigError: The spec asks for something that is not kept here.
    """

    def __init__(self, action: ActionSpec) -> None:
        problems = [
            f'action.limits.{name}.{kind}: got {value}, expected null'
            for name, limits in action.limits.items()
            for kind in ('velocity', 'acceleration', 'jerk')
            if (value := getattr(limits, kind)) is not None
        ]
        if action.kind != 'joints' or action.gripper is not None:
            what = 'a gripper of its own' if action.kind == 'joints' else f"kind '{action.kind}'"
            problems.append(f'action: got {what}, but only joints can be commanded as yet')
        if action.reference != 'absolute':
            problems.append(f"action.reference: got '{action.reference}', expected 'absolute'")
        if problems:
            raise ConfigError(listed('the limiter knows position ranges only', problems))
        self._names = action.names
        ranges = [action.limits[name].position for name in action.names]
        self._low, self._high = np.array(ranges, dtype=np.float64).T  # each (A,)
        self.clamped = dict.fromkeys(action.names, 0)

    def limit(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the nearest allowed command.

        Args:
            values: (A,) finite positions in the action's unit.

        Returns:
            A new (A,) array.

        Raises:
            ValueError: A value is not finite; there is no nearest command.
        """
        if not np.isfinite(values).all():
            raise ValueError(f'command: got {values}, expected finite numbers')
        limited = np.clip(values, self._low, self._high)
        for index in np.flatnonzero(limited != values):
            self.clamped[self._names[index]] += 1
        return limited
