"""Finding bags in folders, and what recorders and recoveries leave beside them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from vqbet_ros.data.bag_opening import METADATA, STORAGES
from vqbet_ros.errors import BadBag

CRASHED_SUFFIX = '.crashed'
"""A folder that `vqbet recover` set aside, once its copy was verified."""
COPY_SUFFIX = '.recovering'
"""A folder in which `vqbet recover` works, or was interrupted."""


def find_bags(paths: Sequence[Path]) -> list[Path]:
    """List bags: those that are named, and those in the folders that are named.

    Folders are searched to any depth, but not those whose name begins with a dot, where the
    recorder keeps what was discarded, nor what `vqbet recover` set aside, or was working at.

    Raises:
        BadBag: Lists every path that does not exist, and every folder without a bag.
    """
    found: list[Path] = []
    problems = []
    for path in paths:
        here = list(_bags_in(path, set())) if path.is_dir() else [path]
        if not path.exists():
            problems.append(f'{path}: no such file or directory')
        elif not here:
            problems.append(f'{path}: no bag, and no folder with bags')
        found += here
    if problems:
        raise BadBag('\n'.join(problems))
    return list(dict.fromkeys(found))


def _bags_in(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Iterate over the bags of a folder; links to folders that were `seen` are not followed."""
    seen.add(folder.resolve())
    if (folder / METADATA).exists():
        yield folder
        return
    inside = sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path))
    below: list[Path] = []
    for path in inside:
        is_bag = not path.name.startswith('.') and path.suffix not in (CRASHED_SUFFIX, COPY_SUFFIX)
        if is_bag and path.is_dir() and path.resolve() not in seen:
            below += _bags_in(path, seen)
    files = [path for path in inside if path.suffix in STORAGES and not path.is_dir()]
    if not below and _are_one_bag(folder, files):
        yield folder
    else:
        yield from sorted([*files, *below])


def _are_one_bag(folder: Path, files: Sequence[Path]) -> bool:
    """Tell whether files without metadata are what a recorder left that was killed."""
    return len(files) == 1 or any(file.name.startswith(f'{folder.name}_') for file in files)
