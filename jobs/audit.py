"""Audit a release before it is published: contracts by Great Expectations, then the gates of the settings.

Reads every table of the release, query_days, `releases` and what build-corpus counted. Writes the figures to
HOME/audits/RELEASE.json, the suites' outcome to HOME/audits/RELEASE/TABLE.html, and rows that break a contract to
quarantine (the first 1,000 a table). A failed rule is named with its figure and its limit; the job then ends with exit
code 65, and the current release goes on serving.
"""

from __future__ import annotations

import datetime as dt
import json
import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from jobs import releases
from jobs.errors import AuditFailed, DataError
from jobs.files import write_json
from jobs.home import Home
from jobs.plan import Plan
from jobs.views import RELEASE_TABLES
from pipelines.broken_rows import broken_rows
from schemas.expectations import validate
from schemas.tables import TABLES

JOB = "audit"
MAY_BE_EMPTY = {"ranker_metrics", "request_sids"}
"""Nothing is judged, or nothing is known of who asks."""
# Enough to see what is wrong; a bug that breaks every row must not write them all again.
KEPT_ROWS = 1000
TRAILING_DAYS, LEAST_DAYS = 7, 3


def run(home: Home, plan: Plan) -> None:
    """Audit, unless this release passed already and what it was held against still serves."""
    path = home.root / "audits" / f"{plan.release}.json"
    history = releases.history(home.store)
    if path.is_file() and _stands(history, plan.release, _outcome(path)):
        return
    found: list[str] = []
    refused: list[pa.Table] = []
    pages = path.with_suffix("")
    pages.mkdir(parents=True, exist_ok=True)
    for name in (*RELEASE_TABLES, *home.settings.recall_tables):
        rows = home.store.read(home.spark, name, {"release": plan.release}).persist()
        outcome = validate(rows, TABLES[name], least_rows=0 if name in MAY_BE_EMPTY else 1)
        (pages / f"{name}.html").write_text(outcome.page, encoding="utf-8")
        if outcome.broken:
            found += outcome.broken
            refused.append(_kept(rows, name))
        rows.unpersist()
    _quarantine(home, plan, refused)
    metrics = figures(home, plan)
    serving = releases.serving_of(history)
    found += broken_gates(home, metrics, dict(serving["metrics"]) if serving else {})
    if found:
        raise AuditFailed(
            f"Release {plan.release} is not published; {serving['release'] if serving else 'no release'} goes on "
            "serving. Rules broken:\n  " + "\n  ".join(found) + f"\nAll rules: {pages}; rows: quarantine."
        )
    write_json(path, {"seen": int(history[-1]["sequence"]) if history else 0, "metrics": metrics})


def _kept(rows: DataFrame, name: str) -> pa.Table:
    return broken_rows(rows, TABLES[name]).limit(KEPT_ROWS).toArrow()


def _quarantine(home: Home, plan: Plan, refused: list[pa.Table]) -> None:
    """Keep what was refused; an audit that finds nothing clears what one of the same day kept before."""
    target = home.store.target("quarantine", {"run_date": plan.date, "job": JOB})
    if not refused and not home.store.count("quarantine", *target.partitions):
        return
    rows = pa.concat_tables(refused) if refused else TABLES["quarantine"].arrow_schema().empty_table()
    if refused:
        rows = rows.append_column("run_date", pa.array([plan.date] * len(rows), pa.date32()))
        rows = rows.append_column("job", pa.array([JOB] * len(rows), pa.string()))
    target.replace(rows, job=JOB, counts={"quarantined": len(rows)})


def passed(home: Home, release: str, *, whenever: bool = False) -> dict[str, float]:
    """The figures of a release that passed its audit, beside what serves now unless `whenever`.

    Raises:
        DataError: it did not, or was audited beside a release that does not serve any more.

    """
    path = home.root / "audits" / f"{release}.json"
    if not path.is_file():
        raise DataError(f"{release} has not passed an audit: run `dsirm audit --release {release}` first.")
    outcome = _outcome(path)
    if not whenever and not _stands(releases.history(home.store), release, outcome):
        raise DataError(f"Another release serves than when {release} was audited: {releases.ANEW}")
    metrics: dict[str, float] = outcome["metrics"]
    return metrics


def _stands(history: list[releases.Row], release: str, outcome: dict[str, Any]) -> bool:
    """Whether what an audit compared with is what a release would take the place of, or has taken."""
    serves = bool(history) and history[-1]["current"] == release
    return serves or not releases.moved(history, outcome["seen"])


def _outcome(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return {"seen": int(body["seen"]), "metrics": dict(body["metrics"])}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged: delete it, and the audit runs again.") from error


def figures(home: Home, plan: Plan) -> dict[str, float]:
    """What the gates look at, from sid_coverage, ranker_metrics, query_days and what build-corpus counted."""
    release = plan.release
    slices = {row["slice"]: row for row in home.store.read_arrow("sid_coverage", {"release": release}).to_pylist()}
    if "all" not in slices:
        raise DataError(
            f"sid_coverage has no row `all` of {release}: run `dsirm measure-coverage --release {release}`."
        )
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
    built = home.store.last_commit("pairs", {"as_of_date": plan.date})
    if built and "not_in_catalogue" in (counts := built.metadata["counts"]):
        found["pairs_in_catalogue"] = _share(counts["read"] - counts["not_in_catalogue"], counts["read"])
    if (volume := _volume(home, plan)) is not None:
        found["volume"] = volume
    return found


def _volume(home: Home, plan: Plan) -> float | None:
    """Searches of the as-of day over the median of up to seven days before it; None with fewer than three of them."""
    days = [dt.date.fromisoformat(day) for day in plan.days][-TRAILING_DAYS - 1 :]
    searches = {
        day: pc.sum(home.store.read_arrow("query_days", {"event_date": day}, columns=["searches"])["searches"]).as_py()
        for day in days
    }
    before = [float(searches[day] or 0) for day in days if day < plan.date]
    middle = statistics.median(before) if len(before) >= LEAST_DAYS else 0.0
    return float(searches.get(plan.date) or 0) / middle if middle else None


def broken_gates(home: Home, found: dict[str, float], before: dict[str, float]) -> list[str]:
    """Gates that the figures miss, each with its figure and its limit."""
    gates = home.settings.gates
    rules: list[tuple[str, bool, Any]] = [
        ("item_coverage", found["item_coverage"] >= gates.item_coverage, gates.item_coverage),
        ("query_coverage", found["query_coverage"] >= gates.query_coverage, gates.query_coverage),
        ("traffic_coverage", found["traffic_coverage"] >= gates.traffic_coverage, gates.traffic_coverage),
        ("largest_bucket", found["largest_bucket"] <= gates.largest_bucket, gates.largest_bucket),
        ("churn_1", found.get("churn_1", 0.0) <= gates.churn_1, gates.churn_1),
    ]
    if "pairs_in_catalogue" in found:
        least = gates.pairs_in_catalogue
        rules.append(("pairs_in_catalogue", found["pairs_in_catalogue"] >= least, least))
    if "items" in before:
        least = before["items"] * gates.items
        rules.append(("items", found["items"] >= least, least))
    for level in (1, 2, 3):
        used = found[f"utilisation_{level}"]
        rules.append((f"utilisation_{level}", used >= gates.utilisation, gates.utilisation))
    if "volume" in found:
        rules.append(("volume", found["volume"] >= gates.volume_low, gates.volume_low))
        rules.append(("volume", found["volume"] <= gates.volume_high, gates.volume_high))
    if "auc_dsirm" in before:
        # Where nothing was judged any more the gate is missed, not passed over.
        least = before["auc_dsirm"] - gates.auc_drop
        rules.append(("auc_dsirm", found.get("auc_dsirm", 0.0) >= least, least))
    return [f"gate {name}: {found.get(name, 0.0):.4f}, limit {limit:.4f}" for name, holds, limit in rules if not holds]


def _share(part: int | None, whole: int | None) -> float:
    return float(part or 0) / float(whole) if whole else 1.0
