"""Which source this is."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path


@cache
def code_revision() -> str:
    """Short git revision of this source tree (with `+` where it has changes), or the package's version."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return result.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        from importlib.metadata import version

        return version("dsirm")
