"""What every import and simulation shares: one home holds one marketplace, and imported rows carry fingerprints."""

from __future__ import annotations

import datetime as dt
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.errors import DataError
from jobs.files import write_json
from jobs.home import Home
from jobs.partitions import Partition, label
from pipelines.corpus import colliding_hashes
from pipelines.fingerprints import as_text, fingerprints
from schemas.tables import TABLES

log = logging.getLogger(__name__)
MARKER = "marketplace.json"


def claim(home: Home, source: str, *, replace: bool) -> None:
    """Make this home the home of `source`, or check that it is.

    Raises:
        DataError: the home holds another marketplace, and `replace` is not set.

    """
    held = marketplace(home)
    if held and held != source and not replace:
        raise DataError(
            f"{home.root} holds the marketplace {held!r}; one home holds one. Import {source!r} into another --home, "
            "or pass --replace, which deletes what is there: tables, models, releases."
        )
    if replace:
        empty(home)
    write_json(home.root / MARKER, {"source": source})


def marketplace(home: Home) -> str | None:
    """The source that this home was claimed for, None for a new home."""
    marker = home.root / MARKER
    if not marker.is_file():
        return None
    try:
        return str(json.loads(marker.read_text(encoding="utf-8"))["source"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'{marker} is damaged: write {{"source": NAME}} into it, as it was, or start a new home.'
        ) from error


def empty(home: Home) -> None:
    """Delete what the product itself wrote, nothing else: the home may become that of another marketplace."""
    if home.settings.storage.tables:
        raise DataError(
            "--replace only empties tables inside the home; storage.tables points elsewhere: delete them there."
        )
    for name in TABLES:
        path = Path(home.store.path(name))
        if (path / "_delta_log").is_dir():
            shutil.rmtree(path)
    for part in ("artifacts", "training", "plans", "audits"):
        shutil.rmtree(home.root / part, ignore_errors=True)
    (home.root / MARKER).unlink(missing_ok=True)


def write_table(
    home: Home,
    name: str,
    rows: DataFrame,
    *,
    job: str,
    by: str | None = None,
    only: bool = False,
    counts: Mapping[str, int] | None = None,
    refused: int | None = None,
    since: int | None = None,
) -> int:
    """Replace an imported table, or those of its partitions (of column `by`) that `rows` holds. Returns the row count.

    Rows whose fingerprint equals what is there are left alone, so importing the same data again changes nothing.
    With `only`, partitions that `rows` does not hold are emptied. `counts` of what was taken in and refused go
    along, or follow from how many were `refused`. `since` is the version of the table that `rows` were made from (-1:
    there was none); the version that is there now, if they were not made from it.

    Raises:
        ConcurrentWrite: another run wrote one of the partitions meanwhile; nothing is written.

    """
    since = home.store.begun(name) if since is None else since
    kept = rows.persist(StorageLevel.DISK_ONLY)
    try:
        found = fingerprints(kept, [by] if by else []).collect()
        parts: dict[str, Partition] = {label(part): part for part in ({by: row[by]} if by else {} for row in found)}
        marks = {
            part: as_text(*(row[name] for name in ("rows", "high", "low")))
            for part, row in zip(parts, found, strict=True)
        }
        total = int(sum(row["rows"] for row in found))
        told = {"rows": total, **(counts or {})}
        if refused is not None:
            told |= {"read": total + refused, "accepted": total, "quarantined": refused}
        known = home.store.fingerprints(name)
        fresh = [part for part in parts if known.get(part) != marks[part]]
        gone = [part for part in home.store.partitions(name) if label(part) not in parts] if by and only else []
        if not fresh and not gone:
            log.info("%s: %s rows, the same as before", name, total)
            return total
        changed = kept.where(F.col(by).isin([parts[part][by] for part in fresh])) if by else kept
        target = home.store.target(name, *[parts[part] for part in fresh if by], *gone, since=since)
        target.replace(
            changed,
            job=job,
            fingerprints={part: marks[part] for part in fresh},
            counts=told,
        )
        return total
    finally:
        kept.unpersist()


def add_events(home: Home, events: DataFrame, *, job: str, counts: Mapping[str, int] | None = None) -> int:
    """Add events to the log: their days are rewritten, an event id that a day holds already is left out."""
    days = [row["event_date"] for row in events.select("event_date").distinct().collect()]
    if not days:
        return 0
    since = home.store.begun("click_log")
    parts: list[Partition] = [{"event_date": day} for day in days]
    there = home.store.read(home.spark, "click_log", *parts, version=None if since < 0 else since)
    fresh = events.join(there.select("event_date", "event_id").distinct(), ["event_date", "event_id"], "left_anti")
    merged = there.unionByName(fresh.select(*there.columns))
    accepted = events.count()
    known = accepted - fresh.count()
    if known:
        log.info("%d of %d events were in the log already", known, accepted)
    told = {"accepted": accepted, **(counts or {}), "known": known}
    return write_table(home, "click_log", merged, job=job, by="event_date", counts=told, since=since)


def write_catalog(home: Home, catalog: DataFrame, *, job: str, counts: Mapping[str, int] | None = None) -> int:
    """Replace the catalogue by a full snapshot."""
    if (clash := colliding_hashes(catalog, "item_hash", "item_id").first()) is not None:
        raise DataError(f"Two items share a 64-bit hash: {clash['a']!r} and {clash['b']!r}. Rename one.")
    count = write_table(home, "catalog", catalog, job=job, counts=counts)
    if not count:
        raise DataError("The catalogue has no usable item: see the quarantine table for why each row was refused.")
    return count


def quarantine(home: Home, refused: DataFrame, *, job: str, day: dt.date, add: bool = False) -> int:
    """Keep what an import refused, with the reasons, and say how much it was.

    With `add`, what the day's imports refused before stays; rows refused again are kept once.
    """
    kept = refused.persist(StorageLevel.DISK_ONLY)
    reasons = kept.groupBy("source", "reason").count().orderBy(F.col("count").desc()).collect()
    count: int = sum(row["count"] for row in reasons)
    part: Partition = {"run_date": day, "job": job}
    target = home.store.target("quarantine", part)
    rows = kept
    if add:
        before = home.store.read(home.spark, "quarantine", part).select(*kept.columns)
        rows = kept.unionByName(before.exceptAll(kept))
    target.replace(
        rows.withColumns({"run_date": F.lit(day), "job": F.lit(job)}), job=job, counts={"quarantined": count}
    )
    kept.unpersist()
    for row in reasons[:10]:
        log.warning("Refused %d rows for %s: %s", row["count"], row["source"], row["reason"])
    return count
