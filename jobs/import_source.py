"""Bring a catalogue, a click log or judgments from outside into a home.

Reads files. Writes catalog, click_log, users, relevance_labels and quarantine: rows read = rows accepted + rows
refused, each refused row with its reason. Nothing in the home changes before the files have been read and understood.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import MapType

from jobs import sources
from jobs.errors import DataError
from jobs.home import Home
from pipelines.imports import quoted

JOB = "import"
PATTERN = set("*?[]{}\\")
log = logging.getLogger(__name__)


def icecat(home: Home, directory: Path, *, replace: bool = False) -> None:
    """The Icecat catalogue and its human judgments (products.tsv.gz, judgments.tsv.gz)."""
    from pipelines.import_icecat import import_icecat, read_icecat

    with _readable(directory):
        files = read_icecat(home.spark, directory)
        found = import_icecat(files)
        accepted = _compute(directory, "item", found.catalog, found.labels, refused=found.refused)
        of_items = _counted(found.refused, "catalog", accepted[0], files.products)
        of_labels = _counted(found.refused, "relevance_labels", accepted[1])
    sources.claim(home, "icecat", replace=replace)
    refused = sources.quarantine(home, found.refused, job=JOB, day=_today(), add=True)
    items = sources.write_catalog(home, found.catalog, job=JOB, counts=of_items)
    labels = sources.write_table(home, "relevance_labels", found.labels, job=JOB, by="source", counts=of_labels)
    log.info("Imported %d items and %d judgments, refused %d rows", items, labels, refused)


def ubi(home: Home, file: Path, *, replace: bool = False) -> None:
    """User Behavior Insights events."""
    from pipelines.import_ubi import import_ubi, read_ubi

    with _readable(file):
        files = read_ubi(home.spark, file)
        found = import_ubi(files, zone=home.settings.corpus.zone, key=home.user_key())
        accepted = _compute(file, "event", found.rows, refused=found.refused)
        counts = _counted(found.refused, "click_log", accepted[0], files.events)
    if replace:
        sources.empty(home)
    refused = sources.quarantine(home, found.refused, job=JOB, day=_today(), add=True)
    events = sources.add_events(home, found.rows, job=JOB, counts=counts)
    log.info("The log's touched days now hold %d events; refused %d rows", events, refused)


def esci(home: Home, directory: Path, *, locale: str, replace: bool = False) -> None:
    """The published ESCI files: catalogue, judgments, and a log that its train split stands in for."""
    from pipelines.import_esci import import_esci, read_esci

    with _readable(directory):
        files = read_esci(home.spark, directory, locale=locale)
        found = import_esci(files, key=home.user_key())
        accepted = _compute(directory, "product", found.catalog, found.labels, found.click_log, refused=found.refused)
        of_items = _counted(found.refused, "catalog", accepted[0], files.products)
        of_labels = _counted(found.refused, "relevance_labels", accepted[1])
        of_events = _counted(found.refused, "click_log", accepted[2])
    sources.claim(home, f"esci-{locale}", replace=replace)
    refused = sources.quarantine(home, found.refused, job=JOB, day=_today(), add=True)
    items = sources.write_catalog(home, found.catalog, job=JOB, counts=of_items)
    labels = sources.write_table(home, "relevance_labels", found.labels, job=JOB, by="source", counts=of_labels)
    events = sources.add_events(home, found.click_log, job=JOB, counts=of_events)
    log.info("Imported %d items, %d judgments, %d events, refused %d rows", items, labels, events, refused)


def table(home: Home, path: Path, mapping_file: Path, *, replace: bool = False) -> None:
    """Any Parquet, CSV or Delta log, catalogue, users or judgments, by a mapping of columns."""
    from pipelines.import_table import import_table, read_mapping, read_table

    with _readable(mapping_file):
        mapping = read_mapping(mapping_file)
    with _readable(path):
        raw = read_table(home.spark, path, mapping)
        judged = mapping.table == "relevance_labels" and home.store.exists("catalog") and not replace
        items = home.store.read(home.spark, "catalog") if judged else None
        found = import_table(raw, mapping, zone=home.settings.corpus.zone, key=home.user_key(), known_items=items)
        accepted = _compute(path, "row", found.rows, refused=found.refused)
        counts = _counted(found.refused, mapping.table, accepted[0], raw)
    if mapping.table == "catalog":
        # Not the file's name: a snapshot of every day may have one of its own.
        sources.claim(home, "table", replace=replace)
    elif replace:
        sources.empty(home)
    refused = sources.quarantine(home, found.refused, job=JOB, day=_today(), add=True)
    if mapping.table == "catalog":
        count = sources.write_catalog(home, found.rows, job=JOB, counts=counts)
    elif mapping.table == "click_log":
        count = sources.add_events(home, found.rows, job=JOB, counts=counts)
    else:
        by = "source" if mapping.table == "relevance_labels" else None
        count = sources.write_table(home, mapping.table, found.rows, job=JOB, by=by, counts=counts)
    log.info("%s now holds %d rows where they were touched; refused %d rows", mapping.table, count, refused)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What an importer or Spark's readers say of a file that they cannot use, as an error about data."""
    try:
        if not path.exists():  # said at once: Spark takes seconds to start
            raise DataError(f"{path} does not exist.")
        if odd := sorted(PATTERN & set(str(path))):
            raise DataError(f"{path} cannot be read: Spark takes {' '.join(odd)} in a path for a pattern. Rename it.")
        yield
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error
    except PySparkException as error:
        # Not the message itself: it may show the plan, and the plan holds the key of the pseudonyms.
        reason = error.getCondition() or str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read: {reason}.") from error
    except Py4JJavaError as error:
        cause = error.java_exception
        while cause.getCause() is not None:
            cause = cause.getCause()
        reason = str(cause.getMessage()).splitlines()[0].rstrip(".")
        raise DataError(f"{path} cannot be read: {reason}. Is the file whole?") from error


def _compute(path: Path, what: str, *found: DataFrame, refused: DataFrame) -> list[int]:
    """Compute every frame once and keep it on disk: a file that breaks off in the middle is found before any write.
    Returns the rows of each.

    Raises:
        DataError: the first frame has no row; the message says what most rows were refused for.
    """
    counts = [frame.persist(StorageLevel.DISK_ONLY).count() for frame in (refused, *found)]
    if counts[1]:
        return counts[1:]
    reasons = refused.groupBy("source", "reason").count().orderBy(F.desc("count"), "source", "reason").limit(3)
    told = "; ".join(f"{row['count']} rows of {row['source']}: {row['reason']}" for row in reasons.collect())
    raise DataError(f"{path} holds no usable {what}: nothing was imported. Refused: {told or 'nothing, it is empty'}.")


def _counted(refused: DataFrame, source: str, accepted: int, raw: DataFrame | None = None) -> dict[str, int]:
    """Rows in, accepted and quarantined, as the commit tells them.

    Raises:
        DataError: `raw` has another number of rows than were accepted or refused.

    """
    out = refused.where(F.col("source") == source).count()
    # Read whole: of some formats a bare count would count lines in place of rows.
    read = accepted + out if raw is None else raw.agg(F.count("*"), F.max(F.xxhash64(*_quoted(raw)))).collect()[0][0]
    if read != accepted + out:
        raise DataError(
            f"{read} rows of {source} read, but {accepted} accepted and {out} refused: nothing was imported."
        )
    return {"read": read, "accepted": accepted, "quarantined": out}


def _quoted(frame: DataFrame) -> list[Column]:
    """Every column that can be hashed, by its name as it is."""
    return [quoted(field.name) for field in frame.schema if not isinstance(field.dataType, MapType)]


def _today() -> dt.date:
    """The day of the import: the wall clock is allowed here, since it only names a partition of `quarantine`."""
    return dt.datetime.now(dt.UTC).date()
