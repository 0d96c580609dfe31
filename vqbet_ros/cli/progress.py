"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
import importlib.util
import sys
import threading
import time
from typing import TypeVar

T = TypeVar('T')

PLAIN_LINES = 10
LOOK_S = 0.5
"""Between two looks at work that others do."""


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the items, showing on stderr how many of them are done.

    Args:
        items: What is worked on.
        total: How many there are.
        what: The work in one or two words, for example 'episodes'.
    """
    if sys.stderr.isatty() and importlib.util.find_spec('rich'):
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, what, total, console=Console(stderr=True))
        return
    for done, item in enumerate(items, start=1):
        yield item
        # About ten lines, however long the work is; the last one says that all is done.
        if done == total or done * PLAIN_LINES // total > (done - 1) * PLAIN_LINES // total:
            print(f'{what}: {done}/{total}', file=sys.stderr, flush=True)


@contextmanager
def gauge(what: str, look: Callable[[], tuple[int, int]]) -> Iterator[None]:
    """Show on stderr, while the block runs, how far some work is, its speed and the time left.

    Args:
        what: What is counted, for example 'frames'.
        look: Says how many are done, and how many there will be; called from another thread.
    """
    if sys.stderr.isatty() and importlib.util.find_spec('rich'):
        show, close = _bar(what)
    else:
        show, close = _lines(what)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_S):
            show(*look())

    thread = threading.Thread(target=watch, name='progress', daemon=True)
    thread.start()
    try:
        yield
        show(*look())
    finally:
        ended.set()
        thread.join()
        close()


def _bar(what: str) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn(what),
        BarColumn(),
        TextColumn('{task.completed}/{task.total}, {task.fields[rate]:.0f}/s, left'),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = progress.add_task(what, rate=0.0)
    progress.start()
    started_s = time.monotonic()

    def show(done: int, total: int) -> None:
        rate = done / max(1e-3, time.monotonic() - started_s)
        progress.update(task, completed=min(done, total), total=total, rate=rate)

    return show, progress.stop


def _lines(what: str) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    started_s, told = time.monotonic(), 0

    def show(done: int, total: int) -> None:
        nonlocal told
        done = min(done, total)
        if total == 0 or done * PLAIN_LINES // total <= told:
            return
        told = done * PLAIN_LINES // total
        rate = done / max(1e-3, time.monotonic() - started_s)
        left = f', {(total - done) / rate:.0f} s left' if done < total else ''
        print(f'{what}: {done}/{total}, {rate:.0f}/s{left}', file=sys.stderr, flush=True)

    return show, lambda: None
