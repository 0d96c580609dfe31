"""The command line: exit statuses, one clear message, and nothing slow to import for help."""

import argparse
import errno
from importlib.machinery import ModuleSpec
import os
from pathlib import Path
import subprocess
import sys
import types
from typing import Any

import pytest
from vqbet_ros import __version__
from vqbet_ros.cli import main as cli
from vqbet_ros.cli.progress import track
from vqbet_ros.errors import VqbetError
from vqbet_ros.resources import how_to_install


def vqbet(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'vqbet_ros.cli.main', *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def command(monkeypatch):
    """Replace the commands by one, `try`, that does what the test says."""

    def install(run):
        module: Any = types.ModuleType('vqbet_ros.cli.try_')
        module.__spec__ = ModuleSpec(module.__name__, None)
        module.add_parser = lambda subs: subs.add_parser('try').add_argument('--number')
        module.run = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(cli, 'COMMANDS', ('try_',))

    return install


def raising(error):
    def run(_args):
        raise error

    return run


def test_version_and_help():
    assert vqbet('--version').stdout == f'vqbet {__version__}\n'
    result = vqbet('--help')
    assert result.returncode == 0
    for name in cli.COMMANDS:
        assert f'\n    {name.rstrip("_")} ' in result.stdout


@pytest.mark.parametrize('arguments', [[], ['fly'], ['import'], ['import', 'pusht', 'only-one']])
def test_wrong_usage(arguments):
    result = vqbet(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith('usage: vqbet')


def test_a_users_mistake_is_one_message(tmp_path):
    result = vqbet('import', 'pusht', tmp_path / 'absent', tmp_path / 'dataset')
    assert result.returncode == 1
    assert result.stderr == f'vqbet: error: no such directory: {tmp_path / "absent"}\n'
    assert result.stdout == ''


@pytest.mark.parametrize('arguments', [['--help'], ['import', 'pusht', '--help']])
def test_help_imports_nothing_slow(arguments):
    program = (
        'import sys\n'
        'from vqbet_ros.cli.main import main\n'
        'try: main(sys.argv[1:])\n'
        'except SystemExit: pass\n'
        'slow = {"torch", "zarr", "rclpy", "gym_pusht", "matplotlib"} & set(sys.modules)\n'
        'sys.exit(f"imported {slow}" if slow else 0)\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', program, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_importing_demonstrations_imports_no_torch():
    program = (
        'import sys, vqbet_ros.data.importers.pusht, vqbet_ros.data.store\n'
        'sys.exit("torch" in sys.modules)'
    )
    subprocess.run([sys.executable, '-c', program], cwd=Path(__file__).parents[2], check=True)


def test_arguments_and_status_go_through(command):
    seen = []

    def run(args: argparse.Namespace) -> int:
        seen.append(args.number)
        return 7

    command(run)
    assert cli.main(['try', '--number', '3']) == 7
    assert seen == ['3']


@pytest.mark.parametrize(
    ('error', 'status', 'message'),
    [
        (VqbetError('what, got, expected'), 1, 'vqbet: error: what, got, expected\n'),
        (KeyboardInterrupt(), 130, 'vqbet: interrupted\n'),
        (
            OSError(errno.ENOSPC, 'No space left on device', '/run/x'),
            1,
            'vqbet: error: No space left on device: /run/x; '
            'free some space, or write to another place\n',
        ),
        (
            OSError(errno.ENOSPC, 'No space left on device'),
            1,
            'vqbet: error: No space left on device; free some space, or write to another place\n',
        ),
        (
            PermissionError(errno.EACCES, 'Permission denied', '/data/x'),
            1,
            'vqbet: error: Permission denied: /data/x\n',
        ),
        (
            ModuleNotFoundError("No module named 'zarr.core'", name='zarr.core'),
            1,
            'vqbet: error: this command needs zarr, which is not installed; '
            f'{how_to_install("train")}\n',
        ),
    ],
)
def test_errors_become_one_message(command, capsys, error, status, message):
    command(raising(error))
    assert cli.main(['try']) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    'error', [ValueError('bug'), OSError('odd'), ModuleNotFoundError(name='vqbet_ros.nothing')]
)
def test_our_own_mistakes_keep_their_traceback(command, error):
    command(raising(error))
    with pytest.raises(type(error)):
        cli.main(['try'])


def test_a_reader_that_goes_away_is_no_traceback():
    command = [sys.executable, '-c', PRINTING]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ''
        assert process.wait() == 1


PRINTING = """
import sys
from vqbet_ros.cli import import_, main
def run(args):
    while True:
        print('line')
import_.run = run
sys.exit(main.main(['import', 'pusht', 'from', 'to']))
"""


def test_progress_in_plain_lines(capsys):
    assert list(track(iter(range(206)), 206, 'episodes')) == list(range(206))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1] == 'episodes: 206/206'
    assert list(track(iter('abc'), 3, 'things')) == ['a', 'b', 'c']
    assert capsys.readouterr().err.splitlines() == ['things: 1/3', 'things: 2/3', 'things: 3/3']


def test_progress_on_a_terminal():
    pytest.importorskip('rich', reason="needs rich: the extra 'train'")
    pty = pytest.importorskip('pty')
    main_end, terminal = pty.openpty()
    program = "from vqbet_ros.cli.progress import track; list(track(range(3), 3, 'things'))"
    subprocess.run(
        [sys.executable, '-c', program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, 'TERM': 'xterm'},
        stderr=terminal,
        check=True,
    )
    os.close(terminal)
    shown = os.read(main_end, 65536).decode()
    os.close(main_end)
    assert 'things' in shown
    assert '100%' in shown
