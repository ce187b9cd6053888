"""Names that follow from content: release ids and model versions.

The same settings and the same input rows give the same name, so a job knows where it will write before it computes
anything, and running it again is a no-op.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from schemas.contract import ContractError

_RELEASE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9a-f]{8}")


def digest(value: Any) -> str:
    """Hex sha256 of a JSON-able value; key order does not matter."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(body.encode("ascii")).hexdigest()


def version_of(kind: str, content: Mapping[str, Any]) -> str:
    """Version of a model: its kind and 12 hex digits of everything that decides what it learns."""
    return f"{kind}-{digest({'kind': kind, **content})[:12]}"


def release_id(as_of_date: str, content: Mapping[str, Any]) -> str:
    """Id of a release: its as-of date (`YYYY-MM-DD`) and 8 hex digits of settings, model versions and inputs."""
    return check_release(f"{as_of_date}-{digest(content)[:8]}")


def check_release(text: str) -> str:
    """The text itself if it has the form of a release id. Raises ContractError otherwise."""
    if not _RELEASE.fullmatch(text):
        raise ContractError(
            f"{text!r} is not a release id: those look like 2026-01-31-0a1b2c3d (`dsirm releases list`)."
        )
    return text
