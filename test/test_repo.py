"""The repository itself: imports point one way, versions agree, what is shipped is there."""

import ast
import configparser
from pathlib import Path
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import vqbet_ros
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'vqbet_ros'
SOURCES = sorted(PACKAGE.rglob('*.py'))
# Files that may be longer than 300 lines, each with its reason.
LONG_FILES = {
    'vqbet_ros/data/align.py': 'one pass over a bag and the state that it keeps',
    'vqbet_ros/data/messages.py': 'one table of message types and what decodes each',
    'vqbet_ros/policy/engine.py': 'one class and the protocols of what it is given',
    'vqbet_ros/ros/pipeline.py': 'two threads and the one state that they share',
    'vqbet_ros/runtime/supervisor.py': 'one state machine: its transitions belong together',
    'vqbet_ros/spec.py': 'one contract: splitting it would hide that its parts check each other',
}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def module_name(path):
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def import_all(modules, forbidden):
    """Import modules in a fresh interpreter in which some packages cannot be imported."""
    program = (
        'import importlib, sys\n'
        f'sys.modules.update(dict.fromkeys({forbidden!r}))\n'
        f'for module in {modules!r}: importlib.import_module(module)\n'
    )
    return subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=False
    )


def imported_packages(path):
    """Every module that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{relative(path)}: imports are absolute here'
            yield node.module or ''


def test_every_room_but_ros_imports_without_rclpy():
    rooms = [module_name(path) for path in SOURCES if PACKAGE / 'ros' not in path.parents]
    result = import_all(rooms, ['rclpy', 'launch', 'launch_ros', 'std_msgs', 'sensor_msgs'])
    assert result.returncode == 0, result.stderr


def test_runtime_imports_without_torch_and_without_the_data_room():
    rooms = [module_name(path) for path in SOURCES if path.parent == PACKAGE / 'runtime']
    result = import_all(rooms, ['rclpy', 'torch', 'vqbet_ros.data', 'vqbet_ros.policy'])
    assert result.returncode == 0, result.stderr


def test_data_imports_without_torch():
    rooms = [module_name(path) for path in (PACKAGE / 'data').rglob('*.py')]
    result = import_all(rooms, ['rclpy', 'torch', 'vqbet_ros.policy'])
    assert result.returncode == 0, result.stderr


def test_recording_imports_without_torch():
    rooms = [module_name(path) for path in (PACKAGE / 'recording').rglob('*.py')]
    result = import_all(rooms, ['rclpy', 'torch', 'vqbet_ros.policy'])
    assert result.returncode == 0, result.stderr


def test_dependencies_point_one_way():
    above = {
        'vqbet_ros': ('runtime', 'policy', 'data', 'sim', 'training', 'cli', 'ros'),
        'runtime': ('policy', 'data', 'sim', 'training', 'cli', 'ros'),
        'data': ('policy', 'sim', 'training', 'cli', 'ros'),
        'recording': ('policy', 'sim', 'training', 'cli', 'ros'),
        'policy': ('runtime', 'data', 'sim', 'training', 'cli', 'ros'),
        'sim': ('runtime', 'data', 'policy', 'training', 'cli', 'ros'),
        'training': ('cli', 'ros'),
        'cli': (),
        'ros': ('training', 'cli'),
    }
    wrong = []
    for path in SOURCES:
        room = 'vqbet_ros' if path.parent == PACKAGE else path.relative_to(PACKAGE).parts[0]
        forbidden = {f'vqbet_ros.{other}' for other in above[room]}
        forbidden |= {'rclpy'} if room != 'ros' else set()
        wrong += [
            f'{relative(path)} imports {name}'
            for name in imported_packages(path)
            if any(f'{name}.'.startswith(f'{other}.') for other in forbidden)
        ]
    # The geometry of the T is the world's; the importer derives the keypoints from it.
    wrong.remove('vqbet_ros/data/importers/pusht.py imports vqbet_ros.sim.pusht')
    assert not wrong


def test_no_pickle():
    calls = r'allow_pickle=True|torch\.load\(|joblib\.load\('
    pattern = re.compile(rf'^ *(import|from) (pickle|dill)|{calls}', re.MULTILINE)
    wrong = [relative(path) for path in SOURCES if pattern.search(path.read_text('utf-8'))]
    assert not wrong


def test_files_are_short_enough_to_read():
    lengths = {path: len(path.read_text('utf-8').splitlines()) for path in SOURCES}
    too_long = {
        relative(path): length
        for path, length in lengths.items()
        if length > 300 and relative(path) not in LONG_FILES
    }
    assert not too_long, 'split them, or give the reason in LONG_FILES'


def test_versions_agree():
    package = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert package.get('format') == '3'
    assert package.findtext('version') == vqbet_ros.__version__
    shown = subprocess.run(
        [sys.executable, 'setup.py', '--version'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines()[-1] == vqbet_ros.__version__
    changelog = (ROOT / 'CHANGELOG.rst').read_text(encoding='utf-8')
    newest = re.search(r'^(\d+\.\d+\.\d+) \(', changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == vqbet_ros.__version__


def outside_packages(paths):
    """Every top package that files import and that is neither ours nor Python's."""
    found = {name.partition('.')[0] for path in paths for name in imported_packages(path)}
    return found - sys.stdlib_module_names - {'vqbet_ros', ''}


def test_whatever_is_imported_is_declared():
    root = ElementTree.parse(ROOT / 'package.xml').getroot()
    needed = {element.text for element in root.findall('exec_depend')}
    tested = {element.text for element in root.findall('test_depend')}
    imported = outside_packages([*SOURCES, *(ROOT / 'launch').glob('*.py')])
    of_ros = re.compile(r'launch|launch_ros|rclpy|rcl_\w+|ament_\w+|\w+_(msgs|srvs|interfaces)')
    ros = {name for name in imported if of_ros.fullmatch(name)}
    # `ros2 launch` starts the launch files; the others come from the system where there is ROS.
    assert needed == ros | {'ros2launch', 'python3-numpy', 'python3-yaml'}
    in_tests = outside_packages((ROOT / 'test').rglob('*.py'))
    assert {name for name in in_tests if of_ros.fullmatch(name)} <= needed | tested

    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    declared = set(re.findall(r"'([\w-]+)(?:\[\w+\])?[<>=]=", setup))
    names = {
        'cv2': 'opencv-python-headless',
        'mcap_ros2': 'mcap-ros2-support',
        'pygame': 'pygame-ce',
        'rclpy': 'ros-kilted-rclpy',
        'yaml': 'PyYAML',
    }
    ignored = {'launch', 'launch_ros'}  # no wheel brings them
    undeclared = {
        name
        for name in imported - ignored
        if not {names.get(name, name), name.replace('_', '-'), f'ros-{name.replace("_", "-")}'}
        & declared
    }
    assert not undeclared


def test_ros_finds_the_executables():
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    assert setup['develop']['script_dir'] == '$base/lib/vqbet_ros'
    assert setup['install']['install_scripts'] == '$base/lib/vqbet_ros'
    assert (ROOT / 'resource/vqbet_ros').read_bytes() == b''


def console_scripts():
    text = (ROOT / 'setup.py').read_text(encoding='utf-8')
    return re.findall(r"'(\w+) = (vqbet_ros[\w.]+):(\w+)'", text)


@pytest.mark.parametrize(('name', 'module', 'function'), console_scripts())
def test_executables_exist(name, module, function):
    path = ROOT / (module.replace('.', '/') + '.py')
    assert path.is_file(), f'{name} points at {module}, which is not there'
    functions = [
        node.name
        for node in ast.parse(path.read_text(encoding='utf-8')).body
        if isinstance(node, ast.FunctionDef)
    ]
    assert function in functions


def test_everything_that_is_shipped_goes_to_share(tmp_path):
    program = (
        'import json, setuptools\n'
        'setuptools.setup = lambda **options: print(json.dumps(options["data_files"]))\n'
        'exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__file__": "setup.py"})\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = {
        (target, source) for target, names in yaml.safe_load(result.stdout) for source in names
    }
    for folder, pattern in (('config', '*'), ('models', '*'), ('launch', '*.launch.py')):
        for path in (ROOT / folder).rglob(pattern):
            if path.is_file() and '__pycache__' not in path.parts:
                assert (f'share/vqbet_ros/{relative(path.parent)}', relative(path)) in listed
    assert ('share/vqbet_ros', 'package.xml') in listed
    assert ('share/ament_index/resource_index/packages', 'resource/vqbet_ros') in listed


@pytest.mark.parametrize('path', sorted((ROOT / 'config').rglob('*.yaml')), ids=relative)
def test_every_config_loads(path):
    if path.parent.name == 'robots':
        from vqbet_ros.spec import RobotSpec

        spec = RobotSpec.from_yaml(path)
        assert RobotSpec.from_text(spec.to_yaml(), 'its own text') == spec
    elif path.parent.name == 'train':
        from vqbet_ros.config import TrainConfig

        for device in ('cpu', 'cuda'):
            assert isinstance(TrainConfig.from_yaml(path, device), TrainConfig)
    else:
        assert path.parent.name == 'nodes', 'configs are in nodes/, robots/ or train/'
        for settings in yaml.safe_load(path.read_text('utf-8')).values():
            assert isinstance(settings['ros__parameters'], dict)


def test_the_dds_profile_is_well_formed():
    ElementTree.parse(ROOT / 'config/fastdds.xml')


def test_make_names_every_target():
    # Also below `make test`, where make would add lines about entering and leaving folders.
    command = ['make', '--no-print-directory', 'help']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    text = (ROOT / 'Makefile').read_text(encoding='utf-8')
    targets = set(re.findall(r'^\.PHONY:(.*)$', text, re.MULTILINE)[0].split()) - {'help'}
    assert {line.split()[1] for line in result.stdout.splitlines()} == targets


def test_what_the_readme_names_exists():
    readme = ROOT / 'README.md'
    if not readme.is_file():
        pytest.skip('there is no README.md yet')
    from vqbet_ros.cli.main import build_parser

    text = readme.read_text('utf-8')
    commands = next(
        action.choices for action in build_parser()._actions if isinstance(action.choices, dict)
    )
    programs = {name for name, _, _ in console_scripts()}
    launch_files = {path.name for path in (ROOT / 'launch').iterdir()}
    makefile = (ROOT / 'Makefile').read_text('utf-8')
    for pattern, known in (
        (r'(?:^|`|/)vqbet ([a-z]+)', set(commands)),
        (r'(?:^|`)make ([a-z]+)', set(re.findall(r'^([a-z]+):', makefile, re.MULTILINE))),
        (r'ros2 run vqbet_ros (\w+)', programs),
        (r'ros2 launch vqbet_ros (\S+)', launch_files),
    ):
        named = set(re.findall(pattern, text, re.MULTILINE))
        assert named <= known, f'README.md names {named - known}, but there is {known}'
    links = set(re.findall(r'\]\((?!http)([^)#]+)', text))
    assert not {link for link in links if not (ROOT / link).exists()}
