"""Runs a policy's exported graph in ONNX Runtime, which is the faster one on many CPUs.

A run of the graph encodes the newest frames and decides. Frames that no run has seen as its
newest, between two plans, at the beginning or after a gap, are encoded by runs whose decisions
are dropped.

Legend: h history steps, n cameras, F features.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from vqbet_ros.errors import BadCheckpoint
from vqbet_ros.policy.onnx_export import FINGERPRINT, fingerprint, GOAL, image_name, OUTPUTS
from vqbet_ros.policy.packed import PLAIN
from vqbet_ros.policy.policy import Goal, Policy
from vqbet_ros.policy.runner import Answer, Question

_DTYPES = {
    'tensor(float)': np.float32,
    'tensor(uint8)': np.uint8,
    'tensor(bool)': np.bool_,
    'tensor(int64)': np.int64,
}


class OnnxRunner:
    """What `runner.Runner` does, by an exported graph."""

    runtime = 'ONNX Runtime'
    numbers = PLAIN

    def __init__(self, policy: Policy, path: Path, *, rows: int, temperature: float) -> None:
        """Load a graph.

        Args:
            policy: What it was exported from.
            path: The file.
            rows: Of the ring of features.
            temperature: See `CodeHead.choose`.

        Raises:
            BadCheckpoint: The graph cannot be loaded, is another policy's, or is for another
                temperature.
            ModuleNotFoundError: There is no ONNX Runtime.
        """
        import onnxruntime  # an extra

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Its threads wait for each other awake, which is fast; between decisions they sleep.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # its exceptions have no other class in common
            raise BadCheckpoint(f'{path} cannot be loaded: {error}') from error
        known = self._session.get_modelmeta().custom_metadata_map.get(FINGERPRINT)
        if known != fingerprint(policy, temperature):
            raise BadCheckpoint(
                f'{path} was not exported from this checkpoint for temperature {temperature:g}, '
                'or by another version of this package; run `vqbet export onnx` again'
            )
        spec, config = policy.spec, policy.config
        self._cameras = [image_name(camera.name) for camera in spec.cameras]
        self._ring = np.zeros((rows, config.vision.features), np.float32)
        self._images: dict[int, NDArray[np.uint8]] = {}
        self._waiting: set[int] = set()
        self._goal: dict[str, NDArray[Any]] = {}
        self._goal_steps = config.goal_steps
        self._empty_goal = {
            'goal_features': np.zeros(
                (config.goal_steps, len(spec.cameras), config.vision.features), np.float32
            ),
            'goal_state': np.zeros((config.goal_steps, spec.state_dim), np.float32),
            'goal_present': np.zeros(config.goal_steps, bool),
        }
        self._blank: dict[str, NDArray[Any]] = {
            value.name: np.zeros(value.shape, _DTYPES[value.type])
            for value in self._session.get_inputs()
        }
        self.set_goal(None)

    def set_goal(self, goal: Goal | None) -> None:
        """See `Runner.set_goal`."""
        values = dict(self._empty_goal)
        if goal is not None:
            values['goal_present'] = np.ones(self._goal_steps, bool)
            for name, value in zip(GOAL, (goal.features, goal.state), strict=False):
                if value is not None:
                    values[name] = value[0].cpu().numpy()
        self._goal = values

    def encode(self, image: NDArray[np.uint8], row: int) -> None:
        """Remember an image (H, W_px, 3); its features come with the run that needs them."""
        self._images[row] = image
        self._waiting.add(row)

    def settle(self, rows: Sequence[int]) -> None:
        """See `Runner.settle`."""
        if self._waiting & set(rows):
            self._run({}, rows)

    def decide(self, question: Question) -> Answer:
        """See `Runner.decide`."""
        *earlier, newest = question.rows
        for step in earlier:
            self.settle(step)
        inputs: dict[str, NDArray[Any]] = {
            **self._goal,
            'state': np.ascontiguousarray(question.state, dtype=np.float32),
            'present': np.ascontiguousarray(question.present, dtype=bool),
            'running': np.array([question.running], dtype=np.int64),
            'hysteresis': np.array([question.hysteresis], dtype=np.float32),
        }
        if self._cameras:
            rows = np.array(earlier, dtype=np.int64)  # (h-1, n)
            inputs['earlier_features'] = self._ring[rows]  # (h-1, n, F)
        if question.noise is not None:
            inputs['noise'] = question.noise[0].numpy()
        actions, codes, probabilities, *_ = self._run(inputs, newest)
        return Answer(actions, codes, probabilities)

    def _run(self, inputs: Mapping[str, NDArray[Any]], newest: Sequence[int]) -> list[Any]:
        """Run the graph with the frames of one step as the newest, and keep their features.

        Inputs that are not given are zeros: a run for features alone needs the frames alone.
        """
        images = {
            name: np.ascontiguousarray(self._images[row])
            for name, row in zip(self._cameras, newest, strict=True)
            if row in self._images  # else it is the row of zeros
        }
        given = {**inputs, **images}
        feed = {name: given.get(name, zero) for name, zero in self._blank.items()}
        values = self._session.run(None, feed)
        found = dict(zip(OUTPUTS, values, strict=False))
        for row, features in zip(newest, found.get('features', ()), strict=False):
            if row in self._images:
                self._ring[row] = features
                self._waiting.discard(row)
        return list(values)
