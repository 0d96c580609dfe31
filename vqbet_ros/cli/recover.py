"""`vqbet recover`: makes a bag whole whose recorder was killed, or that was damaged."""

import argparse
from datetime import datetime, timezone
from pathlib import Path
import shlex
import sys
from typing import Any, TYPE_CHECKING

from vqbet_ros.cli.figures import write_json

if TYPE_CHECKING:
    from vqbet_ros.recording.copying import Recovery


def add_parser(subparsers: Any) -> None:
    """Add the command to `vqbet`."""
    parser = subparsers.add_parser(
        'recover',
        help='make a bag whole whose recorder was killed, or that is damaged',
        description='Make a bag whole whose recorder was killed or lost its power, or that was '
        'damaged since: every message that is whole in the file is copied, the copy is read again '
        'and compared, and only then takes the name of the bag. The original stays, as '
        'BAG.crashed. A whole bag is read through, and left as it is.',
    )
    parser.add_argument('bag', metavar='BAG', type=Path, help='folder of the bag')
    parser.add_argument('--json', metavar='FILE', type=Path, help='write what was done here')


def run(args: argparse.Namespace) -> int:
    """Recover the bag; returns 0 also when there was nothing to do."""
    from vqbet_ros.recording.recovery import recover

    recovery = recover(args.bag, _Lines())
    print(_told(recovery))
    write_json(_figures(recovery), args.json)
    return 0


class _Lines:
    """Says on stderr how far it is, once every tenth of the way."""

    def __init__(self) -> None:
        self._tenths = 0

    def __call__(self, done: int, total: int) -> None:
        tenths = done * 10 // max(1, total)
        if tenths < self._tenths:
            self._tenths = 0  # it was looked through, and is now copied
        if tenths > self._tenths:
            self._tenths = tenths
            print(f'recovering: {tenths * 10} %', file=sys.stderr, flush=True)


def _told(recovery: 'Recovery') -> str:
    messages = sum(recovery.messages.values())
    held = f'{messages} messages, {recovery.seconds:.1f} s'
    if not recovery.repaired:
        return f'{recovery.path}: nothing to repair, the bag is whole ({held})'
    lines = [f'{recovery.path}: repaired']
    lines += [f'  kept   {held}' + (f', the last of {_time(recovery)}' if messages else '')]
    lines += [f'         {count:>8} {topic}' for topic, count in recovery.messages.items()]
    damaged = f' ({recovery.damaged_chunks} damaged chunks)' if recovery.damaged_chunks else ''
    lost = [f'{recovery.lost_bytes} bytes of the file{damaged}'] if recovery.lost_bytes else []
    lost += [f'{recovery.missing} messages that were recorded'] if recovery.missing else []
    lost += [] if recovery.ended else ['what had not yet been written: about the last second']
    lines.append(f'  lost   {", and ".join(lost) or "nothing"}')
    lines += [f'  note   {note}' for note in recovery.notes]
    original = recovery.kept_original
    lines.append(f'The original is kept: {original}')
    lines.append(f'When the bag is as you want it: rm -r {shlex.quote(str(original))}')
    return '\n'.join(lines)


def _figures(recovery: 'Recovery') -> dict[str, Any]:
    original = recovery.kept_original
    return {
        'path': str(recovery.path),
        'repaired': recovery.repaired,
        'messages': sum(recovery.messages.values()),
        'topics': recovery.messages,
        'seconds': recovery.seconds,
        'last_message_ns': recovery.last_ns,
        'complete': recovery.complete,
        'lost_bytes': recovery.lost_bytes,
        'damaged_chunks': recovery.damaged_chunks,
        'missing_messages': recovery.missing,
        'kept_original': str(original) if original else None,
        'notes': list(recovery.notes),
    }


def _time(recovery: 'Recovery') -> str:
    moment = datetime.fromtimestamp(recovery.last_ns / 1e9, timezone.utc)
    return f'{moment:%Y-%m-%d %H:%M:%S}.{recovery.last_ns // 1_000_000 % 1000:03d} UTC'
