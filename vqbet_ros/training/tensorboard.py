"""TensorBoard event files, written at once and without a thread.

The usual writer hands events to a thread; when that fails on a full disk, its owner waits for it
forever. Here the error is raised where it happens.
"""

import importlib
import os
from pathlib import Path
import socket
import time
from typing import Any


class EventFile:
    """One file of scalars that `tensorboard --logdir` reads."""

    def __init__(self, folder: Path) -> None:
        """Create the file with a name of its own; needs tensorboard (extra `train`)."""
        proto = 'tensorboard.compat.proto'
        self._event: Any = importlib.import_module(f'{proto}.event_pb2').Event
        self._summary: Any = importlib.import_module(f'{proto}.summary_pb2').Summary
        records: Any = importlib.import_module('tensorboard.summary.writer.record_writer')
        name = f'events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}'
        self._writer: Any = records.RecordWriter((folder / name).open('wb'))
        self._write(file_version='brain.Event:2')

    def add(self, scalars: dict[str, float], step: int) -> None:
        """Write scalars of one step.

        Raises:
            OSError: The disk is full.
        """
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]
        self._write(step=step, summary=self._summary(value=values))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, **content: Any) -> None:
        event = self._event(wall_time=time.time(), **content)
        self._writer.write(event.SerializeToString())
        self._writer.flush()
