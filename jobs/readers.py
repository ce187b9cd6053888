"""How consumers read what is published: one helper for Spark, one for everything that takes Arrow.

    from jobs.readers import read_release, scan_release
    read_release(spark, "/data/home", "item_sids")                       # Spark DataFrame of the current release
    scan_release("/data/home", "item_sids").to_pandas()                  # pandas
    polars.from_arrow(scan_release("/data/home", "query_sids"))          # Polars
    sids = scan_release("/data/home", "item_sids"); duckdb.sql("select count(*) from sids")

Name a release to stay on it while others are published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from jobs import releases
from jobs.errors import DataError
from jobs.home import Home
from jobs.storage import Store
from schemas.tables import TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def read_release(spark: SparkSession, home: str | Path, table: str, release: str | None = None) -> DataFrame:
    """A table as of a release (default: the current one), as a Spark DataFrame.

    Raises:
        DataError: nothing is published, the release is unknown, or the table does not belong to releases.

    """
    store = Home(Path(home)).store
    return store.read(spark, table, {"release": _resolve(store, table, release)})


def scan_release(
    home: str | Path, table: str, release: str | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """The same as an Arrow table. Raises as `read_release` does."""
    store = Home(Path(home)).store
    return store.read_arrow(table, {"release": _resolve(store, table, release)}, columns=columns)


def _resolve(store: Store, table: str, release: str | None) -> str:
    if table not in TABLES or "release" not in TABLES[table].partition:
        known = ", ".join(name for name, contract in TABLES.items() if "release" in contract.partition)
        raise DataError(f"{table} is not a table of releases. Those are {known}.")
    if release is not None:
        return str(releases.find(releases.history(store), release)["release"])
    serving = releases.current(store)
    if serving is None:
        raise DataError("Nothing is published yet: run `dsirm nightly` first.")
    return str(serving["release"])
