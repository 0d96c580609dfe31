"""The copy of a bag that was cut short or damaged: everything that can be read, and verified."""

from dataclasses import dataclass
import json
import os
from pathlib import Path

from mcap.records import Channel, Message, Schema
from vqbet_ros.errors import BadBag, listed
from vqbet_ros.recording.bag import BagOptions, BagSummary, BagWriter
from vqbet_ros.recording.definitions import Definition, definition_of, ENCODINGS
from vqbet_ros.recording.folder import mcap_file, METADATA, read_information
from vqbet_ros.recording.metadata import custom_data_of, parse_qos, Topic, version_read_by
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
        ended: The recorder had put all of it into the file: none is missing behind what is there.
        missing: Messages that its metadata tell of, and that could not be read.
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
    ended: bool = True
    missing: int = 0
    lost_bytes: int = 0
    damaged_chunks: int = 0
    kept_original: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """From the earliest to the latest message."""
        return (self.last_ns - self.start_ns) / 1e9


class Copying:
    """One recovery, up to the verified copy.

    Args:
        path: The bag, which is not touched.
        copy: The folder of the copy; it must not exist.
        progress: Told how far it is.

    Raises:
        BadBag: The bag does not have exactly one file.
    """

    def __init__(self, path: Path, copy: Path, progress: Progress) -> None:
        self._path = path
        self._copy = copy
        self._file = mcap_file(path)
        self._report = progress
        self._custom: dict[str, str] | None = None
        self._channels: dict[int, tuple[int, Tally]] = {}
        self._tallies: dict[str, Tally] = {}
        self._missing = 0
        self._notes: list[str] = []

    def run(self) -> Recovery:
        """Copy and verify.

        Raises:
            BadBag: The bag cannot be read, or the copy is not right.
            OSError: The disk failed.
        """
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
            complete=self._is_complete(salvage),
            ended=salvage.complete,
            lost_bytes=salvage.lost_bytes,
            missing=self._missing,
            damaged_chunks=salvage.damaged_chunks,
            notes=tuple(self._notes),
        )

    def _write(self, salvage: Salvage) -> BagSummary:
        begun = beginning_of(self._file)
        self._custom = custom_data_of(begun.information)
        version = begun.information.get('version')
        if not isinstance(version, int):
            version = version_read_by(os.environ.get('ROS_DISTRO', ''))
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
        if schema.encoding in ENCODINGS:
            definition = Definition(schema.data.decode(errors='replace'), schema.encoding)
        else:
            definition = definition_of(schema.name)
            self._notes.append(
                f'{record.topic}: its definition is the one installed here; in the bag it was '
                f'damaged: got encoding {schema.encoding!r}, expected {" or ".join(ENCODINGS)}'
            )
        tally = self._tallies[record.topic] = Tally()
        self._channels[record.id] = (bag.add_topic(topic, definition), tally)

    def _final_custom_data(self, bag: BagWriter, salvage: Salvage) -> dict[str, str]:
        """Return what is known of the episode, with a note of what was lost."""
        custom = dict(self._custom or {})
        held = bag.describe()
        if (self._path / METADATA).is_file():
            # It may be newer than the file: outcomes are marked there.
            try:
                information = read_information(self._path)
                custom = custom_data_of(information) or custom
                told = information.get('message_count')
                if isinstance(told, int):
                    self._missing = max(0, told - sum(held.messages.values()))
            except BadBag as error:
                self._notes.append(f'its metadata is taken from the MCAP file: {error}')
        note: dict[str, object] = {
            'messages': sum(held.messages.values()),
            'seconds': (held.end_ns - held.start_ns) / 1e9,
            'last_message_ns': held.end_ns,
            'lost_bytes': salvage.lost_bytes,
            'damaged_chunks': salvage.damaged_chunks,
            'missing_messages': self._missing,
        }
        if not self._is_complete(salvage):
            note['outcome_before'] = custom.get(OUTCOME_KEY)
            custom[OUTCOME_KEY] = 'incomplete'
        return {**custom, NOTE_KEY: json.dumps(note)}

    def _is_complete(self, salvage: Salvage) -> bool:
        return salvage.complete and not salvage.lost_bytes and not self._missing
