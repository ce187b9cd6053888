"""The storage verbs: read a table or partitions of it, replace named partitions in one commit, append to `releases`.

Nothing else in the product calls Spark's or delta-rs' reader or writer. Every commit carries, as JSON in its
`userMetadata`, what wrote it, which partitions, from which inputs, and the row counts.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import deltalake
import pyarrow as pa
import pyarrow.dataset
from deltalake.exceptions import CommitFailedError

from jobs.errors import ConcurrentWrite, DataError
from schemas.contract import ContractError, Table
from schemas.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)
Value = str | int | dt.date
Partition = Mapping[str, Value]
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

    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/")

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
        frame = spark.read.format("delta").load(self.path(name))
        return frame.where(_predicate(partitions)) if partitions else frame

    def read_arrow(
        self, name: str, *partitions: Partition, columns: Sequence[str] | None = None, version: int | None = None
    ) -> pa.Table:
        """The same as Arrow, through delta-rs: no Spark session needed."""
        schema = TABLES[name].arrow_schema()
        wanted = pa.schema([schema.field(column) for column in columns]) if columns else schema
        if not self.exists(name):
            return wanted.empty_table()
        data = deltalake.DeltaTable(self.path(name), version=version).to_pyarrow_dataset()
        read = data.to_table(columns=wanted.names, filter=_expression(partitions) if partitions else None)
        return read.cast(wanted)

    def count(self, name: str, *partitions: Partition) -> int:
        """Rows of a table, or of partitions of it."""
        if not self.exists(name):
            return 0
        data = deltalake.DeltaTable(self.path(name)).to_pyarrow_dataset()
        return int(data.count_rows(filter=_expression(partitions) if partitions else None))

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
        self._create(name)
        with self._lock(name):
            rows = conform_arrow(pa.Table.from_pylist([dict(row)], schema=table.arrow_schema()), table)
            current = deltalake.DeltaTable(self.path(name))
            known = current.to_pyarrow_table(columns=["sequence"])["sequence"].to_pylist()
            if row["sequence"] != max(known, default=0) + 1:
                raise ConcurrentWrite(f"Release row {row['sequence']} was decided on a history that has moved on.")
            # No retries: the commit must be the very next one, or somebody else came between.
            properties = _properties(json.dumps({"job": "releases", "partitions": [""]}))
            try:
                deltalake.write_deltalake(current, rows, mode="append", commit_properties=properties)
            except CommitFailedError as error:
                raise ConcurrentWrite("Another release was written at the same moment.") from error

    def _seen(self, name: str, partitions: Sequence[Partition]) -> int:
        wanted = [{key: str(value) for key, value in part.items()} for part in partitions] or [{}]
        touched = ((c.version, map(_parsed, c.metadata["partitions"])) for c in self.commits(name))
        return next((version for version, parts in touched if any(_overlap(a, b) for b in parts for a in wanted)), -1)

    def _create(self, name: str) -> None:
        table = TABLES[name]
        if self.exists(name):
            return
        if "://" not in self.base:
            Path(self.path(name)).mkdir(parents=True, exist_ok=True)
        # Created through delta-rs whichever engine writes next: milliseconds, and the same protocol for both.
        deltalake.DeltaTable.create(
            self.path(name),
            schema=deltalake.Schema.from_arrow(table.arrow_schema()),
            mode="ignore",
            partition_by=list(table.partition),
            description=table.doc,
            configuration=PROPERTIES,
        )

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
            **notes,
        }
        text = json.dumps(metadata, sort_keys=True, default=str)
        self.store._create(name)
        with self.store._lock(name):
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
            "%s wrote %s %s %s", job, name, _few(self.labels), " ".join(f"{k}={v}" for k, v in (counts or {}).items())
        )

    def _replace_arrow(self, rows: pa.Table, metadata: str) -> None:
        rows = conform_arrow(rows, self.table)
        if self.partitions:
            inside = pa.dataset.dataset(rows).count_rows(filter=_expression(self.partitions))
            if inside != rows.num_rows:
                raise ContractError(f"{rows.num_rows - inside} rows for {self.table.name} lie outside the partitions.")
        deltalake.write_deltalake(
            deltalake.DeltaTable(self.store.path(self.table.name)),
            rows,
            mode="overwrite",
            predicate=_predicate(self.partitions) if self.partitions else None,
            commit_properties=_properties(metadata),
        )

    def _replace_spark(self, rows: DataFrame, metadata: str) -> None:
        writer = conform(rows, self.table).write.format("delta").mode("overwrite").option("userMetadata", metadata)
        if self.partitions:
            writer = writer.option("replaceWhere", _predicate(self.partitions))
        with _refusals(self.table):
            writer.save(self.store.path(self.table.name))


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


def conform(rows: DataFrame, table: Table) -> DataFrame:
    """The contract's columns in its order. Raises ContractError naming every missing or wrongly typed column."""
    from pyspark.sql.types import StructType

    wanted = cast(StructType, StructType.fromDDL(table.ddl))
    have = {field.name: field.dataType for field in rows.schema}
    problems = [f"{f.name} is missing" for f in wanted if f.name not in have]
    problems += [
        f"{f.name} is {have[f.name].simpleString()} instead of {f.dataType.simpleString()}"
        for f in wanted
        if f.name in have and have[f.name].simpleString() != f.dataType.simpleString()
    ]
    if problems:
        raise ContractError(f"Rows for {table.name}: {'; '.join(problems)}.")
    return rows.select(*[f"`{name}`" for name in table.names])


def conform_arrow(rows: pa.Table, table: Table) -> pa.Table:
    """The same for Arrow, which knows more widths of a type: those are cast, a text never becomes a number."""
    schema = table.arrow_schema()
    have = {field.name: field.type for field in rows.schema}
    problems = [f"{f.name} is missing" for f in schema if f.name not in have]
    there = [f for f in schema if f.name in have]
    problems += [f"{f.name} is {have[f.name]} instead of {f.type}" for f in there if not _fits(have[f.name], f.type)]
    problems += [f"{f.name} holds NULL" for f in there if not f.nullable and rows[f.name].null_count]
    if problems:
        raise ContractError(f"Rows for {table.name}: {'; '.join(problems)}.")
    try:
        return rows.select(schema.names).cast(schema)
    except pa.ArrowInvalid as error:
        raise ContractError(f"Rows for {table.name}: {error}.") from error


def _fits(have: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether two Arrow types are of one kind, whatever their width."""
    types = pa.types
    if types.is_null(have):
        return True
    if types.is_map(wanted):
        return types.is_map(have) and _fits(have.key_type, wanted.key_type) and _fits(have.item_type, wanted.item_type)
    if types.is_list(wanted):
        listed = types.is_list(have) or types.is_large_list(have) or types.is_fixed_size_list(have)
        return listed and _fits(have.value_type, wanted.value_type)
    if types.is_timestamp(wanted):
        return types.is_timestamp(have) and have.tz is not None
    if types.is_string(wanted):
        return types.is_string(have) or types.is_large_string(have) or types.is_string_view(have)
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_date)
    return any(kind(have) and kind(wanted) for kind in kinds)


def _few(labels: Sequence[str]) -> str:
    return " ".join(labels) if len(labels) < 4 else f"{labels[0]} .. {labels[-1]} ({len(labels)})"


def _literal(value: Value) -> str:
    """A partition value as a SQL literal; only plain characters ever reach SQL text."""
    if isinstance(value, int):
        return str(value)
    text = value.isoformat() if isinstance(value, dt.date) else value
    if not _PLAIN.fullmatch(text):
        raise DataError(f"{text!r} cannot name a partition: letters, digits, blank and _.=:+- only.")
    return f"'{text}'"


def label(partition: Partition) -> str:
    """Name of a partition as commits carry it, for example `event_date=2026-01-31`."""
    return "/".join(f"{key}={value!s}" for key, value in sorted(partition.items()))


def _parsed(name: str) -> dict[str, str]:
    """What `label` made a name of; no value holds a slash."""
    return dict(step.split("=", 1) for step in name.split("/") if step)


def _overlap(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether a row may lie in both: nothing that both name differs."""
    return all(other.get(key, value) == value for key, value in one.items())


def _predicate(partitions: Sequence[Partition]) -> str:
    alternatives = [" AND ".join(f"{key} = {_literal(value)}" for key, value in part.items()) for part in partitions]
    columns = {tuple(part) for part in partitions}
    if len(partitions) > 1 and len(columns) == 1 and len(key := next(iter(columns))) == 1:
        return f"{key[0]} IN ({', '.join(_literal(part[key[0]]) for part in partitions)})"
    return " OR ".join(f"({alternative})" for alternative in alternatives)


def _expression(partitions: Sequence[Partition]) -> Any:
    import pyarrow.compute as pc

    def one(part: Partition) -> Any:
        terms = [pc.field(key) == value for key, value in part.items()]
        result = terms[0]
        for term in terms[1:]:
            result = result & term
        return result

    result = one(partitions[0])
    for part in partitions[1:]:
        result = result | one(part)
    return result
