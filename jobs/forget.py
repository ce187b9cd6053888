"""Remove a person: their rows from every table that carries users, in every release, and the files that held them.

Reads and rewrites click_log, users, user_searches, user_profiles, request_sids, recall_lists and quarantine, only
partitions that hold rows of the person, pinned releases among them; then deletes the replaced files at once, also for
readers that have them open. Appends what was done, without the id, to HOME/forgotten.jsonl. Days of the log that
changed are aggregated again by the next night. Run again after a kill, it ends what was begun.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import Column
from pyspark.sql import functions as F

from jobs.errors import DataError
from jobs.home import Home
from jobs.partitions import Partition, label
from jobs.simulate import KEY as SIMULATED_KEY
from pipelines.fingerprints import as_text, fingerprints
from pipelines.imports import pseudonym
from schemas.tables import TABLES

JOB = "forget"
CARRY_USERS = [name for name, table in TABLES.items() if "user" in table.names]
RECORD = "forgotten.jsonl"


def run(home: Home, *, user: str | None = None, known_as: str | None = None) -> dict[str, Any]:
    """Forget a user by the id that the source knows them by, or by pseudonym. Returns rows removed by table.

    Raises:
        DataError: neither or both were given.

    """
    if (user is None) == (known_as is None):
        raise DataError("Name one person: --user ID as the source has it, or --pseudonym P as the tables have it.")
    if not (name := user if user is not None else known_as) or not name.strip():
        raise DataError("An empty id names nobody.")
    aliases = [known_as] if known_as is not None else _aliases(home, str(user))
    in_row = F.lit(False)
    for name in [*aliases, *([user] if user is not None else [])]:
        in_row = in_row | F.col("row").contains(f'"user":{json.dumps(name, ensure_ascii=False)}')
    if user is not None:
        # A record that an import could not read is kept as it came, wherever and however it names whom.
        unread = F.get_json_object("row", "$.value")
        for name in (user, *(json.dumps(user, ensure_ascii=ascii)[1:-1] for ascii in (True, False))):
            in_row = in_row | F.coalesce(unread.contains(name), F.lit(False))
    removed = {name: _remove(home, name, F.col("user").isin(aliases)) for name in CARRY_USERS}
    removed["quarantine"] = _remove(home, "quarantine", in_row)
    for name in removed:
        if home.store.exists(name):
            home.store.vacuum(name, hours=0)
    told = {"rows": removed}
    with (home.root / RECORD).open("a", encoding="utf-8") as record:
        record.write(json.dumps({"time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), **told}) + "\n")
    return told


def _aliases(home: Home, user: str) -> list[str]:
    """The pseudonyms of an id: under the home's key, and under the simulator's own, which made-up users have."""
    keys = (home.user_key(), SIMULATED_KEY)
    row = home.spark.createDataFrame([(user,)], "user STRING").select(*[pseudonym("user", key) for key in keys]).first()
    return [alias for alias in row or () if alias]


def _remove(home: Home, name: str, person: Column) -> int:
    """Rewrite the partitions that hold rows of the person without them."""
    person = F.coalesce(person, F.lit(False))
    columns = list(TABLES[name].partition)
    rows = home.store.read(home.spark, name)
    held = rows.where(person).groupBy(*columns).count().collect()
    count = sum(int(row["count"]) for row in held)
    if not count:
        return 0
    parts: list[Partition] = [{column: row[column] for column in columns} for row in held] if columns else []
    target = home.store.target(name, *parts)
    kept = home.store.read(home.spark, name, *parts).where(~person).persist(StorageLevel.DISK_ONLY)
    # An imported table says by its fingerprints that it changed; a computed one stays what it was computed from.
    imported = home.store.fingerprints(name)
    marks = {}
    if set(target.labels) & set(imported):
        marks = {part: as_text(0, 0, 0) for part in target.labels}
        for row in fingerprints(kept, columns).collect():
            part = label({column: row[column] for column in columns})
            marks[part] = as_text(row["rows"], row["high"], row["low"])
    memos = home.store.memos(name)
    target.replace(
        kept,
        job=JOB,
        memo={part: memos.get(part, "") for part in target.labels},
        fingerprints=marks,
        counts={"removed": count},
    )
    kept.unpersist()
    return count
