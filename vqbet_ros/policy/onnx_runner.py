"""Runs a policy's exported graph in ONNX Runtime, which is the faster one on many CPUs.

A run of the graph encodes the newest frames and decides. Frames that no run has seen as its
newest, at the beginning or after a gap, are encoded by runs whose decisions are dropped.

Legend: h history steps, n cameras, F features.
"""

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
                f'{path} was not exported from this checkpoint for temperature {temperature:g}; '
                'run `vqbet export onnx` again'
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
        self._names = {value.name for value in self._session.get_inputs()}
        self.set_goal(None)

    def set_goal(self, goal: Goal | None) -> None:
        """See `Runner.set_goal`."""
        values = dict(self._empty_goal)
        if goal is not None:
            values['goal_present'] = np.ones(self._goal_steps, bool)
            for name, value in zip(GOAL, (goal.features, goal.state), strict=False):
                if value is not None:
                    values[name] = value[0].cpu().numpy()
        self._goal = {name: value for name, value in values.items() if name in self._names}

    def encode(self, image: NDArray[np.uint8], row: int) -> None:
        """Remember an image (H, W_px, 3); its features come with the run that needs them."""
        self._images[row] = image
        self._waiting.add(row)

    def decide(self, question: Question) -> Answer:
        """See `Runner.decide`."""
        rows = np.array(question.rows, dtype=np.int64)  # (h, n)
        for step in rows[:-1]:
            if self._waiting & set(step.tolist()):
                self._run(question, rows, step)
        actions, codes, probabilities = self._run(question, rows, rows[-1])
        return Answer(actions, codes, probabilities)

    def _run(
        self, question: Question, rows: NDArray[np.int64], newest: NDArray[np.int64]
    ) -> list[Any]:
        """Run the graph with the frames of one step as the newest, and keep their features."""
        inputs = dict(self._goal)
        for name, row, last in zip(self._cameras, newest.tolist(), rows[-1].tolist(), strict=True):
            # Where a frame is not there any other of its size will do.
            inputs[name] = np.ascontiguousarray(self._images.get(row, self._images[last]))
        if self._cameras:
            inputs['earlier_features'] = self._ring[rows[:-1]]  # (h-1, n, F)
        inputs['state'] = np.ascontiguousarray(question.state, dtype=np.float32)
        inputs['present'] = np.ascontiguousarray(question.present, dtype=bool)
        if question.noise is not None:
            inputs['noise'] = question.noise[0].numpy()
        inputs['running'] = np.array([question.running], dtype=np.int64)
        inputs['hysteresis'] = np.array([question.hysteresis], dtype=np.float32)
        values = self._session.run(None, {k: v for k, v in inputs.items() if k in self._names})
        found = dict(zip(OUTPUTS, values, strict=False))
        for row, features in zip(newest.tolist(), found.get('features', ()), strict=True):
            if row in self._images:  # else it is the row of zeros
                self._ring[row] = features
                self._waiting.discard(row)
        return list(values[:3])
