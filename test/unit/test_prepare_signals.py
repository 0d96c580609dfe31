"""Ctrl-C reaches all processes of a terminal; those that work on bags leave it to the first."""

import os
from pathlib import Path
import signal

import pytest
from vqbet_ros.data.bag_folders import find_bags
from vqbet_ros.data.prepare import Preparation


def workers():
    """Return the processes of joblib that this one has started."""
    for process in Path('/proc').glob('[0-9]*'):
        try:
            parent = int((process / 'stat').read_text().rpartition(')')[2].split()[1])
            command = (process / 'cmdline').read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        if parent == os.getpid() and 'popen_loky' in command:
            yield int(process.name)


def test_processes_that_work_on_bags_leave_ctrl_c_to_the_first(tmp_path, write_bag):
    for seed in range(6):
        write_bag(tmp_path / f'bags/twig_{seed}', 2.0, seed)
    with Preparation(find_bags([tmp_path / 'bags']), tmp_path / 'dataset') as preparation:
        results = preparation.run(2)
        done = [next(results)]
        at_work = list(workers())
        assert at_work
        for process in at_work:
            os.kill(process, signal.SIGINT)
        try:
            done += results
        except KeyboardInterrupt:
            pytest.fail('a process took it for its own')
        assert [one.status for one in done] == ['added'] * 6
        assert set(at_work) <= set(workers())
