"""Reading rosbag2 bags: both storages, split, compressed, of every distribution since Humble.

A bag is a directory with metadata.yaml, or one bare .mcap or .db3 file. Messages stay serialised;
`messages.py` decodes the few that are needed.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
import hashlib
from pathlib import Path
from typing import Any

from mcap.reader import make_reader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from vqbet_ros.data.arrival import as_written, is_set_back
from vqbet_ros.data.bag_opening import damaged, opened, STORAGES, text_of
from vqbet_ros.errors import BadBag, listed
from vqbet_ros.spec import RobotSpec
from vqbet_ros.structured import did_you_mean
import yaml
import zstandard

SPEC_KEY = 'vqbet.spec'
_HASHED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class BagMessage:
    """One message as it was recorded.

    Attributes:
        topic: Its topic.
        type: Its ROS type, for example 'sensor_msgs/msg/Image'.
        log_ns: When the recorder received it.
        payload: CDR with its 4-byte encapsulation header.
    """

    topic: str
    type: str
    log_ns: int
    payload: bytes


@dataclass(frozen=True)
class BagTopic:
    """What a bag holds of one topic.

    Attributes:
        type: Its ROS type; several, separated by commas, where publishers disagreed.
        count: Number of messages.
    """

    type: str
    count: int


@dataclass(frozen=True)
class Bag:
    """A bag that was found to be whole; nothing is held open, except by `reading`.

    Attributes:
        path: The directory, or the bare file.
        topics: What there is, by topic.
        custom_data: Texts that the recorder added.
        start_ns: Time of the first message's arrival; 0 for a bag without messages.
        end_ns: Time of the last one's.
    """

    path: Path
    topics: Mapping[str, BagTopic]
    custom_data: Mapping[str, str]
    start_ns: int
    end_ns: int
    _reader: Reader | None = field(default=None, compare=False, repr=False)

    @classmethod
    def open(cls, path: str | Path) -> 'Bag':
        """Look into a bag.

        Raises:
            BadBag: There is none, or it is not whole; says what repairs it.
        """
        with cls.reading(path) as bag:
            return replace(bag, _reader=None)

    @classmethod
    @contextmanager
    def reading(cls, path: str | Path) -> Iterator['Bag']:
        """Look into a bag, and read its messages without opening it again.

        To open one takes some 20 ms, and longer where its files are compressed as a whole.

        Raises:
            BadBag: As for `open`.
        """
        path = Path(path)
        with closing(opened(path)) as reader:
            # Readers take over what stands in metadata.yaml, of whatever type.
            try:
                bag = cls._of(path, reader)
            except (AttributeError, TypeError, ValueError) as error:
                raise damaged(path, f'its metadata is broken: {text_of(error)}') from error
            yield bag

    @classmethod
    def _of(cls, path: Path, reader: Reader) -> 'Bag':
        found = {
            name: BagTopic(
                ', '.join(sorted({c.msgtype for c in topic.connections})),
                _count(topic.msgcount),
            )
            for name, topic in reader.topics.items()
        }
        # The reader's end is one past the last message.
        times = (_count(reader.start_time), _count(reader.end_time) - 1)
        if _count(reader.message_count) == 0:
            times = 0, 0
        custom = reader.storage.metadata.custom
        if custom is None and path.suffix == '.mcap':
            custom = _custom_data_inside(path)
        texts = {str(key): str(value) for key, value in (custom or {}).items()}
        return cls(path, found, texts, *times, reader)

    @property
    def spec(self) -> RobotSpec | None:
        """The spec that the bag was recorded under; None for a bag from elsewhere.

        Raises:
            ConfigError: There is one, and it is broken.
        """
        text = self.custom_data.get(SPEC_KEY)
        return None if text is None else RobotSpec.from_text(text, f'the spec in {self.path}')

    def require(self, spec: RobotSpec) -> RobotSpec:
        """Check that the bag has what a spec asks for.

        Returns:
            The spec with the topics as they are in the bag: raw cameras may have been recorded
            compressed.

        Raises:
            BadBag: Lists every topic that is missing, empty or of another type.
        """
        cameras = tuple(
            camera.compressed
            if camera.topic not in self.topics and camera.compressed.topic in self.topics
            else camera
            for camera in spec.cameras
        )
        spec = replace(spec, cameras=cameras)
        problems = []
        for topic, type_name in spec.recorded_topics.items():
            found = self.topics.get(topic)
            if found is None:
                problems.append(f'{topic}: not in the bag' + did_you_mean(topic, self.topics))
            elif found.type != type_name:
                problems.append(f'{topic}: got {found.type}, expected {type_name}')
            elif found.count == 0:
                problems.append(f'{topic}: in the bag, but without a single message')
        if problems:
            known = ', '.join(f'{name} ({topic.type})' for name, topic in self.topics.items())
            title = (
                f"{self.path} lacks what the spec of '{spec.robot}' names; it holds "
                f'{known or "no topic"}. Give the right spec with --spec, or record again'
            )
            raise BadBag(listed(title, problems))
        return spec

    def files(self) -> tuple[Path, ...]:
        """Return the files that hold messages, in the order of their names."""
        if self.path.is_file():
            return (self.path,)
        return tuple(sorted(f for f in self.path.iterdir() if f.suffix in STORAGES))

    def sha256(self) -> str:
        """Return a hash of all messages' files; what is noted beside them does not change it."""
        total = hashlib.sha256()
        for file in self.files():
            digest = hashlib.sha256()
            with file.open('rb') as stream:
                while block := stream.read(_HASHED_AT_ONCE):
                    digest.update(block)
            total.update(digest.digest())
        return total.hexdigest()

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Read the messages in the order of their arrival, a few at a time.

        Where a clock was set back meanwhile, their times go back in this order.

        Args:
            topics: Which ones; None for all.

        Raises:
            BadBag: A file is damaged, or holds less than the bag's metadata says.
        """
        if self._reader is None:
            with Bag.reading(self.path) as bag:
                yield from bag.messages(topics)
            return
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not wanted:
            return
        expected = sum(connection.msgcount for connection in wanted)
        seen = 0
        try:
            for message in _messages(self._reader, wanted):
                seen += 1
                yield message
        except Exception as error:  # see opened
            raise damaged(self.path, f'after {seen} message(s): {text_of(error)}') from error
        if seen < expected:
            raise damaged(self.path, f'it should hold {expected} messages, but has {seen}')


def _messages(reader: Reader, wanted: list[Connection]) -> Iterator[BagMessage]:
    """Read messages by time, or as they were written where a clock was set back."""
    files = [Path(s.path) for s in getattr(reader.storage, 'storages', [reader.storage])]
    if not any(map(is_set_back, files)):
        for connection, log_ns, payload in reader.messages(wanted):
            yield BagMessage(connection.topic, connection.msgtype, log_ns, bytes(payload))
        return
    for file in files:
        for topic, kind, log_ns, payload in as_written(file, {c.topic for c in wanted}):
            if reader.compression_mode == 'message':
                payload = zstandard.decompress(payload)
            yield BagMessage(topic, kind, log_ns, payload)


def _custom_data_inside(file: Path) -> Any:
    """Return the texts that its recorder put into an MCAP file itself, if it did."""
    with file.open('rb') as stream:
        records = [r for r in make_reader(stream).iter_metadata() if r.name == 'rosbag2']
    if not records:
        return None
    try:
        about = yaml.safe_load(records[-1].metadata['serialized_metadata'])
    except (yaml.YAMLError, KeyError) as error:
        raise ValueError(f'{file}: {text_of(error)}') from error
    return about.get('rosbag2_bagfile_information', about).get('custom_data')


def _count(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f'got {value!r}, expected a whole number')
    return value
