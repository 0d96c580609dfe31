"""Which observations are not trusted, though every stream is fresh and whole: see GateSettings.

S: channels of the whole state.
"""

from collections.abc import Callable, Mapping, Sequence
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vqbet_ros.gate_spec import GateSettings
from vqbet_ros.message_types import POSE_STAMPED
from vqbet_ros.runtime.gate import in_ms, Reason, ReasonKind
from vqbet_ros.runtime.stream import Sample
from vqbet_ros.spec import ActionSpec, JointLimits, RobotSpec, StateSpec

Same = Callable[[Any, Any], bool]
"""Tells whether two payloads of a camera have the same content; their stamps are none of it."""


class Trust:
    """Judges the newest samples of all streams.

    Args:
        spec: The robot.
        settings: What is looked at.
        same: Compares pictures; needed where frozen ones are looked for.

    Raises:
        ValueError: It is needed and not given.
    """

    def __init__(self, spec: RobotSpec, settings: GateSettings, same: Same | None = None) -> None:
        self._cameras = tuple(camera.name for camera in spec.cameras)
        self._settings, self._same = settings, same
        if settings.frozen_after is not None and same is None:
            raise ValueError('same: got None, but gate.frozen_after needs pictures to be compared')
        margin = settings.range_margin
        self._ranges = None if margin is None else RangeCheck(spec, margin)
        self.looks = settings != GateSettings()

    def reasons(
        self,
        taken: Mapping[str, Sequence[Sample]],
        newest_state: Callable[[], NDArray[np.floating]],
    ) -> list[Reason]:
        """Return everything that speaks against the newest samples.

        Args:
            taken: Of each stream, in the order of their stamps.
            newest_state: Reads the newest of each number of the state (S,).
        """
        newest_ns = {name: samples[-1].stamp_ns for name, samples in taken.items() if samples}
        found = [] if self._ranges is None else self._ranges.check(newest_state())
        if self._settings.max_skew_s is not None:
            found += check_skew(newest_ns, round(self._settings.max_skew_s * 1e9))
        if self._settings.frozen_after is not None and self._same is not None:
            for name in self._cameras:
                pictures = 1 + count_repeats(taken[name], self._same)
                if pictures >= self._settings.frozen_after:
                    text = f'its last {pictures} pictures are the same, byte by byte'
                    found.append(Reason(ReasonKind.FROZEN, text, name))
        return found


def check_skew(newest_ns: Mapping[str, int], max_skew_ns: int) -> list[Reason]:
    """Say which stream lags most, if it lags too much: what the policy sees never was at one time.

    Args:
        newest_ns: Time of each stream's newest sample.
        max_skew_ns: Limit of the difference.
    """
    if not newest_ns:
        return []
    by_age = sorted(newest_ns, key=newest_ns.__getitem__)
    last, first = by_age[0], by_age[-1]
    skew_ns = newest_ns[first] - newest_ns[last]
    if skew_ns <= max_skew_ns:
        return []
    detail = f'newest is {in_ms(skew_ns)} before that of {first}, limit {in_ms(max_skew_ns)}'
    return [Reason(ReasonKind.SKEW, detail, last)]


class RangeCheck:
    """Knows which numbers of the state have a range: those that the action commands.

    Left out is what cannot be compared: limits of velocities and of differences, and what is
    measured in another unit or frame than it is commanded in.

    Args:
        spec: The robot.
        margin: Share of its range by which a number may lie outside of it, 0 or more.
    """

    def __init__(self, spec: RobotSpec, margin: float) -> None:
        self._margin = margin
        self._ranges = [
            (part.stream, name, column, limits.position)
            for name, limits in _positions(spec).items()
            if (column := spec.measured(name)) is not None
            and _is_comparable(part := _part_of(spec, column), spec.action, name)
        ]

    def check(self, state: NDArray[np.floating]) -> list[Reason]:
        """Return a reason for each stream with numbers outside their range.

        Args:
            state: (S,) in the spec's units; NaN is no number outside.
        """
        outside: dict[str, list[str]] = {}
        for stream, name, column, (low, high) in self._ranges:
            value = float(state[column])
            beyond = max(low - value, value - high)
            if beyond > 0 and beyond > self._margin * (high - low):
                text = f'{name}: {value:g}, not {low:g} to {high:g}'
                outside.setdefault(stream, []).append(text)
        return [
            Reason(ReasonKind.OUT_OF_RANGE, '; '.join(texts), stream)
            for stream, texts in outside.items()
        ]


def _positions(spec: RobotSpec) -> dict[str, JointLimits]:
    """Return the limits of what is commanded as an absolute position."""
    action = spec.action
    absolute = not action.is_velocity and action.reference == 'absolute'
    limits = dict(action.limits) if absolute else {}
    if action.gripper is not None:
        limits[action.gripper.name] = action.gripper.limits
    return limits


def _part_of(spec: RobotSpec, column: int) -> StateSpec:
    parts = [part for part in spec.state for _ in part.channels]
    return parts[column]


def _is_comparable(part: StateSpec, action: ActionSpec, name: str) -> bool:
    gripper = action.gripper
    unit = gripper.unit if gripper is not None and gripper.name == name else action.unit
    return part.unit == unit and (part.type != POSE_STAMPED or part.frame_id == action.frame_id)


def count_repeats(samples: Sequence[Sample], same: Same) -> int:
    """Return how many samples just before the newest have its content; compares each pair once.

    Args:
        samples: In the order of their stamps; other threads may count at the same time.
        same: Compares two payloads.
    """
    if not samples:
        return 0
    known = len(samples) - 1
    while known > 0 and samples[known].repeats is None:
        known -= 1
    repeats = samples[known].repeats or 0
    samples[known].repeats = repeats
    for before, sample in itertools.pairwise(samples[known:]):
        repeats = repeats + 1 if same(before.payload, sample.payload) else 0
        sample.repeats = repeats
    return repeats
