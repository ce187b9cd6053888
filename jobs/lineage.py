"""Where a release comes from: from its features and lists back through every commit to the days of the click log.

Reads releases and the commits of the tables on the way. Every commit names its job and run, the versions of the tables
it read, its row counts, code revision and settings; a source partition also says whether it is still what the release
was planned on.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from jobs import releases
from jobs.home import Home
from jobs.partitions import overlap, parsed
from jobs.storage import Commit
from schemas.tables import TABLES

# Where the walk begins. It does not go on from training: that may be an earlier release's, which has its own lineage.
START = ("prefix_match_features", "recall_lists", "codebooks")


FORGET = "forget"
"""The job that takes a person's rows away, whoever made them."""


def run(home: Home, release: str) -> dict[str, Any]:
    """The steps from the features back, each with its commits newest first, and the sources.

    Raises:
        DataError: the release was never published, or was removed.

    """
    row = releases.find(releases.history(home.store), release)
    planned = dict(row["inputs"])
    imported = {name.partition("/")[0] for name in planned}
    steps: list[dict[str, Any]] = []
    bounds: dict[str, int] = {}
    waiting = deque((table, _newest(home, table)) for table in START)
    while waiting:
        table, version = waiting.popleft()
        if version <= bounds.get(table, -1):
            continue
        bounds[table] = version
        if table in imported:
            continue
        found = _writers(home, table, version, _wanted(table, row, planned))
        steps += [{"table": table, **_told(commit, parts)} for commit, parts in found]
        if table == "codebooks":
            continue
        waiting += [
            (name, int(read))
            for commit, _ in found
            if commit.metadata["job"] != FORGET
            for name, read in commit.metadata.get("inputs", {}).items()
            if name not in ("releases", table)
        ]
    models = {key: row[key] for key in ("encoder_version", "codebook_version", "generator_version")}
    return {
        "release": release,
        "models": models,
        "steps": _once(steps),
        "sources": _sources(home, imported, bounds, planned),
    }


def _newest(home: Home, table: str) -> int:
    return max((commit.version for commit in home.store.commits(table)), default=-1)


def _wanted(table: str, row: releases.Row, planned: dict[str, str]) -> list[dict[str, str]]:
    """The partitions of a table that this release is made of or from; [{}] where all of it is."""
    columns = TABLES[table].partition
    for column in ("release", "as_of_date", "codebook_version", "encoder_version"):
        if column in columns:
            return [{column: str(row[column])}]
    for column in ("event_date", "run_date"):
        if column in columns:
            return [{column: name.rpartition("=")[2]} for name in planned if name.startswith("click_log/")]
    return [{}]


def _writers(home: Home, table: str, version: int, wanted: list[dict[str, str]]) -> list[tuple[Commit, list[str]]]:
    """Commits up to a version that wrote what stands in the wanted partitions, newest first."""
    found: list[tuple[Commit, list[str]]] = []
    covered: set[str] = set()
    for commit in home.store.commits(table):
        names = [name for name in commit.metadata["partitions"] if name not in covered]
        names = [name for name in names if any(overlap(part, parsed(name)) for part in wanted)]
        if commit.version <= version and names:
            # Who forgot a person only took rows away: what stands was made by the commit before.
            covered |= set(names) if commit.metadata["job"] != FORGET else set()
            found.append((commit, names))
    return found


def _told(commit: Commit, parts: list[str]) -> dict[str, Any]:
    kept = ("job", "run", "counts", "inputs", "code_revision", "config_hash")
    return {"partitions": parts, "version": commit.version, **{key: commit.metadata.get(key) for key in kept}}


def _once(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table reached at two versions shows its older commits once."""
    return list({(step["table"], step["version"]): step for step in steps}.values())


def _sources(home: Home, imported: set[str], bounds: dict[str, int], planned: dict[str, str]) -> list[dict[str, Any]]:
    now = {
        f"{name}/{part}".rstrip("/"): mark for name in imported for part, mark in home.store.fingerprints(name).items()
    }
    return [
        {
            "partition": name,
            "fingerprint": mark,
            "read_at_version": bounds.get(name.partition("/")[0]),
            "unchanged_since": now.get(name) == mark,
        }
        for name, mark in planned.items()
    ]
