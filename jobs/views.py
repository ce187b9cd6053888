"""What `dsirm status`, `coverage`, `evaluate` and `releases` show, as plain data: for people and for --json alike."""

from __future__ import annotations

from typing import Any

from jobs import releases
from jobs.errors import DataError
from jobs.home import Home
from schemas.sids import LEVELS, shift_for
from schemas.tables import TABLES

RELEASE_TABLES = ("item_sids", "query_sids", "sid_items", "prefix_match_features", "sid_coverage", "ranker_metrics")


def status(home: Home) -> dict[str, Any]:
    """Tables with rows and last writer, releases, and what is current."""
    tables = []
    for name in TABLES:
        if not home.store.exists(name):
            continue
        commit = home.store.last_commit(name)
        tables.append(
            {
                "table": name,
                "rows": home.store.count(name),
                "partitions": len(home.store.partitions(name)) if TABLES[name].partition else 1,
                "written_by": commit.metadata["job"] if commit else None,
            }
        )
    serving = releases.current(home.store)
    days = [part["event_date"] for part in home.store.partitions("click_log")]
    return {
        "home": str(home.root),
        "current": serving["release"] if serving else None,
        "log_days": [days[0], days[-1], len(days)] if days else None,
        "tables": tables,
    }


def summary(home: Home) -> dict[str, Any]:
    """What a night came to: the current release with its figures, and where to look."""
    name = current_release(home)
    row = releases.find(releases.history(home.store), name)
    tables = (*RELEASE_TABLES, *home.settings.recall_tables)
    counts = {table: home.store.count(table, {"release": name}) for table in tables}
    return {
        "release": name,
        "as_of_date": str(row["as_of_date"]),
        "rows": counts,
        "metrics": dict(row["metrics"]),
        "home": str(home.root),
    }


def coverage(home: Home, release: str | None = None) -> dict[str, Any]:
    """The rows of sid_coverage of a release (default: current)."""
    name = release or current_release(home)
    rows = home.store.read_arrow("sid_coverage", {"release": name}).to_pylist()
    if not rows:
        raise DataError(f"Release {name} was not measured: see `dsirm releases list`.")
    slices = [{key: value for key, value in row.items() if key != "release" and value is not None} for row in rows]
    return {"release": name, "slices": sorted(slices, key=lambda row: str(row["slice"]))}


def ranker_metrics(home: Home, release: str | None = None) -> dict[str, Any]:
    """The rows of ranker_metrics of a release (default: current)."""
    name = release or current_release(home)
    rows = home.store.read_arrow("ranker_metrics", {"release": name}).to_pylist()
    return {"release": name, "rows": [{key: value for key, value in row.items() if key != "release"} for row in rows]}


def release_list(home: Home) -> dict[str, Any]:
    """Every release, oldest first, with its state now."""
    rows = releases.history(home.store)
    states, pinned = releases.states(rows), releases.pinned(rows)
    listed = []
    for name, state in states.items():
        row = next(row for row in reversed(rows) if row["release"] == name)
        versions = {key: row[key] for key in ("encoder_version", "codebook_version", "generator_version")}
        listed.append(
            {
                "release": name,
                "state": state,
                "pinned": name in pinned,
                "as_of_date": str(row["as_of_date"]),
                **versions,
                "code_revision": row["code_revision"],
                "metrics": dict(row["metrics"]),
            }
        )
    serving = rows[-1]["current"] if rows else None
    return {"current": serving, "releases": listed}


def release_diff(home: Home, a: str, b: str) -> dict[str, Any]:
    """What moved between two releases: items by prefix depth, items that came and went, metrics, versions, inputs."""
    rows = releases.history(home.store)
    left, right = releases.find(rows, a), releases.find(rows, b)
    read = [
        home.store.read_arrow("item_sids", {"release": row["release"]}, columns=["item_id", "sid"])
        for row in (left, right)
    ]
    before, after = ({r["item_id"]: r["sid"] for r in table.to_pylist()} for table in read)
    both = before.keys() & after.keys()
    moved = {
        f"depth_{depth}": sum(before[i] >> shift_for(depth) != after[i] >> shift_for(depth) for i in both)
        for depth in range(1, LEVELS + 1)
    }
    then, now = dict(left["metrics"]), dict(right["metrics"])
    versions = ("encoder_version", "codebook_version", "generator_version", "config_hash", "code_revision")
    inputs_then, inputs_now = dict(left["inputs"]), dict(right["inputs"])
    return {
        "from": left["release"],
        "to": right["release"],
        "items": {
            "in_both": len(both),
            "added": len(after.keys() - both),
            "removed": len(before.keys() - both),
            "moved": moved,
        },
        "metrics": {
            key: {"from": then.get(key), "to": now.get(key)}
            for key in sorted({*then, *now})
            if then.get(key) != now.get(key)
        },
        "versions": {key: {"from": left[key], "to": right[key]} for key in versions if left[key] != right[key]},
        "inputs_changed": sorted(
            key for key in {*inputs_then, *inputs_now} if inputs_then.get(key) != inputs_now.get(key)
        ),
    }


def current_release(home: Home) -> str:
    """The release that serves now. Raises DataError where nothing is published."""
    serving = releases.current(home.store)
    if serving is None:
        raise DataError("Nothing is published yet: run `dsirm nightly` first.")
    return str(serving["release"])
