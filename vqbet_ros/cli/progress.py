"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Iterator
import importlib.util
import sys
from typing import TypeVar

T = TypeVar('T')

PLAIN_LINES = 10


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
