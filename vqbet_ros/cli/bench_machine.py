"""What a measurement has to say of the machine that it was made on."""

from datetime import datetime, timezone
from importlib import metadata
import os
from pathlib import Path
import platform
import sys
from typing import Any

from vqbet_ros import __version__


def machine() -> dict[str, Any]:
    """Name the machine, the versions and the day; the GPU where torch is what is measured."""
    torch = sys.modules.get('torch')  # too slow to import where nothing else asks for it
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'cpu': cpu_name(),
        'cpus': os.cpu_count(),
        'gpu': gpu,
        'load_before': round(os.getloadavg()[0], 2),
        'kernel': platform.release(),
        'versions': {
            'vqbet_ros': __version__,
            'python': platform.python_version(),
            'torch': getattr(torch, '__version__', None) or metadata.version('torch'),
            'numpy': metadata.version('numpy'),
        },
    }


def cpu_name(cpuinfo: Path = Path('/proc/cpuinfo')) -> str:
    """Name the CPU, with the vector instructions that it has."""
    fields: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding='utf-8').splitlines():
            key, _, value = line.partition(':')
            fields.setdefault(key.strip(), value.strip())
    words = (fields.get('flags') or fields.get('Features', '')).split()
    known = {
        'avx2': 'AVX2',
        'avx512f': 'AVX-512',
        'avx512_bf16': 'AVX512-BF16',
        'amx_bf16': 'AMX-BF16',
    }
    vectors = [name for flag, name in known.items() if flag in words]
    name = fields.get('model name') or platform.processor() or platform.machine()
    return f'{name} ({", ".join(vectors)})' if vectors else name
