"""Pages of reports: one HTML file each, pictures inside it, without outside parts."""

import base64
from collections.abc import Sequence
from html import escape
import importlib.util
from pathlib import Path
from typing import Any

from vqbet_ros.errors import VqbetError
from vqbet_ros.resources import how_to_install

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p { max-width: 46rem; } img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 13px; }
td, th { border-bottom: 1px solid #ddd; padding: .15rem .9rem .15rem 0; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
details { margin: 1rem 0; }
"""


def require_matplotlib(what: str = 'report.html') -> None:
    """Tell early, not after hours of work, that a report cannot be drawn.

    Raises:
        VqbetError: matplotlib is absent.
    """
    if importlib.util.find_spec('matplotlib') is None:
        raise VqbetError(
            f'{what} needs matplotlib, which is not installed; {how_to_install("train")}'
        )


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write a page of HTML parts; a reader finds the old or the new one, whole."""
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + '\n'.join(parts)
        + '\n</body>\n</html>\n'
    )
    partial = path.with_suffix('.partial')
    partial.write_text(text, encoding='utf-8')
    partial.replace(path)


def image(content: bytes, text: str) -> str:
    """Return a PNG or JPEG as part of a page; `text` says what is to be seen."""
    kind = 'png' if content.startswith(b'\x89PNG') else 'jpeg'
    data = base64.b64encode(content).decode('ascii')
    return f'<img alt="{escape(text)}" src="data:image/{kind};base64,{data}">'


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table; floats are shown with four digits."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f'<td class="n">{value:.4g}</td>'
        return f'<td>{escape(str(value))}</td>'

    lines = ['<table>', '<tr>', *(f'<th>{escape(name)}</th>' for name in head), '</tr>']
    lines += ['<tr>' + ''.join(cell(value) for value in row) + '</tr>' for row in rows]
    return '\n'.join([*lines, '</table>'])
