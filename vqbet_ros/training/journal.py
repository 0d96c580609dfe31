"""What a training tells: a progress bar or plain lines, metrics.jsonl, TensorBoard."""

from collections.abc import Sequence
import json
from pathlib import Path
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from vqbet_ros.training.tensorboard import EventFile, rewind_events


class Journal:
    """Writes a run's metrics as they come; a context manager."""

    def __init__(self, run: Path) -> None:
        """Append to the run's files.

        Args:
            run: The run directory.
        """
        self._file = (run / 'metrics.jsonl').open('a', encoding='utf-8')
        self._board = EventFile(run)
        self._console = Console(stderr=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._started = (0.0, 0)

    def __enter__(self) -> 'Journal':
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close files and the bar."""
        self.end_phase()
        try:
            self._file.close()
            self._board.close()
        except OSError:
            # A full disk, which the error that led here, if there is one, tells better.
            if error is None:
                raise

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        console = self._progress.console if self._progress else self._console
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        sys.stdout.flush()

    def begin_phase(self, phase: str, step: int, steps: int) -> None:
        """Start the phase's progress bar at a step."""
        self.end_phase()
        self._started = (time.monotonic(), step)
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn('{task.description}'),
                BarColumn(),
                TextColumn('{task.completed}/{task.total} steps{task.fields[shown]}'),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task(phase, total=steps, completed=step, shown='')
            self._progress.start()

    def end_phase(self) -> None:
        """Close the bar."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = None

    def write(
        self, phase: str, step: int, steps: int, metrics: dict[str, float], kind: str
    ) -> None:
        """Record metrics of a step (1-based count of finished steps); `kind` is train or val."""
        since, first = self._started
        rate_hz = (step - first) / max(1e-9, time.monotonic() - since)
        entry: dict[str, Any] = {'phase': phase, 'kind': kind, 'step': step, **metrics}
        if kind == 'train':
            entry['steps_per_s'] = round(rate_hz, 3)
        self._file.write(json.dumps(entry) + '\n')
        self._file.flush()
        self._board.add({f'{phase}/{kind}/{key}': v for key, v in metrics.items()}, step)
        numbers = ' '.join(f'{key} {value:.4g}' for key, value in metrics.items())
        if self._progress is not None and kind == 'train' and self._task is not None:
            shown = f', loss {metrics.get("loss", float("nan")):.4g}, {rate_hz:.1f} steps/s'
            self._progress.update(self._task, completed=step, shown=shown)
            return
        left_s = (steps - step) / max(rate_hz, 1e-9)
        pace = f'{rate_hz:.1f} steps/s, {_minutes(left_s)} left' if kind == 'train' else 'val'
        self.say(f'{phase} {step}/{steps} [{pace}] {numbers}')


class Silence:
    """What a process writes that is not the main one: nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def begin_phase(self, phase: str, step: int, steps: int) -> None:
        """Show nothing."""

    def end_phase(self) -> None:
        """Close nothing."""

    def write(
        self, phase: str, step: int, steps: int, metrics: dict[str, float], kind: str
    ) -> None:
        """Record nothing."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl; a line that a crash cut short is left out."""
    records = []
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def rewind(run: Path, phases: Sequence[str], phase: str, step: int) -> None:
    """Drop what a run recorded after a step, which will be done again.

    Args:
        run: Its directory.
        phases: All phases in order.
        phase: The one that is resumed.
        step: Its steps that are done.
    """
    reached = (phases.index(phase), step)
    path = run / 'metrics.jsonl'
    if path.is_file():
        kept = [
            record
            for record in read_metrics(path)
            if (phases.index(record['phase']), record['step']) <= reached
        ]
        partial = path.with_suffix('.partial')
        partial.write_text(''.join(json.dumps(r) + '\n' for r in kept), encoding='utf-8')
        partial.replace(path)

    def stays(tag: str, at: int) -> bool:
        of = tag.partition('/')[0]
        return of not in phases or (phases.index(of), at) <= reached

    rewind_events(run, stays)


def _minutes(seconds: float) -> str:
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'
