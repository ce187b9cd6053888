"""The storage verbs: read a table or partitions of it, replace named partitions in one commit, append to `releases`.

Nothing else in the product calls Spark's or delta-rs' reader or writer. Every commit carries, as JSON in its
`userMetadata`, what wrote it, which partitions, from which inputs, and the row counts.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deltalake
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
from deltalake.exceptions import CommitFailedError

from jobs.conform import conform, conform_arrow, create, overtaken, refusals
from jobs.errors import ConcurrentWrite, DataError
from jobs.files import in_turn
from jobs.partitions import Partition, expression, few, label, overlap, parsed, predicate
from schemas.contract import ContractError, Table
from schemas.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)
Memo = str | Mapping[str, str] | None


@dataclass(frozen=True)
class Commit:
    """What one of our commits says of itself."""

    version: int
    metadata: dict[str, Any]
    time: int


class Store:
    """The tables of one home. `base` is a directory or any URL that Hadoop and delta-rs both read."""

    def __init__(self, base: str, origin: Callable[[], Mapping[str, str]] = dict, *, locks: Path | None = None) -> None:
        """`origin` says what every commit carries of where it comes from: run, code revision, settings. `locks` is a
        directory that all writers share, where the tables are on an object store.
        """
        self.base = base.rstrip("/")
        self.locks = locks
        self.origin = origin
        self.reads: dict[str, int] = {}
        """Table -> version, of what was read since the job began: every commit carries that too."""
        self.writes: set[str] = set()
        """Tables written since the job began."""

    def path(self, name: str) -> str:
        """Where a table lives."""
        return f"{self.base}/{TABLES[name].name}"

    def exists(self, name: str) -> bool:
        """Whether the table was ever written."""
        return deltalake.DeltaTable.is_deltatable(self.path(name))

    def version(self, name: str) -> int | None:
        """The newest version of a table, None where it was never written."""
        held = self._held(name)
        return held.version() if held else None

    def begun(self, name: str) -> int:
        """The version of a table on which a run begins that begins now (`since` of `target`); -1: none."""
        version = self.version(name)
        return -1 if version is None else version

    def _held(self, name: str, version: int | None = None) -> deltalake.DeltaTable | None:
        return deltalake.DeltaTable(self.path(name), version=version) if self.exists(name) else None

    # Reading -----------------------------------------------------------------------------------------------------

    def read(
        self, spark: SparkSession, name: str, *partitions: Partition, version: int | None = None, memo: Memo = None
    ) -> DataFrame:
        """A table, or the named partitions of it. A table never written reads as an empty one.

        `version` reads the table as it was then. `memo` says what the partitions must have been computed from.

        Raises:
            DataError: a partition was computed from something else, or not at all.

        """
        table = self._open(name, partitions, version, memo)
        if table is None:
            return spark.createDataFrame([], TABLES[name].ddl)
        # The version that is noted is the one that is read, whoever commits in between.
        frame = spark.read.format("delta").option("versionAsOf", table.version()).load(self.path(name))
        for column in TABLES[name].columns:
            if column.name not in frame.columns:  # the contract gained it since that version
                frame = frame.selectExpr("*", f"CAST(NULL AS {column.type}) AS `{column.name}`")
        return frame.where(predicate(partitions)) if partitions else frame

    def read_arrow(
        self,
        name: str,
        *partitions: Partition,
        columns: Sequence[str] | None = None,
        version: int | None = None,
        memo: Memo = None,
        where: pa.compute.Expression | None = None,
    ) -> pa.Table:
        """The same as Arrow, through delta-rs: no Spark session needed. `where` keeps rows while they are read."""
        wanted = _arrow_schema(name, columns)
        scanner = self._scanner(name, wanted, partitions, version, memo, where)
        return _as_contract(scanner.to_table(), wanted) if scanner else wanted.empty_table()

    def read_batches(
        self,
        name: str,
        *partitions: Partition,
        columns: Sequence[str] | None = None,
        version: int | None = None,
        memo: Memo = None,
    ) -> Iterator[pa.Table]:
        """The same rows in the same order, some at a time: for who keeps less of them than there is."""
        wanted = _arrow_schema(name, columns)
        scanner = self._scanner(name, wanted, partitions, version, memo, None)
        for batch in scanner.to_batches() if scanner else ():
            yield _as_contract(pa.Table.from_batches([batch]), wanted)

    def _scanner(
        self,
        name: str,
        wanted: pa.Schema,
        partitions: Sequence[Partition],
        version: int | None,
        memo: Memo,
        where: pa.compute.Expression | None,
    ) -> pa.dataset.Scanner | None:
        table = self._open(name, partitions, version, memo)
        if table is None:
            return None
        data = table.to_pyarrow_dataset()
        there = [column for column in wanted.names if column in data.schema.names]
        wanted_rows = expression(partitions) if partitions else None
        if where is not None:
            wanted_rows = where if wanted_rows is None else wanted_rows & where
        return data.scanner(columns=there, filter=wanted_rows)

    def _open(
        self, name: str, partitions: Sequence[Partition], version: int | None, memo: Memo
    ) -> deltalake.DeltaTable | None:
        table = self._held(name, version)
        if table is not None:
            self.reads[name] = table.version()
        if memo is not None:
            found = self._newest(name, "memo", table.version()) if table else {}
            wanted = memo if isinstance(memo, Mapping) else dict.fromkeys(map(label, partitions), memo)
            if other := sorted(part for part, mark in wanted.items() if found.get(part) != mark):
                raise DataError(
                    f"{name} {few(other)} is not what this release was planned on: not computed yet, or computed by "
                    "another run from other inputs. `dsirm nightly` plans and computes anew."
                )
        return table

    def count(self, name: str, *partitions: Partition) -> int:
        """Rows of a table, or of partitions of it."""
        held = self._held(name)
        wanted = expression(partitions) if partitions else None
        return int(held.to_pyarrow_dataset().count_rows(filter=wanted)) if held else 0

    def partitions(self, name: str, version: int | None = None) -> list[dict[str, str]]:
        """Partitions that hold rows (or did, in a version), values as text (dates as YYYY-MM-DD), sorted."""
        held = self._held(name, version)
        found = [{key: str(value) for key, value in part.items()} for part in held.partitions()] if held else []
        return sorted(found, key=lambda part: sorted(part.items()))

    def sizes(self, name: str, version: int | None = None) -> Counter[str]:
        """Bytes of each partition's files (in a version), by `label`, from the table's log alone."""
        held = self._held(name, version)
        keys = TABLES[name].partition
        found: Counter[str] = Counter()
        for file in pa.table(held.get_add_actions(flatten=True)).to_pylist() if held else []:
            found[label({key: file[f"partition.{key}"] for key in keys})] += file["size_bytes"]
        return found

    def commits(self, name: str) -> Iterator[Commit]:
        """Our commits to a table, newest first. Maintenance moves no rows, carries no metadata and is left out."""
        held = self._held(name)
        for entry in held.history() if held else []:
            if text := entry.get("userMetadata"):
                yield Commit(entry["version"], json.loads(text), entry["timestamp"])

    def last_commit(self, name: str, partition: Partition | None = None) -> Commit | None:
        """The newest commit that wrote a partition (or the table)."""
        wanted = None if partition is None else label(partition)
        return next((c for c in self.commits(name) if wanted is None or wanted in c.metadata["partitions"]), None)

    def fingerprints(self, name: str, version: int | None = None) -> dict[str, str]:
        """Content fingerprint of each partition of an imported table (in a version of it), by `label`."""
        return self._newest(name, "fingerprints", version)

    def memos(self, name: str) -> dict[str, str]:
        """What each partition of a computed table was last computed from, by `label`."""
        return self._newest(name, "memo")

    def _newest(self, name: str, field: str, version: int | None = None) -> dict[str, str]:
        found: dict[str, str] = {}
        for commit in self.commits(name):
            if version is not None and commit.version > version:
                continue
            marks = commit.metadata.get(field, {})
            for part in commit.metadata["partitions"]:
                found.setdefault(part, marks.get(part, ""))
        return {part: mark for part, mark in found.items() if mark}

    # Writing -----------------------------------------------------------------------------------------------------

    def target(
        self, name: str, *partitions: Partition, watch: Partition | None = None, since: int | None = None
    ) -> Target:
        """What a run is going to replace; notes who wrote it last, so that a second run at once is found out.

        `watch`: a wider partition, where rows that another run adds beside these would break the key. `since`: the
        version (-1: none) on which the run began, where it only knows by now which partitions it replaces.
        """
        table = TABLES[name]
        if table.partition and not partitions:
            raise ContractError(
                f"{name} is partitioned by {', '.join(table.partition)}: name the partitions to replace."
            )
        for part in partitions:
            if not set(part) <= set(table.partition):
                raise ContractError(f"{name} is partitioned by {', '.join(table.partition)}, not {', '.join(part)}.")
        watched = partitions if watch is None else (watch,)
        return Target(self, table, partitions, watched, self._seen(name, watched, since))

    def append_release(self, row: Mapping[str, Any]) -> None:
        """Append one row to `releases` as the commit right after the ones that were read to choose its sequence.

        Raises:
            ConcurrentWrite: another row came between; nothing was written.

        """
        name, table = "releases", TABLES["releases"]
        with self._lock(name):
            create(self.path(name), table, self._held(name))
            rows = conform_arrow(pa.Table.from_pylist([dict(row)], schema=table.arrow_schema()), table)
            current = deltalake.DeltaTable(self.path(name))
            known = current.to_pyarrow_table(columns=["sequence"])["sequence"].to_pylist()
            if row["sequence"] != max(known, default=0) + 1:
                raise ConcurrentWrite(f"Release row {row['sequence']} was decided on a history that has moved on.")
            # No retries: the commit must be the very next one, or somebody else came between.
            properties = _properties(
                json.dumps({"job": "releases", "partitions": [""], "inputs": dict(self.reads), **self.origin()})
            )
            try:
                deltalake.write_deltalake(current, rows, mode="append", commit_properties=properties)
            except CommitFailedError as error:
                raise ConcurrentWrite("Another release was written at the same moment.") from error
        self.writes.add(name)

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

    def _seen(self, name: str, partitions: Sequence[Partition], since: int | None = None) -> int:
        wanted = [{key: str(value) for key, value in part.items()} for part in partitions] or [{}]
        for commit in self.commits(name):
            parts = map(parsed, commit.metadata["partitions"])
            if (since is None or commit.version <= since) and any(overlap(a, b) for b in parts for a in wanted):
                return commit.version
        return -1

    def _lock(self, name: str) -> AbstractContextManager[None]:
        """One writer of a table at a time among all who share the disk: the JVM's log stores check, then write, which
        is not atomic on a local disk and not on an object store. delta-rs' are.
        """
        if "://" not in self.base or self.base.startswith("file:"):
            folder = Path(self.base.removeprefix("file:")) / ".locks"
        elif self.locks is not None:
            folder = self.locks
        else:
            return nullcontext()
        return in_turn(folder / name, f"another writer of {name}")


@dataclass(frozen=True)
class Target:
    """The partitions a run may replace, and nothing else."""

    store: Store
    table: Table
    partitions: tuple[Partition, ...]
    watched: tuple[Partition, ...]
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
            create(self.store.path(name), self.table, self.store._held(name))
            now = self.store._seen(name, self.watched)
            if now != self.seen:
                raise ConcurrentWrite(
                    f"{name} {', '.join(self.labels[:3])}: commit {now} came between the start of {job} and its end. "
                    "Nothing was written; run it again."
                )
            if isinstance(rows, pa.Table):
                self._replace_arrow(rows, text)
            else:
                self._replace_spark(rows, text)
        self.store.writes.add(name)
        log.info(
            "%s wrote %s %s %s", job, name, few(self.labels), " ".join(f"{k}={v}" for k, v in (counts or {}).items())
        )

    def _replace_arrow(self, rows: pa.Table, metadata: str) -> None:
        rows = conform_arrow(rows, self.table)
        if self.partitions:
            inside = pa.dataset.dataset(rows).count_rows(filter=expression(self.partitions))
            if inside != rows.num_rows:
                raise ContractError(f"{rows.num_rows - inside} rows for {self.table.name} lie outside the partitions.")
        try:
            deltalake.write_deltalake(
                deltalake.DeltaTable(self.store.path(self.table.name)),
                rows,
                mode="overwrite",
                predicate=predicate(self.partitions) if self.partitions else None,
                commit_properties=_properties(metadata),
            )
        except CommitFailedError as error:
            raise overtaken(self.table) from error

    def _replace_spark(self, rows: DataFrame, metadata: str) -> None:
        writer = conform(rows, self.table).write.format("delta").mode("overwrite").option("userMetadata", metadata)
        if self.partitions:
            writer = writer.option("replaceWhere", predicate(self.partitions))
        with refusals(self.table):
            writer.save(self.store.path(self.table.name))


def _arrow_schema(name: str, columns: Sequence[str] | None) -> pa.Schema:
    schema = TABLES[name].arrow_schema()
    return pa.schema([schema.field(column) for column in columns]) if columns else schema


def _as_contract(read: pa.Table, wanted: pa.Schema) -> pa.Table:
    for column in set(wanted.names) - set(read.schema.names):  # the contract gained it since that version
        read = read.append_column(column, pa.nulls(len(read), wanted.field(column).type))
    return read.select(wanted.names).cast(wanted)


def _properties(metadata: str) -> deltalake.CommitProperties:
    return deltalake.CommitProperties(custom_metadata={"userMetadata": metadata}, max_commit_retries=0)
