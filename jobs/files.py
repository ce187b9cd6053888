"""Files and artifacts that are there whole or not at all."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.errors import ConcurrentWrite

log = logging.getLogger(__name__)


def draft_of(path: Path) -> Path:
    """Beside a file, a place of this writer's own on whatever machine, to be renamed over it when it is whole."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")


def write_json(path: Path, body: Any) -> None:
    """Write JSON beside its place and rename it there: a reader sees the old file or the new one.

    So it is after a power cut: the text reaches the disk before the name does.

    Of two writers at once the last wins, whole: each has a draft of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    with draft.open("w", encoding="utf-8") as handle:
        handle.write(json.dumps(body, indent=2, sort_keys=True))
        handle.flush()
        os.fsync(handle.fileno())
    draft.replace(path)


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with None in place of what is not defined: JSON and tables have no number for it."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def keep_secret(path: Path, secret: str) -> str:
    """Write a secret once, readable by its owner alone. Returns what is kept: of two writers at once, the first's.

    The file is there whole or not at all: an empty key would be taken for a key.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as handle:
        handle.write(secret)
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text(encoding="ascii")


@contextmanager
def in_turn(path: Path, other: str) -> Iterator[None]:
    """Hold a lock file, after whoever holds it now. A process that is killed lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Waiting for %s, which holds %s", other, path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def one_at_a_time(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while something is done that two processes must not do at once; a killed one lets go of it.

    Raises:
        ConcurrentWrite: another process does it now.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConcurrentWrite(f"Another run is {what} now; this one did nothing. Run it again later.") from error
        yield


def is_whole(artifact: Path) -> bool:
    """Whether a model or another artifact was written to its end: the manifest comes last."""
    return (artifact / "manifest.json").is_file()
