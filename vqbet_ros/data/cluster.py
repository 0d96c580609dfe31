"""Processes on other machines, through joblib's backends for Dask and Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
import importlib

import joblib
from vqbet_ros.errors import ConfigError

KINDS = {'dask': 'distributed', 'ray': 'ray'}
"""What each kind of cluster needs installed, here and there, beside vqbet_ros."""


@contextmanager
def cluster(text: str) -> Iterator[None]:
    """Let joblib work on a cluster.

    Args:
        text: `dask=ADDRESS` or `ray=ADDRESS`, for example dask=tcp://10.0.0.5:8786, ray=auto.

    Raises:
        ConfigError: The text is something else, its package is not installed, or nobody answers
            at the address.
    """
    kind, _, address = text.partition('=')
    if kind not in KINDS or not address:
        raise ConfigError(
            f'--backend {text}: expected dask=ADDRESS or ray=ADDRESS, for example '
            "'dask=tcp://10.0.0.5:8786'"
        )
    try:
        package = importlib.import_module(KINDS[kind])
        if kind == 'ray':
            register = importlib.import_module('ray.util.joblib').register_ray
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'--backend {kind} needs {KINDS[kind]}, which is not installed: '
            f'pip install {KINDS[kind]}'
        ) from error
    try:
        if kind == 'dask':
            client = package.Client(address, timeout='10s')
        else:
            package.init(address=address)
    except (OSError, ValueError, ConnectionError) as error:
        raise ConfigError(f'--backend {text}: no cluster answers there: {error}') from error
    try:
        if kind == 'ray':
            register()
        with joblib.parallel_config(backend=kind):
            yield
    finally:
        if kind == 'dask':
            client.close()
        else:
            package.shutdown()
