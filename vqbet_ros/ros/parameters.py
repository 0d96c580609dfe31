"""A frozen dataclass as a node's parameters: one place for names, defaults, units and ranges."""

from collections.abc import Sequence
import dataclasses
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterException,
)
from rclpy.node import Node
from vqbet_ros.errors import ConfigError, listed

T = TypeVar('T')


def parameter(
    default: Any,
    description: str,
    *,
    bounds: tuple[Any, Any] | None = None,
    choices: Sequence[Any] = (),
    read_only: bool = True,
) -> Any:
    """Describe one field of a dataclass of parameters.

    Args:
        default: Also decides the type: bool, int, float, str, or a tuple of str (not empty,
            since ROS reads no empty list: an empty text among them stands for nothing).
        description: One sentence, with the unit and what the default means.
        bounds: Lowest and highest number.
        choices: The only values allowed.
        read_only: False for what may change while the node runs.
    """
    metadata = {
        'description': description,
        'bounds': bounds,
        'choices': tuple(choices),
        'read_only': read_only,
    }
    return dataclasses.field(default=default, metadata=metadata)


def declare(node: Node, cls: type[T]) -> T:
    """Declare every field of a dataclass as a parameter of the node, and read them.

    Raises:
        ConfigError: Lists every value of a wrong type, range or choice.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        try:
            declared = node.declare_parameter(field.name, _default(field), _descriptor(field))
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            hint = ' (write 10.0, not 10)' if isinstance(field.default, float) else ''
            problems.append(f'{error}{hint}')
            continue
        except ParameterException as error:
            problems.append(str(error))
            continue
        value = declared.value
        values[field.name] = tuple(filter(None, value)) if isinstance(value, list) else value
        choices = field.metadata['choices']
        if choices and declared.value not in choices:
            problems.append(
                f"parameter '{field.name}': got '{declared.value}', "
                f'expected one of {", ".join(map(str, choices))}'
            )
    if problems:
        raise ConfigError(listed(f'{node.get_name()}: wrong parameters', problems))
    return cls(**values)


def _default(field: 'dataclasses.Field[Any]') -> Any:
    return list(field.default) if isinstance(field.default, tuple) else field.default


def _descriptor(field: 'dataclasses.Field[Any]') -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=field.metadata['description'], read_only=field.metadata['read_only']
    )
    if field.metadata['choices']:
        descriptor.additional_constraints = (
            f'one of {", ".join(map(str, field.metadata["choices"]))}'
        )
    if field.metadata['bounds']:
        low, high = field.metadata['bounds']
        if isinstance(field.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
            ]
        else:
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor
