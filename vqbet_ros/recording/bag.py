"""One episode as a rosbag2: a folder with an MCAP file and metadata.yaml. No thread, no clock.

    <root>/<name>/<name>_0.mcap      the messages, as they came
    <root>/<name>/metadata.yaml      written last and atomically: a bag without it is not whole

What is known when the episode begins stands in the MCAP file from the start, as a metadata record
`rosbag2`, so that it survives a crash; what is known at its end is written there again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import os
from pathlib import Path
import struct
from typing import Any

from mcap.opcode import Opcode
from vqbet_ros import __version__
from vqbet_ros.data.layout import write_atomically
from vqbet_ros.errors import BadBag
from vqbet_ros.recording.chunks import Compression, MAGIC, McapFile
from vqbet_ros.recording.definitions import Definition, definition_of
from vqbet_ros.recording.metadata import (
    bag_information,
    Counted,
    custom_data_of,
    MetadataVersion,
    parse_information,
    qos_text,
    QosProfile,
    ROOT_KEY,
    to_yaml,
    Topic,
)

__all__ = [
    'BagOptions',
    'BagSummary',
    'BagWriter',
    'QosProfile',
    'Topic',
    'has_end',
    'is_whole',
    'mcap_file',
    'read_custom_data',
    'update_custom_data',
]

METADATA = 'metadata.yaml'
RECORD_NAME = 'rosbag2'
RECORD_KEY = 'serialized_metadata'
CRASHED_SUFFIX = '.crashed'
"""A folder that `vqbet recover` set aside, once its copy was verified."""
COPY_SUFFIX = '.recovering'
"""A folder in which `vqbet recover` works, or was interrupted."""
_FOOTER = struct.Struct('<BQQQI')


@dataclass(frozen=True)
class BagOptions:
    """How bags are written.

    Attributes:
        compression: Of the chunks.
        chunk_bytes: A chunk is written when it holds this much.
        metadata_version: 9, or 8 for readers of Jazzy and before.
        ros_distro: For example 'jazzy'.
    """

    compression: Compression = 'none'
    chunk_bytes: int = 1024 * 1024
    metadata_version: MetadataVersion = 9
    ros_distro: str = ''

    def __post_init__(self) -> None:
        """Check the values."""
        if self.chunk_bytes < 1:
            raise ValueError(f'chunk_bytes: got {self.chunk_bytes}, expected 1 or more')


@dataclass(frozen=True)
class BagSummary:
    """What a closed bag holds.

    Attributes:
        messages: How many, per topic.
        bytes: Size of the MCAP file.
        start_ns: Log time of the earliest message; 0 without messages.
        end_ns: Log time of the latest message; 0 without messages.
    """

    messages: dict[str, int]
    bytes: int
    start_ns: int
    end_ns: int


class BagWriter:
    """Writes one bag; used by one thread at a time.

    Args:
        path: The bag's folder; it must not exist.
        options: How to write.
        custom_data: Texts by key that are known at the start.

    Attributes:
        path: The bag's folder.

    Raises:
        BadBag: The folder exists.
        OSError: It cannot be written.
    """

    def __init__(
        self, path: Path | str, options: BagOptions, custom_data: Mapping[str, str]
    ) -> None:
        """Create the folder and the file, with what is known at the start in it."""
        self.path = Path(path)
        self._options = options
        self._topics: dict[int, Topic] = {}
        self._schemas: dict[str, int] = {}
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise BadBag(f'{self.path} exists already; a bag is never overwritten') from None
        self._file = McapFile(
            self.path / f'{self.path.name}_0.mcap',
            options.compression,
            options.chunk_bytes,
            f'vqbet_ros {__version__}',
        )
        self._add_metadata(self._information(custom_data))
        self._file.sync()
        _sync_folder(self.path)
        _sync_folder(self.path.parent)

    @property
    def counts(self) -> dict[int, int]:
        """Messages in the file per channel; those that wait for their chunk do not count."""
        return self._file.counts

    @property
    def written_bytes(self) -> int:
        """Size of the file so far."""
        return self._file.size

    def add_topic(self, topic: Topic, definition: Definition | None = None) -> int:
        """Add a topic, at any time before its first message.

        Args:
            topic: Its name must be new.
            definition: Of its type; by default the installed one.

        Returns:
            The channel's id for `write`.

        Raises:
            BadBag: The topic was added already.
            UnknownType: There is no definition of its type.
            OSError: It could not be written.
        """
        if topic.name in {other.name for other in self._topics.values()}:
            raise BadBag(f'{self.path}: topic {topic.name} was added already')
        schema = self._schemas.get(topic.type)
        if schema is None:
            definition = definition or definition_of(topic.type)
            schema = self._file.add_schema(
                topic.type, definition.encoding, definition.text.encode()
            )
            self._schemas[topic.type] = schema
        metadata = {
            'offered_qos_profiles': qos_text(topic.qos, self._options.metadata_version),
            'topic_type_hash': topic.type_hash,
        }
        channel = self._file.add_channel(topic.name, schema, metadata)
        self._topics[channel] = topic
        return channel

    def write(
        self, channel: int, payload: bytes, log_ns: int, publish_ns: int, sequence: int = 0
    ) -> None:
        """Add a message; it is in the file when its chunk is full, or after `flush`.

        Args:
            channel: From `add_topic`.
            payload: The serialised message (CDR), kept as it is: it must not change.
            log_ns: When it was received.
            publish_ns: When it was sent; the receive time where that is not known.
            sequence: The publisher's number of it; the file holds its lowest 32 bits.

        Raises:
            OSError: The chunk could not be written; `counts` tells which messages are in the file.
        """
        self._file.add_message(channel, payload, log_ns, publish_ns, sequence)

    def flush(self) -> None:
        """Close the chunk, and bring on the disk all that was written.

        Raises:
            OSError: It could not be written.
        """
        self._file.close_chunk()
        self._file.sync()

    def close(self, custom_data: Mapping[str, str]) -> BagSummary:
        """Finish the bag: the file's end, then metadata.yaml.

        Args:
            custom_data: All texts by key, also those that were given at the start.

        Raises:
            OSError: It could not be written; `vqbet recover` makes the bag whole.
        """
        try:
            self._file.close_chunk()
            information = self._information(custom_data)
            self._add_metadata(information)
            held = self._file.finish()
        finally:
            self._file.abandon()
        _write_metadata(self.path, information)
        messages = {topic.name: held.messages[i] for i, topic in self._topics.items()}
        return BagSummary(messages, held.bytes, held.start_ns, held.end_ns)

    def abandon(self) -> None:
        """Close the file as it is, as if the program had been killed."""
        self._file.abandon()

    def _information(self, custom_data: Mapping[str, str]) -> dict[str, Any]:
        held = self._file.describe()
        return bag_information(
            file_name=f'{self.path.name}_0.mcap',
            topics=[Counted(topic, held.messages[i]) for i, topic in self._topics.items()],
            start_ns=held.start_ns,
            end_ns=held.end_ns,
            custom_data=custom_data,
            version=self._options.metadata_version,
            ros_distro=self._options.ros_distro,
        )

    def _add_metadata(self, information: Mapping[str, Any]) -> None:
        self._file.add_metadata(RECORD_NAME, {RECORD_KEY: to_yaml(information)})


def update_custom_data(path: Path | str, changes: Mapping[str, str]) -> None:
    """Change or add texts in the metadata.yaml of a closed bag.

    Args:
        path: The bag's folder.
        changes: Texts by key; other keys stay.

    Raises:
        BadBag: There is no metadata.yaml, or it is broken.
        OSError: It could not be written; the old one is untouched.
    """
    information = _read_metadata(Path(path))
    information['custom_data'] = {**custom_data_of(information), **changes}
    _write_metadata(Path(path), information)


def read_custom_data(path: Path | str) -> dict[str, str]:
    """Read the texts of a bag; of an unfinished one those that were known at its start.

    Raises:
        BadBag: It holds neither a readable metadata.yaml nor a readable beginning.
    """
    return custom_data_of(_read_metadata(Path(path)))


def is_whole(path: Path | str) -> bool:
    """Tell whether a bag was closed: it has metadata.yaml, and its files have their ends."""
    path = Path(path)
    if not (path / METADATA).is_file():
        return False
    try:
        names = _read_metadata(path).get('relative_file_paths')
    except BadBag:
        return False
    files = [path / str(name) for name in names] if isinstance(names, list) else []
    return bool(files) and all(file.is_file() and has_end(file) for file in files)


def has_end(file: Path) -> bool:
    """Tell whether an MCAP file ends as a finished one does."""
    with file.open('rb') as stream:
        size = stream.seek(0, os.SEEK_END)
        length = _FOOTER.size + len(MAGIC)
        if size < length:
            return False
        stream.seek(size - length)
        tail = stream.read(length)
    opcode, footer_length, summary_start, _, _ = _FOOTER.unpack_from(tail)
    footer = opcode == Opcode.FOOTER and footer_length == _FOOTER.size - 9
    return tail.endswith(MAGIC) and footer and len(MAGIC) < summary_start < size


def mcap_file(path: Path) -> Path:
    """Find the one MCAP file of a bag.

    Raises:
        BadBag: There is no such folder, or not exactly one such file in it.
    """
    if not path.is_dir():
        what = 'is a file' if path.exists() else 'no such folder'
        raise BadBag(f'{path}: {what}, expected the folder of a bag')
    files = sorted(path.glob('*.mcap'))
    if len(files) != 1:
        got = ', '.join(file.name for file in files) or 'none'
        raise BadBag(f'{path}: got {got}, expected one .mcap file')
    return files[0]


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / METADATA
    if not file.is_file():
        raise BadBag(
            f'{path}: no {METADATA}: the bag was not closed; run `vqbet recover {path}`'
            if path.is_dir()
            else f'{path}: no such folder, expected a bag'
        )
    return parse_information(file.read_text(encoding='utf-8', errors='replace'), str(file))


def _write_metadata(path: Path, information: Mapping[str, Any]) -> None:
    write_atomically(path / METADATA, to_yaml({ROOT_KEY: dict(information)}).encode())
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    # A new name in a folder survives a power cut only once the folder itself is on the disk.
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
