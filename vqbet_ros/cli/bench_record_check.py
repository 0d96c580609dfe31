"""Compares a recorded bag with the publisher's ledger, through three readers."""

from collections.abc import Callable, Iterator
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from vqbet_ros.cli.progress import track
from vqbet_ros.recording.bench_load import checksum, number_of, TOPICS

_Read = Callable[[Path], Iterator[tuple[str, Any]]]


def compare(bag: Path, ledger: NDArray[Any], window_ns: tuple[int, int]) -> dict[str, Any]:
    """Compare a bag with what was sent.

    Args:
        bag: Its folder.
        ledger: Of the publisher.
        window_ns: What was sent between these times must be in the bag.

    Returns:
        `published`, `recorded`, `lost`: of the messages in the window; `identical`: for each
        reader how many messages of the bag, all in all, are what was sent, byte by byte, or None
        if it is not installed; `differing`: how many are not, in any reader; `bytes`.
    """
    topics = list(TOPICS)
    sent = {
        (topics[row['topic']], int(row['number'])): (int(row['crc32']), int(row['stamp_ns']))
        for row in ledger
    }
    wanted = {
        key for key, (_, stamp_ns) in sent.items() if window_ns[0] <= stamp_ns <= window_ns[1]
    }
    identical: dict[str, int | None] = {}
    differing = size = 0
    found: set[tuple[str, int]] = set()
    for name, package, read in (
        ('rosbags', 'rosbags', _with_rosbags),
        ('mcap_ros2', 'mcap_ros2', _with_mcap_ros2),
        ('rosbag2_py', 'rosbag2_py', _with_rosbag2_py),
    ):
        if not importlib.util.find_spec(package):
            identical[name] = None
            continue
        count = 0
        seen: set[tuple[str, int]] = set()
        for topic, cdr in track(read(bag), len(wanted), f'messages read with {name}'):
            key = (topic, number_of(topic, cdr))
            if key in sent and key not in seen and sent[key][0] == checksum(cdr):
                count += 1
            else:
                differing += 1
            seen.add(key)
            size += len(cdr) if name == 'rosbags' else 0
        identical[name] = count
        found = seen if name == 'rosbags' else found & seen
    return {
        'published': len(wanted),
        'recorded': len(wanted & found),
        'lost': len(wanted - found),
        'identical': identical,
        'differing': differing,
        'bytes': size,
    }


def _with_rosbags(bag: Path) -> Iterator[tuple[str, Any]]:
    from rosbags.rosbag2 import Reader

    with Reader(bag) as reader:
        for connection, _, cdr in reader.messages():
            yield connection.topic, cdr


def _with_mcap_ros2(bag: Path) -> Iterator[tuple[str, Any]]:
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    (path,) = bag.glob('*.mcap')
    with path.open('rb') as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        # Decoding each message shows that its definition is right too.
        for _, channel, message, decoded in reader.iter_decoded_messages():
            stamp = decoded.header.stamp
            in_bytes = int.from_bytes(message.data[4:8], 'little', signed=True)
            if stamp.sec != in_bytes:
                raise AssertionError(f'{channel.topic}: mcap_ros2 decodes another stamp')
            yield channel.topic, message.data


def _with_rosbag2_py(bag: Path) -> Iterator[tuple[str, Any]]:
    rosbag2_py: Any = importlib.import_module('rosbag2_py')  # comes with ROS 2, without types
    reader = rosbag2_py.SequentialReader()
    reader.open(
        rosbag2_py.StorageOptions(uri=str(bag), storage_id='mcap'),
        rosbag2_py.ConverterOptions('cdr', 'cdr'),
    )
    while reader.has_next():
        topic, cdr, _ = reader.read_next()
        yield topic, cdr
