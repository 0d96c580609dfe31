"""The package's exceptions: each is one clear message for the user, without a traceback.

A message says what is wrong, what was got, what was expected, and what to run.
"""

from collections.abc import Sequence


class VqbetError(Exception):
    """A mistake that the user can mend; the command line prints it and exits with 1."""


class ConfigError(VqbetError):
    """A configuration or spec file has unknown keys, wrong types or contradictory values."""


class SpecMismatch(VqbetError):
    """Two robot specs that must agree differ; the message lists every difference."""


class BadDataset(VqbetError):
    """A dataset or a source of demonstrations is missing, broken or of an unknown layout."""


class BadCheckpoint(VqbetError):
    """A checkpoint is missing, incomplete, foreign or does not fit the code."""


class BadMessage(VqbetError):
    """A ROS message cannot be turned into the array that the spec asks for."""


class BadBag(VqbetError):
    """A bag is missing, unfinished, broken or not one that this program can read or write."""


class UnknownType(VqbetError):
    """A message type has no definition on this machine."""


def listed(title: str, problems: Sequence[str]) -> str:
    """Join all problems under one title, so that a user sees them at once."""
    return '\n'.join([title, *(f'  - {problem}' for problem in problems)])
