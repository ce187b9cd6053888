"""What `dsirm maintain` removes, and what it leaves alone. Everything here is delta-rs: no Spark session."""

import datetime as dt
import json
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from jobs import maintain, releases
from jobs.errors import DataError
from jobs.home import Home
from jobs.readers import scan_release
from schemas.tables import TABLES

FIRST = dt.date(2026, 1, 1)
NAMES = [f"{FIRST + dt.timedelta(days=n)}-{n:08x}" for n in range(12)]


def night(home, release):
    """Tables, model and papers of a release, published."""
    day = dt.date.fromisoformat(release[:10])
    store = home.store
    store.target("sid_items", {"release": release}).replace(sids(release, range(3)), job="test")
    days = pa.table({"event_date": [day], "query_id": [1], "query": ["shoes"], "searches": [2]})
    store.target("query_days", {"event_date": day}).replace(days, job="test")
    query = {"as_of_date": day, "query_id": 1, "query": "shoes", "traffic": 2, "band": "head", "split": "train"}
    store.target("queries", {"as_of_date": day}).replace(pa.Table.from_pylist([query]), job="test")
    for folder in (home.artifact("ranker", release), home.artifact("quantizer", "codebook-1")):
        folder.mkdir(parents=True, exist_ok=True)
    rows = releases.history(store)
    seen = int(rows[-1]["sequence"]) if rows else 0
    for place in ("plans", "audits"):
        (home.root / place).mkdir(exist_ok=True)
        (home.root / place / f"{release}.json").write_text(json.dumps({"seen": seen}))
    times = dict.fromkeys(("event_time", "created_time"), releases.day_end(day))
    texts = {"encoder_version": "e", "codebook_version": "codebook-1", "generator_version": "g"}
    facts = {"inputs": {}, "metrics": {}, "code_revision": "abc", "config_hash": "def"}
    releases.publish(store, {"release": release, "as_of_date": day, **texts, **facts, **times}, seen=seen)


def sids(release, values):
    items = [["i1"]] * len(values)
    count = len(values)
    held = {"items": items, "size": [1] * count, "efficiency": [[0]] * count}
    return pa.table({"release": [release] * count, "sid": list(values), **held})


@pytest.fixture
def home(tmp_path):
    (tmp_path / "dsirm.toml").write_text("[retention]\nreleases = 3\ndaily_days = 5\n[corpus]\nwindow_days = 2\n")
    return Home(tmp_path)


@pytest.fixture
def full(home):
    """Twelve nights, the first release pinned after its night."""
    for number, release in enumerate(NAMES):
        night(home, release)
        if number == 0:
            releases.pin(home.store, release)
    return home


def test_the_newest_the_current_and_the_pinned_stay_and_the_others_go_whole(full):
    reader = deltalake.DeltaTable(full.store.path("sid_items"))
    told = maintain.run(full)
    keep = [NAMES[0], *NAMES[-3:]]
    assert told["releases"] == NAMES[1:-3]
    for release in keep:
        assert scan_release(full.root, "sid_items", release)["sid"].to_pylist() == [0, 1, 2]
    with pytest.raises(DataError, match="was removed"):
        scan_release(full.root, "sid_items", NAMES[1])
    for name, column in (("sid_items", "release"), ("queries", "as_of_date")):
        wanted = keep if column == "release" else [release[:10] for release in keep]
        assert [part[column] for part in full.store.partitions(name)] == wanted
    assert [part["event_date"] for part in full.store.partitions("query_days")] == [r[:10] for r in NAMES[-6:]]
    assert sorted(path.name for path in (full.root / "artifacts" / "ranker").iterdir()) == keep
    assert sorted(path.stem for path in (full.root / "plans").iterdir()) == keep
    assert full.artifact("quantizer", "codebook-1").is_dir()
    # Whoever opened the table before goes on reading what it held then.
    assert reader.to_pyarrow_table().num_rows == 3 * len(NAMES)


def test_the_items_that_a_kept_generator_learned_of_stay_though_their_release_goes(home):
    """What is new to a generator is told by the first release that it served."""
    item = {"item_id": "i", "item_hash": 1, "codes": [0, 0, 0], "sid": 0, "residual_norm": 0.0, "level1_by": "nearest"}
    item |= {"codebook_version": "c", **dict.fromkeys(("event_time", "created_time"), releases.day_end(FIRST))}
    for release in NAMES:
        night(home, release)
        rows = pa.Table.from_pylist([{"release": release, **item}], TABLES["item_sids"].arrow_schema())
        home.store.target("item_sids", {"release": release}).replace(rows, job="test")
    for _ in range(2):
        maintain.run(home)
        assert [part["release"] for part in home.store.partitions("item_sids")] == [NAMES[0], *NAMES[-3:]]
        assert [part["release"] for part in home.store.partitions("sid_items")] == NAMES[-3:]
    with pytest.raises(DataError, match="was removed"):
        scan_release(home.root, "item_sids", NAMES[0])


def test_a_pinned_release_reads_after_ten_more_when_every_dead_file_is_gone(full):
    before = scan_release(full.root, "sid_items", NAMES[0])
    files = set(Path(full.store.path("sid_items")).rglob("*.parquet"))
    maintain.run(full)
    assert sum(full.store.vacuum(name, hours=0) for name in TABLES if full.store.exists(name)) > 0
    assert len(set(Path(full.store.path("sid_items")).rglob("*.parquet")) & files) < len(files)
    assert scan_release(full.root, "sid_items", NAMES[0]).equals(before)
    assert releases.states(releases.history(full.store))[NAMES[0]] == "standing"


def test_a_second_run_removes_nothing_and_nothing_that_serves_changed(full):
    maintain.run(full)
    rows = releases.history(full.store)
    told = maintain.run(full)
    assert (told["releases"], told["partitions"], told["directories"]) == ([], {}, [])
    assert releases.history(full.store) == rows
    assert releases.current(full.store)["release"] == NAMES[-1]
    assert releases.roll_back(full.store, NAMES[-1]) == NAMES[-2]


def test_a_run_that_was_killed_after_it_said_what_goes_is_ended_by_the_next(full):
    releases.remove(full.store, NAMES[4])
    maintain.run(full)
    assert {"release": NAMES[4]} not in full.store.partitions("sid_items")
    assert releases.states(releases.history(full.store))[NAMES[4]] == "removed"


def test_a_dry_run_says_the_same_and_changes_nothing(full):
    before = {name: full.store.count(name) for name in TABLES}
    promised = maintain.run(full, dry_run=True)
    assert {name: full.store.count(name) for name in TABLES} == before
    done = maintain.run(full)
    assert {k: promised[k] for k in ("releases", "partitions", "directories")} == {
        k: done[k] for k in ("releases", "partitions", "directories")
    }


def test_a_release_that_is_being_made_stays_and_one_that_was_given_up_goes(full):
    made, given_up = "2026-01-13-000000aa", "2026-01-12-000000bb"
    for release, seen in ((made, releases.history(full.store)[-1]["sequence"]), (given_up, 3)):
        full.store.target("sid_items", {"release": release}).replace(sids(release, range(2)), job="test")
        versions = {"encoder_version": "e", "codebook_version": "c2", "generator_version": "g2"}
        plan = {"release": release, "as_of_date": release[:10], "seen": int(seen), **versions}
        (full.root / "plans" / f"{release}.json").write_text(json.dumps(plan))
    full.artifact("quantizer", "c2").mkdir(parents=True)
    maintain.run(full)
    held = {part["release"] for part in full.store.partitions("sid_items")}
    assert made in held
    assert given_up not in held
    assert full.artifact("quantizer", "c2").is_dir()


def test_before_the_first_release_nothing_goes(home):
    home.store.target("sid_items", {"release": NAMES[0]}).replace(sids(NAMES[0], range(2)), job="test")
    assert maintain.run(home)["partitions"] == {}
    assert home.store.count("sid_items") == 2


def test_current_and_pinned_releases_cannot_be_removed(full):
    for release in (NAMES[0], NAMES[-1]):
        with pytest.raises(DataError, match="current or pinned"):
            releases.remove(full.store, release)
