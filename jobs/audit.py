"""Audit a release before it is published: contracts by Great Expectations, then the gates of the settings.

Reads every table of the release and `releases`. Writes the outcome to HOME/audits/RELEASE.json. A failed gate names the
rule, the figure and the limit, ends with exit code 65, and leaves the current release serving.
"""

from __future__ import annotations

import json
from typing import Any

from jobs import releases
from jobs.errors import AuditFailed, DataError
from jobs.files import write_json
from jobs.home import Home
from jobs.plan import Plan
from schemas.expectations import failures
from schemas.tables import TABLES

JOB = "audit"
AUDITED = ("item_sids", "sid_items", "query_sids", "prefix_match_features", "sid_coverage")


def run(home: Home, plan: Plan) -> None:
    """Audit, unless this release passed already."""
    path = home.root / "audits" / f"{plan.release}.json"
    if path.is_file():
        return
    found: list[str] = []
    for name in AUDITED:
        rows = home.store.read(home.spark, name, {"release": plan.release}).persist()
        found += failures(rows, TABLES[name])
        rows.unpersist()
    metrics = figures(home, plan.release)
    serving = releases.current(home.store)
    found += broken_gates(home, metrics, dict(serving["metrics"]) if serving else {})
    if found:
        raise AuditFailed(
            f"Release {plan.release} is not published; {serving['release'] if serving else 'no release'} goes on "
            "serving. Rules broken:\n  " + "\n  ".join(found)
        )
    write_json(path, metrics)


def passed(home: Home, release: str) -> dict[str, float]:
    """The figures of a release that passed its audit. Raises DataError for one that did not."""
    path = home.root / "audits" / f"{release}.json"
    if not path.is_file():
        raise DataError(f"{release} has not passed an audit: run `dsirm audit --release {release}` first.")
    metrics: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return metrics


def figures(home: Home, release: str) -> dict[str, float]:
    """What the gates look at, from sid_coverage and ranker_metrics."""
    slices = {row["slice"]: row for row in home.store.read_arrow("sid_coverage", {"release": release}).to_pylist()}
    overall = slices["all"]
    found = {
        "items": float(overall["items"]),
        "item_coverage": _share(overall["items_covered"], overall["items"]),
        "query_coverage": _share(overall["queries_covered"], overall["queries"]),
        "traffic_coverage": _share(overall["traffic_covered"], overall["traffic"]),
        "largest_bucket": _share(overall["bucket_max"], overall["items"]),
    }
    for level in (1, 2, 3):
        row = slices[f"level={level}"]
        found[f"utilisation_{level}"] = row["utilisation"]
        if row["churn"] is not None:
            found[f"churn_{level}"] = row["churn"]
    for row in home.store.read_arrow("ranker_metrics", {"release": release}).to_pylist():
        if row["seed"] == -1 and row["slice"] == "all" and row["auc"] is not None:
            found[f"auc_{row['variant']}"] = row["auc"]
    return found


def broken_gates(home: Home, found: dict[str, float], before: dict[str, float]) -> list[str]:
    """Gates that the figures miss, each with its figure and its limit."""
    gates = home.settings.gates
    rules: list[tuple[str, bool, Any]] = [
        ("item_coverage", found["item_coverage"] >= gates.item_coverage, gates.item_coverage),
        ("traffic_coverage", found["traffic_coverage"] >= gates.traffic_coverage, gates.traffic_coverage),
        ("largest_bucket", found["largest_bucket"] <= gates.largest_bucket, gates.largest_bucket),
        ("churn_1", found.get("churn_1", 0.0) <= gates.churn_1, gates.churn_1),
    ]
    if "auc_dsirm" in found and "auc_dsirm" in before:
        least = before["auc_dsirm"] - gates.auc_drop
        rules.append(("auc_dsirm", found["auc_dsirm"] >= least, least))
    return [f"gate {name}: {found.get(name, 0.0):.4f}, limit {limit:.4f}" for name, holds, limit in rules if not holds]


def _share(part: int | None, whole: int | None) -> float:
    return float(part or 0) / float(whole) if whole else 1.0
