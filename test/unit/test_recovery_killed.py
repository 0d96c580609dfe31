"""Recorders that are killed: twenty times, at random moments, while messages come in real time.

The killed program told what it had handed over and when; its messages can be made again from their
numbers. So what must be in the bag is known without looking at it.
"""

from itertools import pairwise
from pathlib import Path
import random
import select
import signal
import subprocess
import sys
import time

from bag_filler import message, TOPICS
import pytest
from rosbags.rosbag2 import Reader
from vqbet_ros.recording.bag import is_whole, read_custom_data
from vqbet_ros.recording.recovery import recover

PROMISE_NS = 1_000_000_000
"""What was handed over this long before the kill is in the bag."""


def record_and_kill(path, seed, ledger):
    """Run a recorder for a random time, kill it; return when it was killed."""
    chance = random.Random(seed)
    command = [
        *(sys.executable, str(Path(__file__).with_name('bag_filler.py')), str(path)),
        *('--compression', ('none', 'lz4', 'none', 'zstd')[seed % 4]),
        *('--chunk-bytes', str(chance.choice([50_000, 1_000_000, 5_000_000]))),
        *('--queue-bytes', '64000000'),
    ]
    with ledger.open('wb') as stdout:
        child = subprocess.Popen(command, stdout=stdout, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while b'ready\n' not in ledger.read_bytes():
        assert child.poll() is None
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(chance.uniform(0.0, 1.0) if is_early(seed) else chance.uniform(1.2, 2.5))
    killed_ns = time.monotonic_ns()
    child.send_signal(signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    return killed_ns


def standstill_ns(times_ns, killed_ns):
    """Sum up when the recorder's program did not run at all, of its last three seconds.

    It hands over a message every 1.7 ms; on a machine that has much else to do it may not get a
    turn for long, and that time is not its own.
    """
    moments = sorted(at for at in times_ns if at > killed_ns - 3 * PROMISE_NS)
    gaps = [after - before for before, after in pairwise([*moments, killed_ns])]
    return sum(gap for gap in gaps if gap > 50_000_000)


def is_early(seed):
    """Tell which kills come so early that nothing is promised."""
    return seed % 5 == 0


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(20))
def test_all_but_the_last_second_comes_back(tmp_path, seed):
    path, ledger = tmp_path / 'episode', tmp_path / 'ledger'
    killed_ns = record_and_kill(path, seed, ledger)
    # The last line may be cut.
    lines = [line.split() for line in ledger.read_text().rpartition('\n')[0].splitlines()]
    put = {int(number): int(at_ns) for _, number, at_ns in lines[1:]}
    assert not is_whole(path)
    recovery = recover(path)
    with Reader(path) as bag:
        kept = [(c.topic, t, bytes(data)) for c, t, data in bag.messages()]
    # A beginning of what was sent, byte by byte: the recorder handed over all of it, in order.
    made = [message(number) for number in range(len(kept))]
    assert kept == [(TOPICS[topic].name, log_ns, data) for topic, data, log_ns, _, _ in made]
    promised_ns = killed_ns - PROMISE_NS - standstill_ns(put.values(), killed_ns)
    due = [number for number, at_ns in put.items() if at_ns <= promised_ns]
    assert set(due) <= set(range(len(kept)))
    assert recovery.repaired
    assert sum(recovery.messages.values()) == len(kept)
    assert recovery.kept_original == tmp_path / 'episode.crashed'
    assert read_custom_data(path)['vqbet.outcome'] == 'incomplete'
    assert read_custom_data(path)['vqbet.task'] == 'push'
