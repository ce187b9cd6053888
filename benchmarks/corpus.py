"""The corpus from a large log: against DuckDB, its growth, and what features, one more night and a late file cost."""

from __future__ import annotations

import datetime as dt
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deltalake
import duckdb

from benchmarks import click_log, corpus_peer, features
from benchmarks.features import live_files, spilling_beside
from benchmarks.figures import Figure, Usage, apart, save
from jobs.home import Home
from jobs.partitions import label

PAIRS = {"small": (300_000,), "full": (80_000_000, 5_000_000)}
MEMORY = {"small": "4GB", "full": "9GB"}
TABLES = ("pair_days", "query_days", "pairs", "queries")
WINDOW = 30
COMET = """
[storage.spark]
"spark.jars.packages" = "org.apache.datafusion:comet-spark-spark4.1_2.13:1.2.0"
"spark.plugins" = "org.apache.spark.CometPlugin"
"spark.shuffle.manager" = "org.apache.spark.sql.comet.execution.shuffle.CometShuffleManager"
"spark.memory.offHeap.enabled" = "true"
"spark.memory.offHeap.size" = "4g"
"""


def main(size: str) -> None:
    """The largest size against DuckDB, and its next night; a late file into the least.

    The least of the full sizes proves that both ways end the same (as the tests do of a small log), so `make bench`
    need not. What is measured is saved figure by figure: the full size takes hours.
    """
    figures: list[Figure] = []
    facts: dict[str, Any] = {"days": WINDOW, "sizes": []}
    for figure in _figures(size, facts):
        figures.append(figure)
        save("corpus", size, figures, facts)


def _figures(size: str, facts: dict[str, Any]) -> Iterator[Figure]:
    taken: dict[int, float] = {}
    for pairs in PAIRS[size]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            home = folder / "home"
            made = _log(home, pairs)
            ours = apart(_rebuild, home, WINDOW - 1, folders=[folder])
            found = _sums(home)
            count = found["pairs"]["n"]
            taken[count] = ours.seconds
            facts["sizes"].append({"pairs": count, "events": made, **ours._asdict()})
            largest, least = pairs == max(PAIRS[size]), pairs == min(PAIRS[size])
            smaller = least and not largest
            if largest:
                yield from _held(count, ours)
                yield _against_duckdb(size, folder, ours, found)
                if size == "full":
                    features.main(size, home, click_log.FIRST + dt.timedelta(days=WINDOW - 1), ours)
            if smaller:
                yield _growth(taken)
                yield from _accelerated(home, folder, ours)
            night = _night(folder, pairs, ours)
            if largest:
                yield night
            if least:
                yield _late(folder, pairs, ours)
            if smaller:
                yield _proof(home, folder, ours)


def _held(pairs: int, ours: Usage) -> Iterator[Figure]:
    what = f"full rebuild of {pairs:,} pairs"
    for name, held, limit in (("memory", ours.memory_gb, 12.0), ("disk", ours.disk_gb, 60.0)):
        yield Figure(
            name=f"{what}, {name}", ours=held, peer=None, peer_name="absolute", unit="GB", limit=limit,
            note="Log, tables, and all that Spark spills and shuffles." if name == "disk" else "",
        )  # fmt: skip


def _growth(taken: dict[int, float]) -> Figure:
    (few, first), (many, last) = min(taken.items()), max(taken.items())
    return Figure(
        name=f"growth exponent from {few:,} to {many:,} pairs", ours=math.log(last / first) / math.log(many / few),
        peer=None, peer_name="absolute", unit="", limit=1.1,
    )  # fmt: skip


def _log(home: Path, pairs: int) -> int:
    home.mkdir()
    return click_log.make_log(Home(home), pairs=pairs, days=WINDOW)


def _rebuild(root: Path, last: int) -> None:
    """Everything that is not there yet for the window that ends on day `last` (from 0)."""
    from jobs import aggregate_day, build_corpus
    from jobs.plan import make_plan

    home = spilling_beside(root)
    plan = make_plan(home, click_log.FIRST + dt.timedelta(days=last))
    aggregate_day.run(home, [dt.date.fromisoformat(day) for day in plan.days])
    build_corpus.run(home, plan)
    home.spark.stop()


def _against_duckdb(size: str, folder: Path, ours: Usage, found: dict[str, Any]) -> Figure:
    home, out = Home(folder / "home"), folder / "peer"
    log = f"{home.store.path('click_log')}/*/*.parquet"
    catalog = f"{home.store.path('catalog')}/*.parquet"
    peer = apart(_peer, log, catalog, out, MEMORY[size])
    theirs = {name: _sum(name, f"read_parquet('{out}/{name}.parquet')") for name in TABLES}
    refused = duckdb.sql(f"SELECT count(*) FROM '{out}/quarantine.parquet'").fetchall()[0][0]
    theirs["quarantine"] = {"n": refused}
    if theirs != found:
        raise RuntimeError(f"The two corpora differ:\nours {found}\npeer {theirs}")
    note = f"The same counts and sums in {len(found)} tables: {found['pairs']['n']:,} pairs. NFC in DuckDB, NFKC here."
    return Figure(
        name="full rebuild of 30 days", ours=ours.seconds, peer=peer.seconds, peer_name="DuckDB", unit="s", limit=4.0,
        memory_gb=ours.memory_gb, peer_memory_gb=peer.memory_gb, disk_gb=ours.disk_gb, note=note,
    )  # fmt: skip


def _peer(log: str, catalog: str, out: Path, memory: str) -> None:
    corpus_peer.build(log, catalog, out, memory)


_SUMS = {
    "pair_days": "sum(impressions), sum(clicks), sum(carts), sum(purchases), sum(expected_clicks), sum(orphan_actions)",
    "query_days": "sum(searches)",
    "pairs": "sum(clicks), sum(carts), sum(purchases)",
    "queries": "sum(traffic), count(*) FILTER (band = 'head'), count(*) FILTER (band = 'tail')",
}


def _sum(name: str, source: str) -> dict[str, int]:
    row = duckdb.sql(f"SELECT count(*), {_SUMS[name]} FROM {source}").fetchall()[0]
    return {"n": int(row[0]), **{f"sum {at}": int(value) for at, value in enumerate(row[1:], start=1)}}


def _sums(root: Path) -> dict[str, Any]:
    store = Home(root).store
    found: dict[str, Any] = {}
    for name in TABLES:
        found[name] = _sum(name, live_files(store.path(name)))
    refused = duckdb.sql(f"SELECT count(*) FROM {live_files(store.path('quarantine'))}").fetchall()
    found["quarantine"] = {"n": int(refused[0][0])}
    return found


def _night(folder: Path, pairs: int, rebuild: Usage) -> Figure:
    """The night after: a day more of the log, and the window of 30 days that ends with it."""
    home, searches = Home(folder / "home"), _searches(pairs)
    _write_day(home, pairs, WINDOW, first=searches, count=searches // WINDOW, name="part-0")
    night = apart(_rebuild, home.root, WINDOW)
    return _of_rebuild("the next night", night, rebuild, limit=0.2)


def _late(folder: Path, pairs: int, rebuild: Usage) -> Figure:
    """A late file for an old day of that window."""
    home, searches = Home(folder / "home"), _searches(pairs)
    _write_day(home, pairs, 10, first=2 * searches, count=searches // WINDOW // 50, name="late")
    before = {name: _version(home, name) for name in ("pair_days", "query_days")}
    late = apart(_rebuild, home.root, WINDOW)
    touched = {tuple(part) for name, version in before.items() for part in _touched(home, name, version)}
    old_day = str(click_log.FIRST + dt.timedelta(days=10))
    if touched != {(old_day,)}:
        raise RuntimeError(f"A late file for {old_day} rewrote {sorted(touched)}.")
    note = f"Rewrote the partition {old_day} of the daily tables, no other."
    return _of_rebuild("a late file for an old day", late, rebuild, limit=None, note=note)


def _searches(pairs: int) -> int:
    return int(pairs / click_log.PAIRS_PER_SEARCH)


def _write_day(home: Home, pairs: int, number: int, *, first: int, count: int, name: str) -> None:
    day = {"queries": _searches(pairs) // 4, "items": click_log.items(pairs), "seed": 1}
    rows, action = click_log.write_day(home, number, first=first, last=first + count, name=name, **day)
    part = click_log.FIRST + dt.timedelta(days=number)
    click_log.commit(home, [action], {label({"event_date": part}): f"{name} {rows}"})


def _of_rebuild(name: str, used: Usage, rebuild: Usage, *, limit: float | None, note: str = "") -> Figure:
    return Figure(
        name=name, ours=used.seconds, unit="s", limit=limit, memory_gb=used.memory_gb, note=note, peer=rebuild.seconds,
        peer_name="full rebuild of 30 days", peer_memory_gb=rebuild.memory_gb,
    )  # fmt: skip


def _proof(home: Path, folder: Path, ours: Usage) -> Figure:
    """What a night and a late file left, against a rebuild from nothing of the same log."""
    fresh = _copied(home, folder / "again", "")
    used = apart(_rebuild, fresh.root, WINDOW)
    _check_equal(Home(home), fresh, WINDOW)
    return Figure(
        name="rebuild from nothing after a night and a late file", ours=used.seconds, peer=ours.seconds,
        peer_name="full rebuild of 30 days", unit="s", limit=None,
        note=f"The same {', '.join(TABLES)}, row for row, as the night and the late file left.",
    )  # fmt: skip


def _accelerated(root: Path, folder: Path, ours: Usage) -> Iterator[Figure]:
    """With a native accelerator, at the least of the full sizes: its own start does not count there any more."""
    home = _copied(root, folder / "comet", COMET)
    try:
        theirs = apart(_rebuild, home.root, WINDOW - 1)
    except RuntimeError as error:  # its jars are fetched when asked for; without them the other figures stand
        print(f"No figure for DataFusion Comet: {error}", flush=True)  # noqa: T201
        return
    _check_equal(Home(root), home, WINDOW - 1)
    yield Figure(
        name="full rebuild with DataFusion Comet", ours=theirs.seconds, peer=ours.seconds,
        peer_name="the same without", unit="s", limit=None, memory_gb=theirs.memory_gb,
        peer_memory_gb=ours.memory_gb, note="Ends with the same tables, row for row.",
    )  # fmt: skip


def _copied(root: Path, other: Path, settings: str) -> Home:
    """Another home over the same log and catalogue, with nothing computed yet."""
    (other / "tables").mkdir(parents=True)
    (other / "dsirm.toml").write_text(settings, encoding="utf-8")
    for name in ("click_log", "catalog"):
        (other / "tables" / name).symlink_to(Home(root).store.path(name), target_is_directory=True)
    return Home(other)


def _version(home: Home, name: str) -> int:
    return deltalake.DeltaTable(home.store.path(name)).version()


def _touched(home: Home, name: str, since: int) -> list[tuple[str, ...]]:
    """Partitions with files that a commit after version `since` added."""
    path = home.store.path(name)
    then = set(deltalake.DeltaTable(path, version=since).file_uris())
    fresh = [uri for uri in deltalake.DeltaTable(path).file_uris() if uri not in then]
    return [(uri.rsplit("event_date=", 1)[1].split("/")[0],) for uri in fresh]


def _check_equal(one: Home, other: Home, last: int) -> None:
    """Every table of the window that ends on day `last`, row for row."""
    end = click_log.FIRST + dt.timedelta(days=last)
    first = end - dt.timedelta(days=WINDOW - 1)
    for name in TABLES:
        within = f"event_date BETWEEN DATE '{first}' AND DATE '{end}'"
        when = within if name.endswith("_days") else f"as_of_date = DATE '{end}'"
        rows = [f"SELECT * FROM {live_files(home.store.path(name))} WHERE {when}" for home in (one, other)]
        for a, b in (rows, rows[::-1]):
            (differing,) = duckdb.sql(f"SELECT count(*) FROM ({a} EXCEPT ALL {b})").fetchall()[0]
            if differing:
                raise RuntimeError(f"{differing} rows of {name} differ from those of a rebuild from nothing.")


if __name__ == "__main__":
    main(sys.argv[1])
