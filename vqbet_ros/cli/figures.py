"""What `--json FILE` writes."""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any


def write_json(figures: Mapping[str, Any], path: Path | None) -> None:
    """Write the figures of a command, if a file is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + '\n', encoding='utf-8')
