"""A program for tests: records an episode until it is killed or the disk is full.

Writes to stdout, a line each: `ready`, then for each message that was taken `put <number> <ns>`,
where ns is the monotonic clock before it was handed over. Its messages can be made again from
their numbers alone, which is how the tests know what must be in the bag.
"""

import argparse
from collections.abc import Iterator
import json
from pathlib import Path
import random
import resource
import threading
import time

from vqbet_ros.errors import BadBag
from vqbet_ros.recording.bag import BagOptions, BagWriter, Topic
from vqbet_ros.recording.writer import EpisodeWriter

TOPICS = (
    Topic('/joint_states', 'sensor_msgs/msg/JointState'),
    Topic('/wrist/compressed', 'sensor_msgs/msg/CompressedImage'),
    Topic('/camera/image_raw', 'sensor_msgs/msg/Image'),
)
START_NS = 1_700_000_000_000_000_000
# 540 joint states, 30 JPEGs, 27 small images and 3 of VGA size a second: 5 MB/s, so that a
# machine with much other work to do keeps up.
PERIOD_NS = 1_000_000_000 // 600
_NOISE = random.Random(0).randbytes(1_000_000)


def message(number: int) -> tuple[int, bytes, int, int, int]:
    """Make the message of a number: (topic, payload, log_ns, publish_ns, sequence)."""
    topic = 2 if number % 20 == 0 else 1 if number % 10 == 5 else 0
    size = (300, 3_000, 921_600 if number % 200 == 100 else 92_160)[topic] + number % 97
    start = number * 7919 % (len(_NOISE) - size)
    payload = b'\0\1\0\0' + number.to_bytes(8, 'little') + _NOISE[start : start + size]
    log_ns = START_NS + number * PERIOD_NS
    return topic, payload, log_ns, log_ns - 1000, number


def numbers(rate: float) -> Iterator[int]:
    """Count up, `rate` times 600 a second; 0 is as fast as can be."""
    clock = threading.Event()
    started = time.monotonic()
    number = 0
    while True:
        if rate:
            due = started + number * PERIOD_NS / 1e9 / rate
            clock.wait(max(0.0, due - time.monotonic()))
        yield number
        number += 1


def main() -> None:
    """Record until something ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument('path', type=Path)
    parser.add_argument('--rate', type=float, default=1.0)
    parser.add_argument('--compression', default='none')
    parser.add_argument('--chunk-bytes', type=int, default=1024 * 1024)
    parser.add_argument('--queue-bytes', type=int, default=4_000_000)
    parser.add_argument('--limit-bytes', type=int, help='no file may be larger than this')
    parser.add_argument('--small', action='store_true', help='joint states alone')
    args = parser.parse_args()
    bag = BagWriter(
        args.path, BagOptions(args.compression, args.chunk_bytes), {'vqbet.task': 'push'}
    )
    channels = [bag.add_topic(topic) for topic in TOPICS]
    if args.limit_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.limit_bytes, args.limit_bytes))
    writer = EpisodeWriter(bag, queue_bytes=args.queue_bytes)
    print('ready', flush=True)
    offered = dict.fromkeys(channels, 0)
    clock = threading.Event()
    for number in numbers(args.rate):
        topic, payload, log_ns, publish_ns, sequence = message(number)
        if topic and args.small:
            continue
        before_ns = time.monotonic_ns()
        taken = writer.put(channels[topic], payload, log_ns, publish_ns, sequence)
        offered[channels[topic]] += 1
        if taken:
            print(f'put {number} {before_ns}', flush=True)
        elif writer.failure is not None:
            break
        else:
            clock.wait(0.001)  # the queue is full, and the thread that empties it needs its turn
    try:
        summary = writer.close({'vqbet.task': 'push', 'vqbet.outcome': 'success'}, timeout=60)
        closed, held = '', summary.messages
    except BadBag as error:
        closed, held = str(error), {}
    names = {channel: TOPICS[i].name for i, channel in enumerate(channels)}
    told = {
        'failure': writer.failure,
        'closed': closed,
        'held': held,
        'offered': {names[channel]: count for channel, count in offered.items()},
        'lost': {names[channel]: count for channel, count in writer.lost.items()},
    }
    print(json.dumps(told), flush=True)


if __name__ == '__main__':
    main()
