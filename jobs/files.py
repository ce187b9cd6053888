"""Files and artifacts that are there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_json(path: Path, body: Any) -> None:
    """Write JSON beside its place and rename it there: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    draft.write_text(json.dumps(body, indent=2, sort_keys=True), encoding="utf-8")
    draft.replace(path)


def is_whole(artifact: Path) -> bool:
    """Whether a model or another artifact was written to its end: the manifest comes last."""
    return (artifact / "manifest.json").is_file()
