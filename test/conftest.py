"""What all tests share: DDS kept on this machine, and data that may or may not be there."""

import os
from pathlib import Path
import random
import signal

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    # A shell ignores SIGINT for what it runs in the background, and programs started from here
    # would inherit that: tests that interrupt one would wait for ever.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before any test imports rclpy: no test may ever reach a robot, nor another run of the tests.
    if os.environ.get('ROS_DISTRO') == 'humble':
        os.environ['ROS_LOCALHOST_ONLY'] = '1'
    else:
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 100)))
    old = os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
    variable = 'FASTRTPS_DEFAULT_PROFILES_FILE' if old else 'FASTDDS_DEFAULT_PROFILES_FILE'
    os.environ.setdefault(variable, str(ROOT / 'config' / 'fastdds.xml'))


def pytest_collection_modifyitems(items):
    # The folder says what a test needs, so that `-m "not ros"` cannot miss one.
    for item in items:
        for kind in ('ros', 'launch'):
            if item.path.is_relative_to(ROOT / 'test' / kind):
                item.add_marker(kind)


def pytest_report_header(config):
    shown = ('ROS_DISTRO', 'ROS_DOMAIN_ID', 'ROS_AUTOMATIC_DISCOVERY_RANGE')
    return 'ROS: ' + ', '.join(f'{name}={os.environ.get(name, "")}' for name in shown)


@pytest.fixture(scope='session')
def pusht_zarr():
    """Find the public PushT demonstrations, which do not come with the repository."""
    path = Path(
        os.environ.get('VQBET_PUSHT_ZARR')
        or ROOT.parent / 'shared/data/pusht/pusht_cchi_v7_replay.zarr'
    )
    if not path.is_dir():
        pytest.skip(f'the PushT demonstrations are not at {path}: set VQBET_PUSHT_ZARR')
    return path
