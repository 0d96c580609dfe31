"""TensorBoard event files, written at once and without a thread.

The usual writer hands events to a thread; when that fails on a full disk, its owner waits for it
forever. Here the error is raised where it happens.
"""

from collections.abc import Callable
import importlib
import os
from pathlib import Path
import socket
import time
from typing import Any

PREFIX = 'events.out.tfevents.'


def rewind_events(folder: Path, kept: Callable[[str, int], bool]) -> None:
    """Drop scalars from a folder's event files, each of which is written anew if it held any.

    Args:
        folder: Of the run.
        kept: Given a scalar's tag and step, whether it stays.
    """
    loaders: Any = importlib.import_module(
        'tensorboard.backend.event_processing.event_file_loader'
    )
    for path in sorted(folder.glob(f'{PREFIX}*')):
        events = list(loaders.LegacyEventFileLoader(str(path)).Load())
        stay = [all(kept(v.tag, event.step) for v in event.summary.value) for event in events]
        if all(stay):
            continue
        partial = path.with_name(f'.{path.name}.partial')
        writer = _writer(partial)
        for event, stays in zip(events, stay, strict=True):
            if stays:
                writer.write(event.SerializeToString())
        writer.close()
        partial.replace(path)


def _writer(path: Path) -> Any:
    records: Any = importlib.import_module('tensorboard.summary.writer.record_writer')
    return records.RecordWriter(path.open('wb'))


class EventFile:
    """One file of scalars that `tensorboard --logdir` reads."""

    def __init__(self, folder: Path) -> None:
        """Create the file with a name of its own; needs tensorboard (extra `train`)."""
        proto = 'tensorboard.compat.proto'
        self._event: Any = importlib.import_module(f'{proto}.event_pb2').Event
        self._summary: Any = importlib.import_module(f'{proto}.summary_pb2').Summary
        name = f'{PREFIX}{time.time_ns()}.{socket.gethostname()}.{os.getpid()}'
        self._writer = _writer(folder / name)
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
