"""The part of the spec that says how cautiously the policy is run on the robot."""

from dataclasses import dataclass, field
import math
from typing import Literal

from vqbet_ros.checks import Check, positive, require
from vqbet_ros.gate_spec import GateSettings


@dataclass(frozen=True)
class LimiterSettings:
    """Of the limiters.

    Attributes:
        soft_margin: Share of every range that is kept free at both of its ends, 0 to less than
            0.5.
        gross_position: A target that lies outside its range by more than this share of the range
            is refused instead of clamped.
        gross_velocity: A target that jumps further than this many times the largest velocity
            leads in `seam_s` is refused instead of clamped.
        seam: A chunk whose first action is further from the last command than this share of the
            range is refused.
        seam_s: A jump, or the way to a chunk's first action, may be as long as `gross_velocity`
            leads in this time, however short the time is that it has: a policy's step.
    """

    soft_margin: float = 0.0
    gross_position: float = 0.25
    gross_velocity: float = 10.0
    seam: float = 1.5
    seam_s: float = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            (
                0 <= self.soft_margin < 0.5,
                f'soft_margin: got {self.soft_margin}, expected 0 to 0.5',
            ),
            (
                self.gross_position >= 0,
                f'gross_position: got {self.gross_position}, expected 0 or more',
            ),
            (
                positive(self.gross_velocity) and self.gross_velocity >= 1,
                f'gross_velocity: got {self.gross_velocity}, expected 1 or more',
            ),
            (self.seam > 0, f'seam: got {self.seam}, expected more than 0'),
            (positive(self.seam_s), f'seam_s: got {self.seam_s}, expected more than 0'),
        )


@dataclass(frozen=True)
class CartesianSettings:
    """Of end-effector poses; null where nothing is limited.

    Attributes:
        linear_velocity: Largest speed, in the action's unit per second.
        linear_acceleration: Largest acceleration.
        angular_velocity: Largest speed of turning in rad/s.
        angular_acceleration: Largest acceleration of turning in rad/s^2.
        min_height: Lowest z in the action's frame, above the workspace's own; 0.0 is a height.
    """

    linear_velocity: float | None = None
    linear_acceleration: float | None = None
    angular_velocity: float | None = None
    angular_acceleration: float | None = None
    min_height: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            _positive_or_none('linear_velocity', self.linear_velocity),
            _positive_or_none('linear_acceleration', self.linear_acceleration),
            _positive_or_none('angular_velocity', self.angular_velocity),
            _positive_or_none('angular_acceleration', self.angular_acceleration),
            (
                self.min_height is None or math.isfinite(self.min_height),
                f'min_height: got {self.min_height}, expected a finite number or null',
            ),
        )


@dataclass(frozen=True)
class BlendSettings:
    """How a new chunk goes on from those before it; see vqbet_ros.runtime.blending.

    Attributes:
        kind: What is done at the seam.
        steps: Steps over which 'cross_fade' goes from the old plan to the new one.
        decay: m of the weights exp(-m i) of 'ensemble' and 'mode', i = 0 for the oldest chunk: the
            smaller, the faster new chunks count.
        hysteresis: With 'mode', how much more probable another primary code has to be before the
            policy leaves the one that is being executed, 0 to 1.
    """

    kind: Literal['replace', 'cross_fade', 'ensemble', 'mode'] = 'replace'
    steps: int = 3
    decay: float = 0.01
    hysteresis: float = 0.2

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            (self.steps >= 1, f'steps: got {self.steps}, expected 1 or more'),
            (math.isfinite(self.decay), f'decay: got {self.decay}, expected a finite number'),
            (
                0 <= self.hysteresis <= 1,
                f'hysteresis: got {self.hysteresis}, expected 0 to 1',
            ),
        )


@dataclass(frozen=True)
class StartSettings:
    """What happens where the plan begins far from the robot.

    Attributes:
        tolerance: Distance of any joint (not of a gripper) from where it is measured, in the
            action's unit; null for any.
        beyond: What is done beyond it: 'refuse' disarms, 'ramp_in' goes over to the plan slowly.
        ramp_in_s: How long that takes.
    """

    tolerance: float | None = None
    beyond: Literal['refuse', 'ramp_in'] = 'refuse'
    ramp_in_s: float = 2.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            _positive_or_none('tolerance', self.tolerance),
            (positive(self.ramp_in_s), f'ramp_in_s: got {self.ramp_in_s}, expected more than 0'),
        )


@dataclass(frozen=True)
class WatchSettings:
    """What is watched while the robot is commanded; null switches a watch off.

    Attributes:
        deadman_timeout_s: A deadman switch has to be heard of that often; without it the robot
            stops and is disarmed.
        inference_deadline_s: Longest time that one inference may take.
        tracking_error: Largest distance of any joint (not of a gripper) from its last command, in
            the action's unit.
        tracking_s: How long it may be larger than that.
        clock_jump_s: Largest difference of the clock from a steady one between two ticks.
        hold_limit_s: How long an enabled robot may wait or be held before it is disarmed: nobody
            expects it to go on by itself after that.
        foreign_publishers: Whether it is a fault that somebody else sends commands too.
    """

    deadman_timeout_s: float | None = None
    inference_deadline_s: float | None = None
    tracking_error: float | None = None
    tracking_s: float = 0.2
    clock_jump_s: float | None = 0.5
    hold_limit_s: float | None = None
    foreign_publishers: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            _positive_or_none('deadman_timeout_s', self.deadman_timeout_s),
            _positive_or_none('inference_deadline_s', self.inference_deadline_s),
            _positive_or_none('tracking_error', self.tracking_error),
            (self.tracking_s >= 0, f'tracking_s: got {self.tracking_s}, expected 0 or more'),
            _positive_or_none('clock_jump_s', self.clock_jump_s),
            _positive_or_none('hold_limit_s', self.hold_limit_s),
        )


@dataclass(frozen=True)
class MonitorSettings:
    """What the monitors take for too much; null switches one off.

    Attributes:
        window_s: Length of the window that they look at.
        reversals_hz: How often any number of the commands may turn back per second.
        reversal_size: Movements up to this size, in the action's unit, are no turning back.
        jerk: Largest root mean square of any number's third derivative, in unit/s^3.
        confidence: Smallest mean probability of the primary codes, 0 to 1.
        on_reversals: What then happens.
        on_jerk: What then happens.
        on_confidence: What then happens.
    """

    window_s: float = 1.0
    reversals_hz: float | None = None
    reversal_size: float = 0.0
    jerk: float | None = None
    confidence: float | None = None
    on_reversals: Literal['warn', 'hold'] = 'warn'
    on_jerk: Literal['warn', 'hold'] = 'warn'
    on_confidence: Literal['warn', 'hold'] = 'warn'

    def __post_init__(self) -> None:
        """Check the ranges."""
        sure = self.confidence is None or 0 <= self.confidence <= 1
        require(
            (positive(self.window_s), f'window_s: got {self.window_s}, expected more than 0'),
            _positive_or_none('reversals_hz', self.reversals_hz),
            (
                self.reversal_size >= 0,
                f'reversal_size: got {self.reversal_size}, expected 0 or more',
            ),
            _positive_or_none('jerk', self.jerk),
            (sure, f'confidence: got {self.confidence}, expected 0 to 1, or null'),
        )


@dataclass(frozen=True)
class RuntimeSettings:
    """How the policy is run.

    Attributes:
        control_rate_hz: Rate of the commands; null for the policy's. The node's parameter of that
            name wins over it.
        interpolation: What is commanded between two actions.
        bad_chunk: What happens when a chunk is not finite or grossly wrong: 'fault', or 'hold'
            when the chunk before it ends.
    """

    control_rate_hz: float | None = None
    interpolation: Literal['step', 'linear', 'cubic'] = 'linear'
    bad_chunk: Literal['fault', 'hold'] = 'fault'
    gate: GateSettings = field(default_factory=GateSettings)
    limiter: LimiterSettings = field(default_factory=LimiterSettings)
    cartesian: CartesianSettings = field(default_factory=CartesianSettings)
    blend: BlendSettings = field(default_factory=BlendSettings)
    start: StartSettings = field(default_factory=StartSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    monitors: MonitorSettings = field(default_factory=MonitorSettings)

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(_positive_or_none('control_rate_hz', self.control_rate_hz))


def _positive_or_none(name: str, value: float | None) -> Check:
    fine = value is None or positive(value)
    return fine, f'{name}: got {value}, expected more than 0, or null'
