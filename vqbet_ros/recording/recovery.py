"""A bag whose recorder was killed, made whole: copied, verified, and only then put in its place.

The original is never written to. The copy is made beside it, read again completely, and compared
with what was read from the original; then the original folder becomes `<name>.crashed`, and the
copy takes its name.
"""

from collections.abc import Iterator
from contextlib import contextmanager, ExitStack
from dataclasses import replace
import os
from pathlib import Path
import shlex
import shutil

from vqbet_ros.data.live import lock
from vqbet_ros.errors import BadBag, listed
from vqbet_ros.recording.copying import Copying, Recovery
from vqbet_ros.recording.folder import (
    COPY_SUFFIX,
    CRASHED_SUFFIX,
    is_whole,
    mcap_file,
    sync_folder,
)
from vqbet_ros.recording.verification import look_through, Progress


def recover(path: Path | str, progress: Progress | None = None) -> Recovery:
    """Make a bag whole; one that is whole, and can be read to its end, is left as it is.

    Args:
        path: The bag's folder.
        progress: Told how far it is; of a bag that was ended and is damaged twice, first while
            it is looked through.

    Raises:
        BadBag: There is no bag that could be read, no room for the copy, or the copy is not right;
            the original is untouched. Or it is being recorded.
        OSError: The disk failed; the original is untouched.
    """
    path = Path(path).resolve()
    report = progress or (lambda done, total: None)
    scratch = path.with_name(path.name + COPY_SUFFIX)
    _take_up(path, scratch)
    with _held(path) as alone:
        problems = []
        if is_whole(path):
            held = look_through(path, report)
            problems = held.problems
            if not problems:
                return Recovery(path, False, held.messages, held.start_ns, held.last_ns)
            if len(list(path.glob('*.mcap'))) > 1:
                what = f'{path} is damaged, and only a bag of one .mcap file can be repaired'
                raise BadBag(listed(what, problems))
        if scratch.exists() and not alone:
            raise BadBag(
                f'{scratch} exists: another recovery is at work, or was interrupted. If none is, '
                f'remove it (rm -r {shlex.quote(str(scratch))}), then run this again'
            )
        if scratch.exists():  # a recovery that was killed: it would hold the bag
            shutil.rmtree(scratch)
        recovery = _replaced(path, scratch, report)
    notes = *(f'it was damaged: {problem}' for problem in problems), *recovery.notes
    return replace(recovery, notes=notes)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Keep a bag from its recorder and from other recoveries.

    Yields:
        Whether the file system allows that.

    Raises:
        BadBag: It is being recorded or recovered.
    """
    with ExitStack() as stack:
        alone = True
        for file in path.glob('*.mcap'):
            # For the lock's sake; nothing is written.
            mode = 'r+b' if os.access(file, os.W_OK) else 'rb'
            try:
                alone &= lock(stack.enter_context(file.open(mode)))
            except BlockingIOError:
                raise BadBag(
                    f'{path} is being recorded, or recovered by another program: wait until that '
                    'has ended; then there may be nothing to repair'
                ) from None
        yield alone


def _replaced(path: Path, scratch: Path, progress: Progress) -> Recovery:
    """Put a copy in the place of a bag."""
    original = mcap_file(path)
    size, free = original.stat().st_size, shutil.disk_usage(path.parent).free
    if free < size:
        raise BadBag(
            f'{path}: the copy needs {size / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free; '
            'free some space first'
        )
    scratch.mkdir()
    try:
        recovery = Copying(path, scratch / path.name, progress).run()
        crashed = _free_name(path)
        path.rename(crashed)
    except BaseException:
        shutil.rmtree(scratch)
        raise
    _take_up(path, scratch)
    return replace(recovery, kept_original=crashed)


def _take_up(path: Path, scratch: Path) -> None:
    """Give a verified copy its name, also one that an interrupted recovery left."""
    copy = scratch / path.name
    if not path.exists() and is_whole(copy):
        copy.rename(path)
        scratch.rmdir()
        sync_folder(path.parent)


def _free_name(path: Path) -> Path:
    for middle in ('', *(f'.{n}' for n in range(2, 1000))):
        name = path.with_name(f'{path.name}{middle}{CRASHED_SUFFIX}')
        if not name.exists():
            return name
    raise BadBag(f'{path}: it was recovered too often already; remove what ends in .crashed')
