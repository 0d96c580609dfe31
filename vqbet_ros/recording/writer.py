"""The thread that writes an episode, and the queue before it: callbacks hand over and go on.

Only this thread writes. A second one waits until the disk has taken what was written, so that a
slow disk does not keep new messages from reaching the operating system. What does not fit in the
queue is counted as lost, per channel; so is what the disk refused. Nothing is lost uncounted.
"""

from collections import deque
from collections.abc import Callable, Mapping
import threading
import time
from typing import Protocol

from vqbet_ros.errors import BadBag
from vqbet_ros.recording.bag import BagSummary

OnMessage = Callable[[int, bytes, int, int, int], None]
"""Called as (channel, payload, log_ns, publish_ns, sequence)."""

_Item = tuple[int, bytes, int, int, int]
# What a waiting message takes beside its payload: the queue's bound holds for small ones too.
OVERHEAD_BYTES = 200


class Bag(Protocol):
    """What the thread writes to; `recording.bag.BagWriter` is one."""

    @property
    def counts(self) -> dict[int, int]:
        """Messages in the file, per channel."""

    @property
    def written_bytes(self) -> int:
        """Size of the file."""

    def write(
        self, channel: int, payload: bytes, log_ns: int, publish_ns: int, sequence: int
    ) -> None:
        """Add a message."""

    def close_chunk(self) -> None:
        """Hand all to the operating system."""

    def sync(self) -> None:
        """Bring on the disk what was handed over; called from a thread of its own."""

    def close(self, custom_data: Mapping[str, str]) -> BagSummary:
        """Finish the bag."""

    def abandon(self) -> None:
        """Leave the bag unfinished."""


class EpisodeWriter:
    """Writes one bag in a thread of its own; `put` may be called from any thread.

    Args:
        bag: With all its topics added; from now on only the thread uses it.
        queue_bytes: How much may wait: payloads and OVERHEAD_BYTES for each. A chunk of the
            bag's size is held besides.
        flush_every_s: What is older than this survives the end of the program; a power cut too,
            once the disk has taken it.
        on_message: Called in the thread for each message that was given to the bag. An exception
            from it is a failure as the disk's are.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        bag: Bag,
        *,
        queue_bytes: int,
        flush_every_s: float = 0.5,
        on_message: OnMessage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread."""
        if queue_bytes < 1:
            raise ValueError(f'queue_bytes: got {queue_bytes}, expected 1 or more')
        self._bag = bag
        self._queue_bytes = queue_bytes
        self._flush_every_s = flush_every_s
        self._on_message = on_message
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._accepted: dict[int, int] = {}
        self._refused: dict[int, int] = {}
        self._failure: str | None = None
        self._closing: dict[str, str] | None = None
        self._summary: BagSummary | None = None
        self._written = False
        self._sync_wanted = threading.Event()
        # A thread that the disk never lets go must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name='episode writer', daemon=True)
        self._thread.start()

    def put(
        self, channel: int, payload: bytes, log_ns: int, publish_ns: int, sequence: int = 0
    ) -> bool:
        """Hand over a message; takes microseconds, whatever the disk does.

        Args:
            channel: From the bag's `add_topic`.
            payload: The serialised message (CDR); it must not change afterwards.
            log_ns: When it was received.
            publish_ns: When it was sent; the receive time where that is not known.
            sequence: The publisher's number of it.

        Returns:
            False if it is lost: the queue is full, or the writer has failed; see `lost`.

        Raises:
            ValueError: A negative time.
            BadBag: The writer is closed.
        """
        if log_ns < 0 or publish_ns < 0:
            raise ValueError(f'times: got {log_ns} and {publish_ns} ns, expected 0 or more')
        cost = len(payload) + OVERHEAD_BYTES
        with self._changed:
            if self._closing is not None:
                raise BadBag('a message came after the episode was closed')
            if self._failure is not None or self._queued_bytes + cost > self._queue_bytes:
                self._refused[channel] = self._refused.get(channel, 0) + 1
                return False
            self._queue.append((channel, payload, log_ns, publish_ns, sequence))
            self._queued_bytes += cost
            self._accepted[channel] = self._accepted.get(channel, 0) + 1
            self._changed.notify()
        return True

    @property
    def lost(self) -> dict[int, int]:
        """Messages lost here per channel: refused, or taken and then not written.

        After a failure the latter counts all that is not in the file.
        """
        with self._changed:
            lost = dict(self._refused)
            if self._failure is not None:
                for channel, accepted in self._accepted.items():
                    missing = accepted - self._bag.counts.get(channel, 0)
                    if missing:
                        lost[channel] = lost.get(channel, 0) + missing
            return lost

    @property
    def queued_bytes(self) -> int:
        """What waits now, as `queue_bytes` counts."""
        with self._changed:
            return self._queued_bytes

    @property
    def written_bytes(self) -> int:
        """Size of the file so far."""
        return self._bag.written_bytes

    @property
    def failure(self) -> str | None:
        """Why nothing more is written; None while all is well."""
        with self._changed:
            return self._failure

    def close(self, custom_data: Mapping[str, str], timeout: float | None = None) -> BagSummary:
        """Write what waits, finish the bag and end the thread.

        After a failure the bag is finished with what is in the file, where the disk lets it.

        Args:
            custom_data: All texts by key, also those that were given at the start.
            timeout: Seconds to wait for the disk; None waits for ever.

        Returns:
            What the bag holds.

        Raises:
            BadBag: The disk is too slow: the thread goes on, and `close` may be called again.
                Or the bag could not be finished: `vqbet recover` makes it whole.
        """
        with self._changed:
            if self._closing is None:
                self._closing = dict(custom_data)
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            if self._thread.is_alive():
                raise BadBag(
                    f'the disk did not take the episode within {timeout:g} s: '
                    f'{len(self._queue)} messages, {self._queued_bytes} bytes still wait'
                )
            if self._summary is None:
                raise BadBag(f'the bag could not be finished: {self._failure}')
            return self._summary

    def _run(self) -> None:
        syncing = threading.Thread(target=self._sync, name='episode sync', daemon=True)
        syncing.start()
        try:
            self._write_until_closed()
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, OSError):
                raise  # a bug: Python shows where
        finally:
            self._written = True
            self._sync_wanted.set()
            syncing.join()
            self._finish()

    def _sync(self) -> None:
        """Bring on the disk what was written, while the next messages are being written."""
        try:
            while not self._written:
                self._sync_wanted.wait()
                self._sync_wanted.clear()
                self._bag.sync()
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, OSError):
                raise

    def _write_until_closed(self) -> None:
        flush_at_s: float | None = None  # while nothing waits for it
        while True:
            item = self._next(None if flush_at_s is None else flush_at_s - self._clock())
            now_s = self._clock()
            if item is not None:
                if flush_at_s is None:
                    flush_at_s = now_s + self._flush_every_s
                self._bag.write(*item)
                if self._on_message is not None:
                    self._on_message(*item)
                with self._changed:
                    self._queued_bytes -= len(item[1]) + OVERHEAD_BYTES
            elif self._is_done():
                break
            if flush_at_s is not None and now_s >= flush_at_s:
                self._bag.close_chunk()
                self._sync_wanted.set()
                flush_at_s = None
        self._bag.close_chunk()

    def _next(self, patience_s: float | None) -> _Item | None:
        """Wait for a message; None when it is time to flush, or when there will be no more."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._queue or self._closing is not None or self._failure is not None,
                None if patience_s is None else max(0.0, patience_s),
            )
            return self._queue.popleft() if self._queue and self._failure is None else None

    def _is_done(self) -> bool:
        with self._changed:
            return self._failure is not None or (self._closing is not None and not self._queue)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            # The first one tells why; what follows from it does not.
            reason = str(error) if isinstance(error, OSError) else repr(error)
            self._failure = self._failure or reason
            self._changed.notify()

    def _finish(self) -> None:
        """Finish the bag when asked to."""
        with self._changed:
            self._queue.clear()
            self._queued_bytes = 0
            self._changed.wait_for(lambda: self._closing is not None)
            custom_data = self._closing or {}
        try:
            summary = self._bag.close(custom_data)
        except BaseException as error:
            self._bag.abandon()
            self._fail(error)
            if not isinstance(error, OSError):
                raise
            return
        with self._changed:
            self._summary = summary
