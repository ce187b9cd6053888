"""The storage verbs: read a table or partitions of it, replace named partitions in one commit, append to `releases`.

Nothing else in the product calls Spark's or delta-rs' reader or writer. Every commit carries, as JSON in its
`userMetadata`, what wrote it, which partitions, from which inputs, and the row counts.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deltalake
import pyarrow as pa
import pyarrow.dataset
from deltalake.exceptions import CommitFailedError

from jobs.conform import conform, conform_arrow
from jobs.errors import ConcurrentWrite
from jobs.partitions import Partition, expression, few, label, overlap, parsed, predicate
from schemas.contract import ContractError, Table
from schemas.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)
# The memo of what a partition was computed from lives in commit metadata, so the log outlives any window.
PROPERTIES = {"delta.logRetentionDuration": "interval 1000 days"}
_PLAIN = re.compile(r"[\w .=:+-]+")


@dataclass(frozen=True)
class Commit:
    """What one of our commits says of itself."""

    version: int
    metadata: dict[str, Any]
    time: int


class Store:
    """The tables of one home. `base` is a directory or any URL that Hadoop and delta-rs both read."""

    def __init__(self, base: str, origin: Callable[[], Mapping[str, str]] = dict) -> None:
        """`origin` says what every commit carries of where it comes from: run, code revision, settings."""
        self.base = base.rstrip("/")
        self.origin = origin
        self.reads: dict[str, int] = {}
        """Table -> version, of what was read since the job began: every commit carries that too."""

    def path(self, name: str) -> str:
        """Where a table lives."""
        return f"{self.base}/{TABLES[name].name}"

    def exists(self, name: str) -> bool:
        """Whether the table was ever written."""
        return deltalake.DeltaTable.is_deltatable(self.path(name))

    # Reading -----------------------------------------------------------------------------------------------------

    def read(self, spark: SparkSession, name: str, *partitions: Partition) -> DataFrame:
        """A table, or the named partitions of it. A table never written reads as an empty one."""
        if not self.exists(name):
            return spark.createDataFrame([], TABLES[name].ddl)
        self.reads[name] = deltalake.DeltaTable(self.path(name)).version()
        frame = spark.read.format("delta").load(self.path(name))
        return frame.where(predicate(partitions)) if partitions else frame

    def read_arrow(
        self, name: str, *partitions: Partition, columns: Sequence[str] | None = None, version: int | None = None
    ) -> pa.Table:
        """The same as Arrow, through delta-rs: no Spark session needed."""
        schema = TABLES[name].arrow_schema()
        wanted = pa.schema([schema.field(column) for column in columns]) if columns else schema
        if not self.exists(name):
            return wanted.empty_table()
        table = deltalake.DeltaTable(self.path(name), version=version)
        self.reads[name] = table.version()
        data = table.to_pyarrow_dataset()
        read = data.to_table(columns=wanted.names, filter=expression(partitions) if partitions else None)
        return read.cast(wanted)

    def count(self, name: str, *partitions: Partition) -> int:
        """Rows of a table, or of partitions of it."""
        if not self.exists(name):
            return 0
        data = deltalake.DeltaTable(self.path(name)).to_pyarrow_dataset()
        return int(data.count_rows(filter=expression(partitions) if partitions else None))

    def partitions(self, name: str) -> list[dict[str, str]]:
        """Partitions that hold rows, values as text (dates as YYYY-MM-DD), sorted."""
        if not self.exists(name):
            return []
        found = deltalake.DeltaTable(self.path(name)).partitions()
        return sorted(
            ({key: str(value) for key, value in part.items()} for part in found), key=lambda p: sorted(p.items())
        )

    def commits(self, name: str) -> Iterator[Commit]:
        """Our commits to a table, newest first. Maintenance moves no rows, carries no metadata and is left out."""
        if not self.exists(name):
            return
        for entry in deltalake.DeltaTable(self.path(name)).history():
            if text := entry.get("userMetadata"):
                yield Commit(entry["version"], json.loads(text), entry["timestamp"])

    def last_commit(self, name: str, partition: Partition | None = None) -> Commit | None:
        """The newest commit that wrote a partition (or the table)."""
        wanted = None if partition is None else label(partition)
        return next((c for c in self.commits(name) if wanted is None or wanted in c.metadata["partitions"]), None)

    def fingerprints(self, name: str) -> dict[str, str]:
        """Content fingerprint of each partition of an imported table, by `label`."""
        return self._newest(name, "fingerprints")

    def memos(self, name: str) -> dict[str, str]:
        """What each partition of a computed table was last computed from, by `label`."""
        return self._newest(name, "memo")

    def _newest(self, name: str, field: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for commit in self.commits(name):
            marks = commit.metadata.get(field, {})
            for part in commit.metadata["partitions"]:
                found.setdefault(part, marks.get(part, ""))
        return {part: mark for part, mark in found.items() if mark}

    # Writing -----------------------------------------------------------------------------------------------------

    def target(self, name: str, *partitions: Partition) -> Target:
        """What a run is going to replace; notes who wrote it last, so that a second run at once is found out."""
        table = TABLES[name]
        if table.partition and not partitions:
            raise ContractError(
                f"{name} is partitioned by {', '.join(table.partition)}: name the partitions to replace."
            )
        for part in partitions:
            if not set(part) <= set(table.partition):
                raise ContractError(f"{name} is partitioned by {', '.join(table.partition)}, not {', '.join(part)}.")
        return Target(self, table, partitions, self._seen(name, partitions))

    def append_release(self, row: Mapping[str, Any]) -> None:
        """Append one row to `releases` as the commit right after the ones that were read to choose its sequence.

        Raises:
            ConcurrentWrite: another row came between; nothing was written.

        """
        name, table = "releases", TABLES["releases"]
        with self._lock(name):
            self._create(name)
            rows = conform_arrow(pa.Table.from_pylist([dict(row)], schema=table.arrow_schema()), table)
            current = deltalake.DeltaTable(self.path(name))
            known = current.to_pyarrow_table(columns=["sequence"])["sequence"].to_pylist()
            if row["sequence"] != max(known, default=0) + 1:
                raise ConcurrentWrite(f"Release row {row['sequence']} was decided on a history that has moved on.")
            # No retries: the commit must be the very next one, or somebody else came between.
            properties = _properties(json.dumps({"job": "releases", "partitions": [""], **self.origin()}))
            try:
                deltalake.write_deltalake(current, rows, mode="append", commit_properties=properties)
            except CommitFailedError as error:
                raise ConcurrentWrite("Another release was written at the same moment.") from error

    def compact(self, name: str) -> int:
        """Join small files of a table, partition by partition; no row changes. Returns the files that were joined."""
        with self._lock(name):
            found = deltalake.DeltaTable(self.path(name)).optimize.compact()
        return int(found["numFilesRemoved"])

    def vacuum(self, name: str, *, hours: int) -> int:
        """Delete files that no version of the last `hours` holds, killed writes' among them. Returns how many."""
        with self._lock(name):
            table = deltalake.DeltaTable(self.path(name))
            return len(table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True))

    def _seen(self, name: str, partitions: Sequence[Partition]) -> int:
        wanted = [{key: str(value) for key, value in part.items()} for part in partitions] or [{}]
        touched = ((c.version, map(parsed, c.metadata["partitions"])) for c in self.commits(name))
        return next((version for version, parts in touched if any(overlap(a, b) for b in parts for a in wanted)), -1)

    def _create(self, name: str) -> None:
        table = TABLES[name]
        if self.exists(name):
            return
        if "://" not in self.base:
            Path(self.path(name)).mkdir(parents=True, exist_ok=True)
        # Created through delta-rs whichever engine writes next: milliseconds, and the same protocol for both.
        try:
            deltalake.DeltaTable.create(
                self.path(name),
                schema=deltalake.Schema.from_arrow(table.arrow_schema()),
                mode="ignore",
                partition_by=list(table.partition),
                description=table.doc,
                configuration=PROPERTIES | _statistics(table),
            )
        except CommitFailedError:
            # Where there is no lock, another first writer may have created it at the same moment.
            if not self.exists(name):
                raise

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """One writer of a table at a time on a local disk, where the JVM's check-then-rename is not atomic."""
        if "://" in self.base and not self.base.startswith("file:"):
            yield
            return
        path = Path(self.base.removeprefix("file://")) / ".locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


@dataclass(frozen=True)
class Target:
    """The partitions a run may replace, and nothing else."""

    store: Store
    table: Table
    partitions: tuple[Partition, ...]
    seen: int

    @property
    def labels(self) -> list[str]:
        """The partitions by name; one empty name for the whole of an unpartitioned table."""
        return [label(part) for part in self.partitions] or [""]

    def is_done(self, memo: str) -> bool:
        """Whether every partition was last computed from just what `memo` stands for."""
        memos = self.store.memos(self.table.name)
        return all(memos.get(part) == memo for part in self.labels)

    def replace(
        self,
        rows: DataFrame | pa.Table,
        *,
        job: str,
        memo: str | Mapping[str, str] = "",
        counts: Mapping[str, int] | None = None,
        fingerprints: Mapping[str, str] | None = None,
        **notes: Any,
    ) -> None:
        """Replace these partitions by `rows` in one commit, whichever engine the rows come from.

        `memo` stands for all that decided the rows (per partition where they differ): `is_done` asks for it later.

        Raises:
            ContractError: columns, types or a NULL break the table's contract, or a row lies outside the partitions.
            ConcurrentWrite: another run wrote one of the partitions since this target was taken; nothing is written.

        """
        name = self.table.name
        metadata = {
            "job": job,
            "partitions": self.labels,
            "memo": dict.fromkeys(self.labels, memo) if isinstance(memo, str) else dict(memo),
            "counts": dict(counts or {}),
            "fingerprints": dict(fingerprints or {}),
            "inputs": dict(self.store.reads),
            **self.store.origin(),
            **notes,
        }
        text = json.dumps(metadata, sort_keys=True, default=str)
        with self.store._lock(name):
            self.store._create(name)
            now = self.store._seen(name, self.partitions)
            if now != self.seen:
                raise ConcurrentWrite(
                    f"{name} {', '.join(self.labels[:3])}: commit {now} came between the start of {job} and its end. "
                    "Nothing was written; run it again."
                )
            if isinstance(rows, pa.Table):
                self._replace_arrow(rows, text)
            else:
                self._replace_spark(rows, text)
        log.info(
            "%s wrote %s %s %s", job, name, few(self.labels), " ".join(f"{k}={v}" for k, v in (counts or {}).items())
        )

    def _replace_arrow(self, rows: pa.Table, metadata: str) -> None:
        rows = conform_arrow(rows, self.table)
        if self.partitions:
            inside = pa.dataset.dataset(rows).count_rows(filter=expression(self.partitions))
            if inside != rows.num_rows:
                raise ContractError(f"{rows.num_rows - inside} rows for {self.table.name} lie outside the partitions.")
        deltalake.write_deltalake(
            deltalake.DeltaTable(self.store.path(self.table.name)),
            rows,
            mode="overwrite",
            predicate=predicate(self.partitions) if self.partitions else None,
            commit_properties=_properties(metadata),
        )

    def _replace_spark(self, rows: DataFrame, metadata: str) -> None:
        writer = conform(rows, self.table).write.format("delta").mode("overwrite").option("userMetadata", metadata)
        if self.partitions:
            writer = writer.option("replaceWhere", predicate(self.partitions))
        with _refusals(self.table):
            writer.save(self.store.path(self.table.name))


def _statistics(table: Table) -> dict[str, str]:
    """Where a table names persons, its log must not: it keeps least and greatest values of other columns alone."""
    named = {"user", "row"} & set(table.names)
    others = [column.name for column in table.columns if column.name not in named and "<" not in column.type][:8]
    return {"delta.dataSkippingStatsColumns": ",".join(others)} if named else {}


def _properties(metadata: str) -> deltalake.CommitProperties:
    return deltalake.CommitProperties(custom_metadata={"userMetadata": metadata}, max_commit_retries=0)


@contextmanager
def _refusals(table: Table) -> Iterator[None]:
    """What Delta refuses while Spark writes, as the error that the same rows get from the other engine."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        if column := re.search(r"NOT NULL constraint violated for column: (\w+)", str(error)):
            raise ContractError(f"Rows for {table.name}: {column[1]} holds NULL.") from error
        if "DELTA_REPLACE_WHERE_MISMATCH" in str(error):
            raise ContractError(f"Rows for {table.name} lie outside the partitions.") from error
        raise
