"""Ctrl-C at every line of the writer: the episode is there, or it is not, and the rest stays."""

from dataclasses import replace
import inspect
from itertools import count
import sys

import numpy as np
from vqbet_ros.data import layout, writer
from vqbet_ros.data.episode import Episode
from vqbet_ros.data.store import Dataset
from vqbet_ros.data.writer import DatasetWriter
from vqbet_ros.resources import resource
from vqbet_ros.spec import RobotSpec

SPEC = replace(RobotSpec.from_yaml(resource('config/robots/pusht.yaml')), cameras=())
FILES = {inspect.getfile(writer), inspect.getfile(layout)}


def episode(number, length):
    state = np.full((length, SPEC.state_dim), number, np.float32)
    return Episode(state, np.full((length, SPEC.action_dim), -number, np.float32), {})


class Interrupt:
    """Raises KeyboardInterrupt once, at the given line that is executed in FILES."""

    def __init__(self, at):
        self.at, self.seen = at, 0

    def __enter__(self):
        sys.settrace(self.trace)

    def __exit__(self, *exc_info):
        sys.settrace(None)

    def trace(self, frame, event, arg):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == 'line':
            self.seen += 1
            if self.seen == self.at:
                raise KeyboardInterrupt
        return self.trace


def require(path, lengths):
    dataset = Dataset.open(path)
    ends = np.cumsum(lengths)
    np.testing.assert_array_equal(dataset.episode_ends, ends)
    numbers = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    np.testing.assert_array_equal(dataset.state[:, 0], numbers)
    np.testing.assert_array_equal(dataset.action[:, 0], -numbers)


def test_an_interrupt_at_any_line(tmp_path):
    kept = 0
    for at in count(1):
        path = tmp_path / str(at)
        with DatasetWriter(path, SPEC, 'made up', durable=False) as added:
            added.add(episode(1, 3))
            try:
                with Interrupt(at):
                    added.add(episode(2, 2))
            except KeyboardInterrupt:
                pass
            else:
                break
            done = Dataset.open(path).num_episodes
            assert done == added.num_episodes
            kept += done == 2
            require(path, [3, 2][:done])
            # This writer goes on, and so does another one.
            if done == 1:
                added.add(episode(2, 2))
        with DatasetWriter(path, SPEC, 'made up', durable=False) as other:
            other.add(episode(3, 4))
        require(path, [3, 2, 4])
    assert at > 50  # it was interrupted at so many lines
    assert kept > 0
