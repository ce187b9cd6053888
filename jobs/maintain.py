"""Keep a home small: partitions and models that no kept release needs go, small files are joined, dead ones deleted.

Kept: the newest releases (`retention.releases`), the current one, every pinned one, a release that is being made (with
the models that its generator went through), the item SIDs of the first release that a kept generator served (what is
new to it is told by them), and the daily tables as far back as `retention.daily_days`. Reads releases, plans and the
partitions of every table. A release that goes gets a row `removed` in releases first, so that a reader is
told. Files that a reader of an older version may have open stay for `retention.vacuum_hours`. Run it when no night is
running; again, it changes nothing.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

from jobs import releases
from jobs.home import Home
from jobs.partitions import Partition, label
from schemas.tables import TABLES

JOB = "maintain"
DAILY = dict.fromkeys(("pair_days", "query_days", "query_users", "user_searches"), "event_date")
DAILY |= {"quarantine": "run_date"}
BY_DATE = ("queries", "pairs", "user_profiles")
BY_ENCODER = ("item_embeddings", "query_embeddings")
MANIFEST = "manifest.json"
MODELS = {"quantizer": "codebook_version", "generator": "generator_version", "ranker": "release"}


def run(home: Home, *, dry_run: bool = False) -> dict[str, Any]:
    """Remove, compact, vacuum. Returns the releases, partitions and directories that went (or would)."""
    store = home.store
    rows = releases.history(store)
    keep = releases.kept(rows, home.settings.retention.releases)
    states = releases.states(rows)
    gone = [name for name, state in states.items() if state != "removed" and name not in keep]
    needed = _needed(home, rows, keep)
    parts = _partitions(home, rows, needed)
    folders = _folders(home, needed) if rows else []
    told: dict[str, Any] = {
        "dry_run": dry_run,
        "releases": gone,
        "partitions": {name: list(map(label, doomed)) for name, doomed in parts.items()},
        "directories": [str(path.relative_to(home.root)) for path in folders],
        "files_joined": {},
        "files_deleted": {},
    }
    if dry_run:
        return told
    for name in gone:
        releases.remove(store, name)
    for table, doomed in parts.items():
        empty = TABLES[table].arrow_schema().empty_table()
        store.target(table, *doomed).replace(empty, job=JOB, counts={"partitions": len(doomed)})
    for path in folders:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in TABLES:
        if store.exists(name):
            told["files_joined"][name] = store.compact(name)
            told["files_deleted"][name] = store.vacuum(name, hours=home.settings.retention.vacuum_hours)
    return told


def _needed(home: Home, rows: list[releases.Row], keep: set[str]) -> list[dict[str, str]]:
    """Release, date and versions of what is kept, and of what is being made: planned on what serves now."""
    fields = ("release", "as_of_date", "encoder_version", "codebook_version", "generator_version")
    made = [releases.find(rows, name) for name in sorted(keep)]
    for path in sorted((home.root / "plans").glob("????-??-??-*.json")):
        plan = _read(path)
        if not releases.moved(rows, plan["seen"]):
            made.append(plan)
    return [{field: str(row[field]) for field in fields} for row in made]


def _partitions(home: Home, rows: list[releases.Row], needed: list[dict[str, str]]) -> dict[str, list[Partition]]:
    """Table -> partitions that nothing needs. Nothing goes before a first release is there."""
    if not rows:
        return {}
    wanted = {field: {row[field] for row in needed} for field in needed[0]}
    newest = max(wanted["as_of_date"])
    days = max(home.settings.retention.daily_days, home.settings.corpus.window_days)
    oldest = str(dt.date.fromisoformat(newest) - dt.timedelta(days=days))
    doomed: dict[str, list[Partition]] = {}
    for name, table in TABLES.items():
        if name == "item_sids":
            found = _unwanted(
                home, name, "release", wanted["release"] | _first_served(rows, wanted["generator_version"])
            )
        elif "release" in table.partition:
            found = _unwanted(home, name, "release", wanted["release"])
        elif name == "codebooks":
            found = _unwanted(home, name, "codebook_version", wanted["codebook_version"])
        elif name in BY_ENCODER:
            found = _unwanted(home, name, "encoder_version", wanted["encoder_version"])
        elif name in BY_DATE:
            found = [day for day in _unwanted(home, name, "as_of_date", wanted["as_of_date"]) if day < newest]
        elif name in DAILY:
            found = [day for day in _unwanted(home, name, DAILY[name], set()) if day < oldest]
        else:
            continue
        if found:
            column = DAILY.get(name) or ("as_of_date" if name in BY_DATE else table.partition[0])
            as_value = dt.date.fromisoformat if column.endswith("_date") else str
            doomed[name] = [{column: as_value(value)} for value in found]
    return doomed


def _first_served(rows: list[releases.Row], generators: set[str]) -> set[str]:
    """The first release of each generator: its items are those that the generator could learn of, so they stay."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row["generator_version"], row["release"])
    return {release for generator, release in first.items() if generator in generators}


def _unwanted(home: Home, name: str, column: str, wanted: set[str]) -> list[str]:
    return sorted({part[column] for part in home.store.partitions(name)} - wanted)


def _folders(home: Home, needed: list[dict[str, str]]) -> list[Path]:
    """Models, checkpoints, plans and audits of nothing that is kept."""
    found: list[Path] = []
    for kind, field in MODELS.items():
        wanted = {row[field] for row in needed}
        if kind == "generator":
            wanted |= _stages(home, needed)
        for place in ("artifacts", "training"):
            found += [path for path in sorted((home.root / place / kind).glob("*")) if path.name not in wanted]
    wanted = {row["release"] for row in needed}
    for place in ("plans", "audits", "training/query-sids"):
        paths = sorted((home.root / place).glob("????-??-??-*"))
        found += [path for path in paths if path.name.removesuffix(".json") not in wanted]
    return found


def _stages(home: Home, needed: list[dict[str, str]]) -> set[str]:
    """The models that kept generators went through, as they say themselves, and those that are being made will."""
    found: set[str] = set()
    for row in needed:
        manifest, plan = home.artifact("generator", row["generator_version"]) / MANIFEST, home.plan_file(row["release"])
        if manifest.is_file():
            found |= set(_read(manifest).get("config", {}).get("meta", {}).get("stages", {}).values())
        if plan.is_file():
            found |= set(_read(plan).get("stages", {}).values())
    return found


def _read(path: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return body
