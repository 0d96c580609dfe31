"""Plain mappings (from YAML or JSON) to frozen dataclasses and back, strictly.

Unknown keys are refused with a suggestion, wrong types are named, and all problems are reported
together. Supported field types: bool, int, float, str, Literal, X | None, tuple[X, ...],
dict[str, X] and dataclasses.
"""

import dataclasses
import difflib
from pathlib import Path
import re
import types
import typing
from typing import Any, TypeVar

from vqbet_ros.errors import ConfigError, listed
import yaml

T = TypeVar('T')

_LOADER: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: The file is absent, is not YAML, or holds no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f'no such file: {path}')
    try:
        mapping = parse_yaml(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path} is not valid YAML: {error}') from error
    if not isinstance(mapping, dict):
        raise ConfigError(f'{path}: expected a mapping at the top, got {type(mapping).__name__}')
    return mapping


def parse_yaml(text: str) -> Any:
    """Parse YAML, by libyaml where PyYAML was built with it: that is ten times as fast.

    Raises:
        yaml.YAMLError: It is none.
    """
    return yaml.load(text, Loader=_LOADER)  # noqa: S506 - both are safe loaders


def from_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """Build a dataclass from a mapping.

    Args:
        cls: A dataclass type; its `__post_init__` may raise ValueError.
        mapping: Keys are field names; missing keys take the field's default.
        where: Names the source in errors, for example the file.

    Raises:
        ConfigError: Lists every unknown key, missing key and wrong type.
    """
    problems: list[str] = []
    built = _convert(cls, mapping, '', problems)
    if problems:
        raise ConfigError(listed(f'{where}: {len(problems)} problem(s)', problems))
    return typing.cast(T, built)


def to_mapping(value: Any) -> Any:
    """Turn a dataclass into plain dicts and lists that YAML and JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_mapping(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_mapping(item) for item in value]
    return value


def to_yaml(value: Any) -> str:
    """Turn a dataclass into YAML, keys in its own order."""
    text: str = yaml.dump(to_mapping(value), Dumper=_DUMPER, sort_keys=False)
    return text


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ''


def nested(override: str) -> dict[str, Any]:
    """Turn 'a.b=1', as it follows --set, into {'a': {'b': 1}}; the value is read as YAML.

    Raises:
        ConfigError: There is no key, no equals sign, or the value is no YAML.
    """
    key, equals, text = override.partition('=')
    if not equals or not key:
        raise ConfigError(f'--set {override}: expected key=value, for example policy.steps=1000')
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f'--set {override}: the value is not valid YAML: {error}') from error
    if isinstance(value, str) and re.fullmatch(r'[-+]?\d+(\.\d*)?[eE][-+]?\d+', value):
        value = float(value)  # YAML 1.1 takes 1e-4 for text; nobody who types it means that
    for part in reversed(key.split('.')):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, key by key at every depth; neither is changed."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _convert(kind: Any, value: Any, at: str, problems: list[str]) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(typing.cast(type, kind), value, at, problems)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = [arg for arg in args if arg is not type(None)]
        return _convert(inner[0], value, at, problems)
    if origin is typing.Literal:
        if value not in args:
            problems.append(
                f'{at}: got {value!r}, expected one of {", ".join(map(repr, args))}'
                + (did_you_mean(value, map(str, args)) if isinstance(value, str) else '')
            )
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return _wrong(at, value, 'a list', problems)
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            return _wrong(at, value, f'a list of {len(kinds)}', problems)
        return tuple(
            _convert(k, v, f'{at}[{i}]', problems)
            for i, (k, v) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            return _wrong(at, value, 'a mapping', problems)
        return {str(k): _convert(args[1], v, _join(at, k), problems) for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Any:
        return value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        hint = ''
        if kind is float and isinstance(value, str) and 'e' in value.lower():
            hint = ' (YAML reads 1e-4 as text: write 1.0e-4)'
        return _wrong(at, value, kind.__name__, problems, hint)
    return value


def _convert_dataclass(cls: type, value: Any, at: str, problems: list[str]) -> Any:
    if not isinstance(value, dict):
        return _wrong(at or cls.__name__, value, 'a mapping', problems)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    before = len(problems)
    for key in value:
        if key not in fields:
            problems.append(f"unknown key '{_join(at, key)}'" + did_you_mean(str(key), fields))
    kwargs = {}
    for name, field in fields.items():
        if name in value:
            kwargs[name] = _convert(hints[name], value[name], _join(at, name), problems)
        elif field.default is field.default_factory is dataclasses.MISSING:
            problems.append(f"missing key '{_join(at, name)}'")
    if len(problems) > before:
        return None
    try:
        return cls(**kwargs)
    except ValueError as error:
        problems.append(f'{at}: {error}' if at else str(error))
        return None


def _wrong(at: str, value: Any, expected: str, problems: list[str], hint: str = '') -> None:
    problems.append(f'{at}: got {value!r}, expected {expected}{hint}')


def _join(at: str, key: Any) -> str:
    return f'{at}.{key}' if at else str(key)
