"""The documents are true: what they tell to type works, and their tables agree with the code."""

import ast
from collections.abc import Callable
import dataclasses
import json
import os
from pathlib import Path
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')), ROOT / 'models/README.md']

# What makes a training short; everything else of a command is as the document has it.
FEW = ['log_every=1', 'tokenizer.steps=2', 'tokenizer.batch=8', 'policy.steps=2', 'policy.batch=2']
SMALL = ['model.layers=1', 'model.width=16', 'model.heads=2', 'model.latent=8']
SHORTER = {
    'config/train/pusht_state.yaml': [*FEW, *SMALL],
    'config/train/cr5_image.yaml': [
        *(*FEW, *SMALL, 'encoder.steps=1', 'encoder.batch=2', 'encoder.warmup=0'),
        *('model.vision.stages=1', 'policy.feature_copies=0'),
    ],
    'config/train/pusht_image.yaml': [
        *(*FEW, *SMALL, 'encoder.steps=1', 'encoder.batch=2'),
        *('model.vision.stages=1', 'policy.feature_copies=0'),
    ],
}


def blocks(document, language):
    """Return the contents of a document's code blocks in one language."""
    text = document.read_text(encoding='utf-8')
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.MULTILINE | re.DOTALL)


def shown_commands(document):
    """List the commands in a document's bash blocks, without comments, continued lines joined."""
    for block in blocks(document, 'bash'):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield shlex.join(words) if '$' not in line else line.partition('  #')[0].strip()


def name_of(document):
    return document.relative_to(ROOT).as_posix()


SHOWN = {document: list(shown_commands(document)) for document in DOCUMENTS}
VQBET = 'vqbet '


# The other commands: each kind has a check that runs it, or what of it can run here.


def check_make(command, tmp_path):
    words = shlex.split(command)
    shown = subprocess.run(
        [*words, '--dry-run', '--no-print-directory'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    if words[1] == 'demo':
        from vqbet_ros.cli.main import build_parser

        options = next((w.removeprefix('ARGS=') for w in words if w.startswith('ARGS=')), '')
        build_parser().parse_args(['demo', *shlex.split(options)])


def check_source(command, tmp_path):
    # Both are made by the commands above them.
    assert command in ('source .venv/bin/activate', 'source install/setup.bash')


def check_export(command, tmp_path):
    variable = command.removeprefix('export ').partition('=')[0]
    shown = subprocess.run(
        ['bash', '-c', f'{command} && test -f "${variable}" && echo found'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.stdout == 'found\n', shown.stderr
    assert variable in (ROOT / 'config/fastdds.xml').read_text(encoding='utf-8')


def check_colcon(command, tmp_path):
    if shutil.which('colcon') is None:
        pytest.skip('colcon is not installed')
    _, verb, *options = shlex.split(command)
    # Far from the tree, so that nothing built before is touched.
    places = [f'--{kind}-base={tmp_path / kind}' for kind in ('build', 'install')]
    built = subprocess.run(
        ['colcon', verb, *options, '--base-paths', str(ROOT), *places],
        env=os.environ | {'COLCON_LOG_PATH': str(tmp_path / 'log')},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    programs = tmp_path / 'install/vqbet_ros/lib/vqbet_ros'
    assert {path.name for path in programs.iterdir()} >= {'policy_node', 'sim_node'}


def check_ros2_launch(command, tmp_path):
    _, _, package, file, *arguments = shlex.split(command)
    assert package == 'vqbet_ros'
    known = declared(ROOT / 'launch' / file, 'DeclareLaunchArgument')
    named = {argument.partition(':=')[0] for argument in arguments} - {'--show-args'}
    assert named <= known, f'{file} has {sorted(known)}'
    if shutil.which('ros2') is None:
        pytest.skip('its arguments are right; ros2, to show them, is not installed')
    shown = subprocess.run(
        ['ros2', 'launch', package, file, *arguments, '--show-args'],
        capture_output=True,
        text=True,
        check=False,
    )
    if "'vqbet_ros' not found" in shown.stderr:
        pytest.skip('its arguments are right; vqbet_ros, to show them, is not built')
    assert shown.returncode == 0, shown.stderr


def check_ros2_run(command, tmp_path):
    _, _, package, program, *arguments = shlex.split(command)
    assert package == 'vqbet_ros'
    check_parameters(program, arguments)


def check_program(command, tmp_path):
    program, *arguments = shlex.split(command)
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    assert f"'{program} = vqbet_ros.ros.{program}:main'" in setup
    check_parameters(program, arguments)


def check_parameters(program, arguments):
    assert arguments[:1] in ([], ['--ros-args'])
    named = {
        word.partition(':=')[0]
        for flag, word in zip(arguments[1::2], arguments[2::2], strict=True)
        if flag == '-p'
    }
    assert named <= set(parameters_of(program))


def check_ros2_service(command, tmp_path):
    _, _, call, name, kind, *request = shlex.split(command)
    assert call == 'call'
    assert kind == f'std_srvs/srv/{services()[name]}'
    fields = yaml.safe_load(request[0]) if request else {}
    assert fields in ({'SetBool': [{'data': True}, {'data': False}]}.get(services()[name], [{}]))


def check_ros2_topic(command, tmp_path):
    assert shlex.split(command)[-1] in {*published(), '/diagnostics'}


def check_ros2_lifecycle(command, tmp_path):
    _, _, verb, node, transition = shlex.split(command)
    assert (verb, node) == ('set', '/policy_node')
    assert transition in ('configure', 'activate', 'deactivate', 'cleanup')


def check_ros2_param(command, tmp_path):
    _, _, verb, node, name, *_ = shlex.split(command)
    assert verb == 'set'
    assert name in parameters_of(node.removeprefix('/'))


def check_pip(command, tmp_path):
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    contributing = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    if extras := re.search(r"'\.\[(.*)\]'", command):
        assert all(f"        '{extra}': [" in setup for extra in extras[1].split(','))
    else:
        assert command in contributing, 'the two texts tell the same way around the two cv2'


def check_tensorboard(command, tmp_path):
    pytest.importorskip('tensorboard', reason="needs tensorboard: extra 'train'")
    assert re.fullmatch(r'tensorboard --logdir \S+', command)


def check_benchmark(command, tmp_path):
    program = shlex.split(command)[1]
    shown = subprocess.run(
        [sys.executable, str(ROOT / program), '--help'],
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr


CHECKS: list[tuple[str, Callable[[str, Path], None]]] = [
    (r'make [a-z]+\b', check_make),
    (r'source ', check_source),
    (r'export [A-Z_]+=', check_export),
    (r'colcon build ', check_colcon),
    (r'ros2 launch ', check_ros2_launch),
    (r'ros2 run ', check_ros2_run),
    (r'ros2 service ', check_ros2_service),
    (r'ros2 topic ', check_ros2_topic),
    (r'ros2 lifecycle ', check_ros2_lifecycle),
    (r'ros2 param ', check_ros2_param),
    (r'(uv )?pip ', check_pip),
    (r'tensorboard ', check_tensorboard),
    (r'python benchmarks/', check_benchmark),
    (r'\w+_node\b|recorder_keys\b', check_program),
]
OTHERS = [
    pytest.param(command, id=f'{name_of(document)}: {command}')
    for document, commands in SHOWN.items()
    for command in dict.fromkeys(commands)
    if not command.startswith(VQBET)
]


@pytest.mark.parametrize('command', OTHERS)
def test_command(command, tmp_path):
    found = [check for pattern, check in CHECKS if re.match(pattern, command)]
    assert found, f'no check is known for {command!r}: add one to CHECKS'
    found[0](command, tmp_path)


# vqbet's own commands really run, in the order in which a document shows them.


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder as the documents suppose it, with three short made-up demonstrations."""
    for name in ('config', 'models'):
        (tmp_path / name).symlink_to(ROOT / name)
    write_demonstrations(tmp_path / 'demonstrations/pusht/pusht_cchi_v7_replay.zarr')
    write_bags(tmp_path / 'bags/cr5')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_vqbet_commands_run(workplace, monkeypatch, capfd):
    pytest.importorskip('zarr', reason="needs zarr: extra 'train'")
    pytest.importorskip('rich', reason="needs rich: extra 'train'")
    pytest.importorskip('gym_pusht', reason="needs gym-pusht: extra 'sim'")
    from vqbet_ros.cli.main import main
    from vqbet_ros.training import evaluate_pusht

    monkeypatch.setattr(evaluate_pusht, 'STEPS', 5)
    shown = [command for commands in SHOWN.values() for command in commands]
    for command in dict.fromkeys(shown):
        if not command.startswith(VQBET):
            continue
        arguments = shlex.split(command)[1:]
        status = main([*arguments, *shorter(arguments)])
        assert status == 0, f'{command}\n{capfd.readouterr().err}'
        for option in ('--out', '--json', '--video'):
            if option in arguments:
                made = workplace / arguments[arguments.index(option) + 1]
                assert made.exists(), f'{command} made no {made}'
    assert not missing_of_run(workplace / 'runs/pusht_image')
    for document in DOCUMENTS:
        for block in blocks(document, 'python'):
            exec(compile(block, name_of(document), 'exec'), {})  # noqa: S102 - it is ours


def missing_of_run(run):
    """List what the table of a run's directory names and is not there."""
    rows = table('docs/training.md', "## A run's directory")
    return [path for path, _ in rows if not list(run.glob(path.strip('`').rstrip('/')))]


def shorter(arguments):
    """Return what is added to a command so that it takes a second."""
    if arguments[0] == 'train':
        values = SHORTER[arguments[arguments.index('--config') + 1]]
        return ['--device', 'cpu', *(word for value in values for word in ('--set', value))]
    known = {
        'import': [],
        'eval pusht': ['--episodes', '2', '--device', 'cpu'],
        'eval offline': ['--device', 'cpu'],
        'info': [],
        'prepare': ['--jobs', '1'],
        'export': [],
    }
    command = ' '.join(arguments[: 2 if arguments[0] == 'eval' else 1])
    assert command in known, f'say here how to shorten `vqbet {command}`'
    return known[command]


def write_demonstrations(path):
    """Write a zarr (format 2, one uncompressed chunk each) of three episodes of 20 frames."""
    import numpy as np

    rng, frames = np.random.default_rng(0), 60
    arrays: dict[str, Any] = {
        'data/img': rng.integers(0, 256, (frames, 96, 96, 3)).astype(np.float32),
        'data/state': rng.uniform(50, 450, (frames, 5)).astype(np.float32),
        'data/action': rng.uniform(0, 512, (frames, 2)).astype(np.float32),
        'meta/episode_ends': np.array([20, 40, 60], np.int64),
    }
    for name, array in arrays.items():
        folder = path / name
        folder.mkdir(parents=True)
        for group in (path, folder.parent):
            (group / '.zgroup').write_text('{"zarr_format": 2}')
        header = {
            'zarr_format': 2,
            'shape': array.shape,
            'chunks': array.shape,
            'dtype': array.dtype.str,
            'compressor': None,
            'fill_value': 0,
            'filters': None,
            'order': 'C',
        }
        (folder / '.zarray').write_text(json.dumps(header))
        (folder / '.'.join(['0'] * array.ndim)).write_bytes(array.tobytes())


def write_bags(folder):
    """Write two short bags of the CR5, by the program that the documents name for it."""
    import numpy as np
    from vqbet_ros.spec import RobotSpec

    program = runpy.run_path(str(ROOT / 'benchmarks/cr5_bags.py'))
    spec = RobotSpec.from_yaml(ROOT / 'config/robots/cr5.yaml')
    time_s = np.arange(25) / 10
    low, high = np.array([spec.action.limits[name].position for name in spec.action.names]).T
    for seed in range(2):
        swing = (np.sin(time_s[:, None] + seed + np.arange(6)) + 1) / 2  # (25, 6)
        columns = {
            'timestamp': time_s,
            'observation.state': low + swing * (high - low),
            'action': np.concatenate([np.zeros((25, 6)), time_s[:, None] > 1], axis=1),
        }
        rng = np.random.default_rng(seed)
        pictures = rng.integers(0, 256, (25, 96, 128, 3), dtype=np.uint8)
        begin_ns = program['BEGIN_NS'] + seed * program['EPISODE_NS']
        program['write_bag'](folder / f'cr5_{seed:02d}', columns, pictures, spec, begin_ns)


# Tables that repeat what the code says.


def table(document, heading):
    """Return the rows of the first table below a heading, as lists of cells."""
    text = (ROOT / document).read_text(encoding='utf-8').partition(f'{heading}\n')[2]
    rows = re.search(r'(?:^\|.*\n)+', text, re.MULTILINE)
    assert rows is not None, f'{document} has no table below {heading!r}'
    lines = rows[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines]


def settings(cls, prefix=''):
    """List every key of a training configuration with its default, as YAML."""
    for field in dataclasses.fields(cls):
        default = getattr(cls(), field.name)
        if dataclasses.is_dataclass(default):
            yield from settings(type(default), f'{prefix}{field.name}.')
        else:
            value = list(default) if isinstance(default, tuple) else default
            yield f'{prefix}{field.name}', 'null' if value is None else as_yaml(value)


def as_yaml(value):
    return json.dumps(value) if not isinstance(value, str) else value or "''"


def test_every_training_setting_is_documented():
    from vqbet_ros.config import TrainConfig

    rows = table('docs/training.md', '## Every setting')
    assert [(key, default) for key, default, _ in rows] == [
        (f'`{key}`', f'`{default}`') for key, default in settings(TrainConfig)
    ]
    assert all(meaning for *_, meaning in rows)


def test_the_budgets_are_those_of_the_configuration():
    from vqbet_ros.config import TrainConfig
    from vqbet_ros.structured import to_mapping
    from vqbet_ros.training.resume import flattened

    path = ROOT / 'config/train/pusht_image.yaml'
    budgets = (TrainConfig.from_yaml(path, 'cpu'), TrainConfig.from_yaml(path, 'cuda'))
    flat = [flattened(to_mapping(config)) for config in budgets]
    rows = table('docs/training.md', '## From the camera')
    shown = [cells for cells in rows if cells[0].startswith('`')]
    assert shown
    for key, *cells in shown:
        assert cells == [f'`{as_yaml(values[key.strip("`")])}`' for values in flat], key


NODES = {
    'policy_node': 'docs/ros.md',
    'recorder_node': 'docs/recording.md',
    'sim_node': 'docs/ros.md',
}


@pytest.mark.parametrize('node', list(NODES))
def test_every_parameter_is_documented(node):
    rows = table(NODES[node], f'### Parameters of {node}')
    assert [(name, default) for name, default, _ in rows] == [
        (f'`{name}`', f'`{as_yaml(default)}`') for name, default in parameters_of(node).items()
    ]


@pytest.mark.parametrize(
    ('file', 'document'),
    [
        ('policy.launch.py', 'docs/ros.md'),
        ('record.launch.py', 'docs/recording.md'),
        ('sim.launch.py', 'docs/ros.md'),
    ],
)
def test_every_launch_argument_is_documented(file, document):
    rows = table(document, f'### Arguments of {file}')
    assert {cells[0].strip('`') for cells in rows} == declared(
        ROOT / 'launch' / file, 'DeclareLaunchArgument'
    )


def test_every_topic_and_service_is_documented():
    text = ''.join((ROOT / path).read_text(encoding='utf-8') for path in set(NODES.values()))
    missing = [name for name in {*published(), *services()} if f'`{name}`' not in text]
    assert not missing


def test_every_reason_for_holding_is_documented():
    from vqbet_ros.runtime.gate import ReasonKind

    text = (ROOT / 'docs/ros.md').read_text(encoding='utf-8')
    assert not [kind.value for kind in ReasonKind if kind.value not in text]


def anchor(heading):
    """Return the anchor that a heading gets."""
    return re.sub(r'[^a-z0-9_ -]', '', heading.lower()).replace(' ', '-')


@pytest.mark.parametrize('document', DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    broken = []
    for link in re.findall(r'\]\((?!http)([^)]+)\)', document.read_text(encoding='utf-8')):
        path, _, place = link.partition('#')
        target = (document.parent / path).resolve() if path else document
        if not target.exists():
            broken.append(link)
        elif place:
            headings = re.findall(r'^#+ (.*)$', target.read_text(encoding='utf-8'), re.MULTILINE)
            broken += [link] * (place not in map(anchor, headings))
    assert not broken


# What the code declares, read without importing it: rclpy and launch may be absent.


def declared(path, function):
    """Return the first argument of every call of a function in a file."""
    return {
        node.args[0].value
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.Call)
        and getattr(node.func, 'id', getattr(node.func, 'attr', '')) == function
        and isinstance(node.args[0], ast.Constant)
    }


def parameters_of(node):
    """Return names and defaults of a node's parameters."""
    file = {
        'policy_node': 'policy_parameters.py',
        'recorder_keys': 'recorder_keys.py',
        'recorder_node': 'recorder_parameters.py',
        'sim_node': 'sim_node.py',
    }[node]
    if node == 'recorder_keys':
        return dict.fromkeys(declared(ROOT / 'vqbet_ros/ros' / file, 'declare_parameter'))
    tree = ast.parse((ROOT / 'vqbet_ros/ros' / file).read_text(encoding='utf-8'))
    cls = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith('Parameters')
    )
    return {
        line.target.id: ast.literal_eval(line.value.args[0])
        for line in cls.body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and isinstance(line.value, ast.Call)
    }


def created(pattern):
    """Find what nodes create, as (type, full name)."""
    for node in NODES:
        text = (ROOT / f'vqbet_ros/ros/{node}.py').read_text(encoding='utf-8')
        for kind, name in re.findall(pattern, text):
            yield kind, name.replace('~', f'/{node}')


def services():
    return {name: kind for kind, name in created(r"create_service\((\w+), '([^']+)'")}


def published():
    return {name for _, name in created(r"create_\w*publisher\(\s*(\w+), '([^']+)'")}
