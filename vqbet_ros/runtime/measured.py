"""Where the robot is, in the order of what is commanded."""

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.errors import ConfigError, listed
from vqbet_ros.runtime_spec import RuntimeSettings
from vqbet_ros.spec import RobotSpec


class Measured:
    """Picks the numbers of the state that the action commands.

    Args:
        spec: The robot.

    Attributes:
        known: (A,) bool, which numbers are measured at all.
    """

    def __init__(self, spec: RobotSpec) -> None:
        velocity = spec.action.is_velocity
        arm = set(spec.action.arm_channels)
        self._columns = [
            # What commands a velocity has no place to be at.
            None if velocity and name in arm else spec.measured(name)
            for name in spec.action_names
        ]
        self.known = np.array([column is not None for column in self._columns])

    def of(self, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (A,) of a state (S,), NaN for what is not measured."""
        return np.array([np.nan if column is None else state[column] for column in self._columns])


def require_measured(spec: RobotSpec, settings: RuntimeSettings, *, seed: bool) -> None:
    """Refuse what would be kept from nothing, because nobody can say where the robot is.

    Args:
        spec: The robot.
        settings: How it is run.
        seed: Whether the limiter has to know where places begin.

    Raises:
        ConfigError: Lists every setting that needs joints which are not measured.
    """
    known = dict(zip(spec.action_names, Measured(spec).known, strict=True))
    unseen = [name for name in spec.action.arm_channels if not known[name]]
    velocity = spec.action.is_velocity
    if not unseen:
        return
    problems = [
        f'runtime.{key}: got {value:g}, expected null'
        for key, value in (
            ('start.tolerance', settings.start.tolerance),
            ('watch.tracking_error', settings.watch.tracking_error),
        )
        if value is not None
    ]
    if velocity:
        title = f'{spec.robot}: velocities are commanded, which say of no joint where it is to be'
    else:
        names = ', '.join(f'{name}/position or {name}' for name in unseen)
        title = f'{spec.robot}: where joints are is not measured: expected {names} in the state'
        if seed:
            problems.insert(0, 'action.limits: rates are limited from where the robot is')
    if problems:
        raise ConfigError(listed(title, problems))
