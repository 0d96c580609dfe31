"""Which row of the ring holds which frame's features, so that no frame is encoded twice.

Row 0 is always zero: it stands for a frame that is not there. The last rows are scratch.
"""

from collections.abc import Iterable

Key = tuple[str, int]
"""A camera's name and a frame's stamp in ns."""

NOTHING = 0


class FeatureRows:
    """Gives rows to frames, and takes them back from those that cannot be wanted again."""

    def __init__(self, most: int, scratch: int = 1) -> None:
        """Start empty.

        Args:
            most: Frames to hold, at least as many as an observation has.
            scratch: Rows that are never given to a frame.
        """
        self.count = most + 1 + scratch
        self.scratch = list(range(most + 1, self.count))
        self._most = most
        self._rows: dict[Key, int] = {}
        self._free = list(range(most, 0, -1))

    def __len__(self) -> int:
        """Return how many frames are held."""
        return len(self._rows)

    def __getitem__(self, key: Key) -> int:
        """Return the row of a frame that is held."""
        return self._rows[key]

    def clear(self) -> None:
        """Forget all frames."""
        self._rows.clear()
        self._free = list(range(self._most, 0, -1))

    def keep(self, wanted: Iterable[Key]) -> list[Key]:
        """Make room for an observation's frames; return those that have no row yet.

        What it uses is kept, and what lies between: a camera that is faster than the policy gives
        an observation every other frame or so, and the observation after it those in between.
        """
        used = dict.fromkeys(wanted)
        span: dict[str, tuple[int, int]] = {}
        for camera, stamp_ns in used:
            first_ns, last_ns = span.get(camera, (stamp_ns, stamp_ns))
            span[camera] = (min(first_ns, stamp_ns), max(last_ns, stamp_ns))
        for camera, stamp_ns in list(self._rows):
            inside = camera in span and span[camera][0] <= stamp_ns <= span[camera][1]
            if not inside:
                self._free.append(self._rows.pop((camera, stamp_ns)))
        missing = [key for key in used if key not in self._rows]
        unused = sorted((key for key in self._rows if key not in used), key=lambda key: key[1])
        for key in unused[: max(0, len(missing) - len(self._free))]:
            self._free.append(self._rows.pop(key))
        return missing

    def next_row(self) -> int:
        """Return the row that `take` gives next."""
        return self._free[-1]

    def take(self, key: Key) -> None:
        """Give the next row to a frame that `keep` named, once its features are there."""
        self._rows[key] = self._free.pop()
