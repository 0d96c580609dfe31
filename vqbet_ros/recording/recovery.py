"""A bag whose recorder was killed, made whole: copied, verified, and only then put in its place.

The original is never written to. The copy is made beside it, read again completely, and compared
with what was read from the original; then the original folder becomes `<name>.crashed`, and the
copy takes its name.
"""

from collections.abc import Iterator
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass, replace
import json
import os
from pathlib import Path
import shlex
import shutil

from mcap.records import Channel, Message, Schema
from vqbet_ros.data.live import lock
from vqbet_ros.errors import BadBag, listed
from vqbet_ros.recording.bag import BagOptions, BagSummary, BagWriter
from vqbet_ros.recording.definitions import Definition
from vqbet_ros.recording.folder import (
    COPY_SUFFIX,
    CRASHED_SUFFIX,
    is_whole,
    mcap_file,
    METADATA,
    read_information,
    sync_folder,
)
from vqbet_ros.recording.metadata import custom_data_of, parse_qos, Topic
from vqbet_ros.recording.salvage import beginning_of, information_in, Salvage
from vqbet_ros.recording.verification import Progress, Tally, verify

OUTCOME_KEY = 'vqbet.outcome'
NOTE_KEY = 'vqbet.recovery'
"""In custom_data: what was kept and lost, as JSON."""


@dataclass(frozen=True)
class Recovery:
    """What `recover` did, and what the bag holds now.

    Attributes:
        path: The bag.
        repaired: False if it was whole already: nothing was done.
        messages: How many it holds, per topic.
        start_ns: Log time of its earliest message; 0 without messages.
        last_ns: Log time of its latest message; 0 without messages.
        complete: Nothing that was recorded is missing.
        lost_bytes: Bytes of the original from which nothing could be read.
        damaged_chunks: Pieces within the original whose checksums were wrong.
        kept_original: Where the original folder is now; None if it was whole.
        notes: What else a person should know.
    """

    path: Path
    repaired: bool
    messages: dict[str, int]
    start_ns: int
    last_ns: int
    complete: bool = True
    lost_bytes: int = 0
    damaged_chunks: int = 0
    kept_original: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """From the earliest to the latest message."""
        return (self.last_ns - self.start_ns) / 1e9


def recover(path: Path | str, progress: Progress | None = None) -> Recovery:
    """Make a bag whole; a whole one is left as it is.

    Args:
        path: The bag's folder.
        progress: Told how far it is.

    Raises:
        BadBag: There is no bag that could be read, no room for the copy, or the copy is not right;
            the original is untouched. Or it is being recorded.
        OSError: The disk failed; the original is untouched.
    """
    path = Path(path).resolve()
    scratch = path.with_name(path.name + COPY_SUFFIX)
    _take_up(path, scratch)
    with _held(path) as alone:
        if is_whole(path):
            return _already_whole(path)
        if scratch.exists() and not alone:
            raise BadBag(
                f'{scratch} exists: another recovery is at work, or was interrupted. If none is, '
                f'remove it (rm -r {shlex.quote(str(scratch))}), then run this again'
            )
        if scratch.exists():  # a recovery that was killed: it would hold the bag
            shutil.rmtree(scratch)
        return _replaced(path, scratch, progress)


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


def _replaced(path: Path, scratch: Path, progress: Progress | None) -> Recovery:
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
        recovery = _Copying(path, scratch / path.name, progress).run()
        crashed = _free_name(path)
        path.rename(crashed)
    except BaseException:
        shutil.rmtree(scratch)
        raise
    _take_up(path, scratch)
    return replace(recovery, kept_original=crashed)


class _Copying:
    """One recovery, up to the verified copy."""

    def __init__(self, path: Path, copy: Path, progress: Progress | None) -> None:
        self._path = path
        self._copy = copy
        self._file = mcap_file(path)
        self._report = progress or (lambda done, total: None)
        self._custom: dict[str, str] | None = None
        self._channels: dict[int, tuple[int, Tally]] = {}
        self._tallies: dict[str, Tally] = {}
        self._notes: list[str] = []

    def run(self) -> Recovery:
        with Salvage(self._file) as salvage:
            summary = self._write(salvage)
        salvaged = {topic: tally.result() for topic, tally in self._tallies.items()}
        problems = verify(self._copy, salvaged, self._report)
        if problems:
            what = f'the copy of {self._path} is not right and is removed; the bag is untouched'
            raise BadBag(listed(what, problems))
        return Recovery(
            path=self._path,
            repaired=True,
            messages=summary.messages,
            start_ns=summary.start_ns,
            last_ns=summary.end_ns,
            complete=_is_complete(salvage),
            lost_bytes=salvage.lost_bytes,
            damaged_chunks=salvage.damaged_chunks,
            notes=tuple(self._notes),
        )

    def _write(self, salvage: Salvage) -> BagSummary:
        begun = beginning_of(self._file)
        self._custom = custom_data_of(begun.information)
        version = begun.information.get('version', 9)
        options = BagOptions(
            compression=begun.compression,
            metadata_version=8 if version < 9 else 9,
            ros_distro=str(begun.information.get('ros_distro') or ''),
        )
        bag = BagWriter(self._copy, options, self._custom)
        try:
            schemas: dict[int, Schema] = {}
            for record in salvage.records():
                if isinstance(record, Message):
                    channel, tally = self._channels[record.channel_id]
                    times = (record.log_time, record.publish_time)
                    bag.write(channel, record.data, *times, record.sequence)
                    tally.add(record)
                elif isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    self._add_channel(bag, record, schemas[record.schema_id])
                elif information_in(record):
                    self._custom = custom_data_of(information_in(record))
                self._report(salvage.position, 2 * salvage.size)
            bag.flush()
            return bag.close(self._final_custom_data(bag, salvage))
        finally:
            bag.abandon()

    def _add_channel(self, bag: BagWriter, record: Channel, schema: Schema) -> None:
        if record.id in self._channels:
            return
        if record.topic in self._tallies:
            raise BadBag(f'{self._file}: two channels hold {record.topic}, expected one a topic')
        try:
            qos = parse_qos(record.metadata.get('offered_qos_profiles', ''))
        except ValueError as error:
            qos = ()
            self._notes.append(
                f'{record.topic}: its QoS is left out, it could not be read: {error}'
            )
        topic = Topic(record.topic, schema.name, record.metadata.get('topic_type_hash', ''), qos)
        definition = Definition(schema.data.decode(errors='replace'), schema.encoding)
        tally = self._tallies[record.topic] = Tally()
        self._channels[record.id] = (bag.add_topic(topic, definition), tally)

    def _final_custom_data(self, bag: BagWriter, salvage: Salvage) -> dict[str, str]:
        """Return what is known of the episode, with a note of what was lost."""
        custom = dict(self._custom or {})
        if (self._path / METADATA).is_file():
            # It may be newer than the file: outcomes are marked there.
            try:
                custom = custom_data_of(read_information(self._path))
            except BadBag as error:
                self._notes.append(f'its metadata is taken from the MCAP file: {error}')
        held = bag.describe()
        note: dict[str, object] = {
            'messages': sum(held.messages.values()),
            'seconds': (held.end_ns - held.start_ns) / 1e9,
            'last_message_ns': held.end_ns,
            'lost_bytes': salvage.lost_bytes,
            'damaged_chunks': salvage.damaged_chunks,
        }
        if not _is_complete(salvage):
            note['outcome_before'] = custom.get(OUTCOME_KEY)
            custom[OUTCOME_KEY] = 'incomplete'
        return {**custom, NOTE_KEY: json.dumps(note)}


def _is_complete(salvage: Salvage) -> bool:
    return salvage.complete and not salvage.lost_bytes


def _already_whole(path: Path) -> Recovery:
    information = read_information(path)
    start_ns = int(information['starting_time']['nanoseconds_since_epoch'])
    return Recovery(
        path=path,
        repaired=False,
        messages={
            str(topic['topic_metadata']['name']): int(topic['message_count'])
            for topic in information['topics_with_message_count']
        },
        start_ns=start_ns,
        last_ns=start_ns + int(information['duration']['nanoseconds']),
    )


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
