"""`vqbet export onnx`: a checkpoint as an ONNX graph, compared with the policy in ONNX Runtime."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from vqbet_ros.cli.figures import write_json


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet export`."""
    parser = subparsers.add_parser(
        'onnx',
        help='a policy, for ONNX Runtime, TensorRT and their like',
        description='Write a policy as one ONNX graph of static shapes: newest frames, the '
        'features of earlier ones, states, noise in; actions, codes, probabilities, features out. '
        'The file is written once ONNX Runtime gives the same numbers as the policy.',
    )
    parser.add_argument('checkpoint', metavar='CHECKPOINT', type=Path, help='a directory')
    parser.add_argument(
        'file',
        metavar='FILE',
        type=Path,
        nargs='?',
        help='the ONNX file to write (default: CHECKPOINT/policy.onnx, which the node then runs '
        'on a CPU)',
    )
    parser.add_argument(
        '--temperature',
        metavar='T',
        type=float,
        help='0 takes the most probable codes, and the graph has no input for noise; otherwise '
        "codes are drawn from softmax(logits / T) by the noise (default: the checkpoint's own; "
        'another one needs FILE)',
    )
    parser.add_argument('--json', metavar='FILE', type=Path, help='write the comparison here')


def run(args: argparse.Namespace) -> int:
    """Export and compare; returns the exit status."""
    import onnx  # the three are an extra: better told of at once than after the export
    import onnxruntime
    import onnxscript  # noqa: F401
    from vqbet_ros.errors import ConfigError
    from vqbet_ros.policy.checkpoint import load_checkpoint
    from vqbet_ros.policy.engine import GRAPH
    from vqbet_ros.policy.onnx_export import export

    policy = load_checkpoint(args.checkpoint, 'cpu').policy.eval().requires_grad_(False)
    temperature = policy.config.temperature if args.temperature is None else args.temperature
    if not 0.0 <= temperature < float('inf'):
        raise ConfigError(f'--temperature: got {temperature}, expected a number of at least 0')
    if args.file is None and temperature != policy.config.temperature:
        # What runs the checkpoint takes its own temperature, and would not take such a graph.
        raise ConfigError(
            f"--temperature: got {temperature:g}, expected the checkpoint's own "
            f'{policy.config.temperature:g} where no FILE is given: {args.checkpoint / GRAPH} is '
            'what the node runs; name another FILE'
        )
    file = args.checkpoint / GRAPH if args.file is None else args.file
    file.parent.mkdir(parents=True, exist_ok=True)
    agreement = export(policy, file, temperature=temperature)
    graph = onnx.load(file).graph
    result = {
        'file': str(file),
        'size_mb': file.stat().st_size / 1e6,
        'temperature': temperature,
        'onnxruntime': onnxruntime.__version__,
        'inputs': {value.name: _shape(value) for value in graph.input},
        'outputs': {value.name: _shape(value) for value in graph.output},
        **dataclasses.asdict(agreement),
    }
    print(f'{file}: {result["size_mb"]:.1f} MB')
    for kind in ('inputs', 'outputs'):
        for name, shape in result[kind].items():
            print(f'  {kind[:-1]:6} {name:24} {shape}')
    print(
        f'ONNX Runtime {onnxruntime.__version__} against the policy, {agreement.cases} random '
        f'inputs: the same codes in {agreement.same_codes:.1%}, actions differ by at most '
        f'{agreement.action_error:.1e} of their range'
    )
    write_json(result, args.json)
    return 0


def _shape(value: Any) -> str:
    """Return type and shape of a graph's input or output, such as uint8 96x96x3."""
    import onnx

    tensor = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower().replace('float', 'float32')
    return f'{name} {"x".join(str(dim.dim_value) for dim in tensor.shape.dim)}'
