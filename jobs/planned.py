"""What the jobs of a release read: the sources as they were when it was planned, and what its own jobs made of them.

A catalogue or a log that changes during the night is for the next one: the version that was planned on is read. The
corpus and the tables of the release must be what this plan makes of them; another run may have written the same date
from other inputs, or a job may be run before its turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.home import Home
from jobs.partitions import Partition
from jobs.plan import Plan
from schemas.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def read(home: Home, plan: Plan, name: str) -> DataFrame:
    """A table as a release's jobs read it. Raises DataError where it is not what the plan says."""
    parts, how = _place(plan, name)
    return home.store.read(home.spark, name, *parts, **how)


def read_arrow(home: Home, plan: Plan, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The same as Arrow."""
    parts, how = _place(plan, name)
    return home.store.read_arrow(name, *parts, columns=columns, **how)


def read_batches(home: Home, plan: Plan, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The same rows in the same order, some at a time."""
    parts, how = _place(plan, name)
    return home.store.read_batches(name, *parts, columns=columns, **how)


def _place(plan: Plan, name: str) -> tuple[list[Partition], dict[str, Any]]:
    columns = TABLES[name].partition
    if "release" in columns:
        return [{"release": plan.release}], {"memo": plan.release}
    if "as_of_date" in columns:
        return [{"as_of_date": plan.date}], {"memo": plan.corpus_memo}
    return [], {"version": plan.versions.get(name)}
