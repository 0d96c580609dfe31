"""One episode as a rosbag2: a folder with an MCAP file and metadata.yaml. No thread, no clock.

    <root>/<name>/<name>_0.mcap      the messages, as they came
    <root>/<name>/metadata.yaml      written last and atomically: a bag without it is not whole

What is known when the episode begins stands in the MCAP file from the start, as a metadata record
`rosbag2`, so that it survives a crash; what is known at its end is written there again.
"""

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqbet_ros import __version__
from vqbet_ros.errors import BadBag
from vqbet_ros.recording.chunks import Compression
from vqbet_ros.recording.definitions import Definition, definition_of
from vqbet_ros.recording.folder import (
    COPY_SUFFIX,
    CRASHED_SUFFIX,
    is_whole,
    read_custom_data,
    sync_folder,
    update_custom_data,
    write_information,
)
from vqbet_ros.recording.mcap_file import FileSummary, McapFile
from vqbet_ros.recording.metadata import (
    bag_information,
    Counted,
    MetadataVersion,
    qos_text,
    QosProfile,
    RECORD_KEY,
    RECORD_NAME,
    to_yaml,
    Topic,
)

# What works with whole episodes needs this module alone.
__all__ = [
    'COPY_SUFFIX',
    'CRASHED_SUFFIX',
    'BagOptions',
    'BagSummary',
    'BagWriter',
    'QosProfile',
    'Topic',
    'is_whole',
    'read_custom_data',
    'update_custom_data',
]


@dataclass(frozen=True)
class BagOptions:
    """How bags are written.

    Attributes:
        compression: Of the chunks.
        chunk_bytes: A chunk is written when it holds this much.
        metadata_version: 9, or 8 for the readers of Humble and Iron.
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
        OSError: It cannot be written; nothing is left of it.
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
        with ExitStack() as undo:
            undo.callback(_take_away, self.path)
            self._file = McapFile(
                self.path / f'{self.path.name}_0.mcap',
                options.compression,
                options.chunk_bytes,
                f'vqbet_ros {__version__}',
            )
            undo.callback(self._file.release)
            self._add_metadata(self._information(custom_data))
            self._file.sync()
            sync_folder(self.path)
            sync_folder(self.path.parent)
            undo.pop_all()

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
        """Add a message; it is in the file when its chunk is full, or after `close_chunk`.

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

    def close_chunk(self) -> None:
        """Hand all messages to the operating system: they survive the end of this program.

        Raises:
            OSError: They could not be written; `counts` tells which messages are in the file.
        """
        self._file.close_chunk()

    def sync(self) -> None:
        """Bring on the disk what was handed over: it survives a power cut.

        Unlike the other methods it may be called from another thread, until `close` is called.

        Raises:
            OSError: The disk failed.
        """
        self._file.sync()

    def flush(self) -> None:
        """Close the chunk and bring it on the disk.

        Raises:
            OSError: It could not be written.
        """
        self.close_chunk()
        self.sync()

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
            # Held until here: a bag without its metadata would pass for one that was left behind.
            write_information(self.path, information)
        finally:
            self._file.release()
        return self._summary(held)

    def abandon(self) -> None:
        """Close the file as it is, as if the program had been killed."""
        self._file.release()

    def take_away(self) -> None:
        """Remove the bag, which holds no message yet; where that fails, it is left unfinished."""
        self.abandon()
        _take_away(self.path)

    def describe(self) -> BagSummary:
        """Say what is in the file so far; messages that wait for their chunk do not count."""
        return self._summary(self._file.describe())

    def _summary(self, held: FileSummary) -> BagSummary:
        messages = {topic.name: held.messages[i] for i, topic in self._topics.items()}
        return BagSummary(messages, held.bytes, held.start_ns, held.end_ns)

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


def _take_away(folder: Path) -> None:
    # Why the bag could not be begun is told; a remainder is told of by whoever finds it.
    with suppress(OSError):
        for file in folder.glob('*.mcap'):
            file.unlink()
        folder.rmdir()
