"""A person asks to be forgotten."""

import json

import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from jobs import aggregate_day, forget, sources
from jobs.aggregate_day import changed_days
from jobs.errors import ConcurrentWrite, DataError
from schemas.tables import TABLES
from tests.marketplace import LAST_DAY, copy_home

pytestmark = pytest.mark.slow


@pytest.fixture
def home(marketplace, tmp_path, spark):
    return copy_home(marketplace, tmp_path / "home", spark)


def test_no_row_and_no_file_keeps_the_person_and_only_their_days_change(home):
    aggregate_day.run(home, [LAST_DAY])
    log = home.store.read_arrow("click_log").to_pylist()
    person = min(row["user"] for row in log if row["user"] and row["event_date"] == LAST_DAY)
    others = [row for row in log if row["user"] != person]
    profiles = home.store.count("users")

    told = forget.run(home, known_as=person)

    assert told["rows"]["click_log"] == len(log) - len(others)
    key = repr
    assert sorted(home.store.read_arrow("click_log").to_pylist(), key=key) == sorted(others, key=key)
    assert home.store.count("users") == profiles - told["rows"]["users"]
    for path in (home.root / "tables").rglob("*"):
        assert not path.is_file() or person.encode() not in path.read_bytes(), path
    for name in TABLES:
        assert person not in repr(home.store.read_arrow(name).to_pylist())
    assert list(changed_days(home, [LAST_DAY])) == [LAST_DAY]
    (record,) = (home.root / forget.RECORD).read_text().splitlines()
    assert json.loads(record)["rows"] == told["rows"]
    assert person not in record
    # Again: nothing is left to remove.
    assert set(forget.run(home, known_as=person)["rows"].values()) == {0}


def test_the_id_of_the_source_is_enough(home):
    before = home.store.count("users")
    assert forget.run(home, user="customer-3")["rows"]["users"] == 1
    assert home.store.count("users") == before - 1


@pytest.mark.parametrize(
    ("user", "as_ascii"), [("zoë@example.org", True), ("zoë@example.org", False), ('o"neil', False)]
)
def test_an_unreadable_record_goes_however_it_writes_the_id(home, user, as_ascii):
    day = {"run_date": LAST_DAY, "job": "import-ubi"}
    cut = f'{{"client_id": {json.dumps(user, ensure_ascii=as_ascii)}, "action'
    names = {**day, "source": "click_log", "reason": "the record is not a JSON object"}
    records = [{**names, "row": json.dumps({"value": text}, ensure_ascii=False)} for text in (cut, '{"client_id": "zo')]
    rows = pa.Table.from_pylist(records, schema=TABLES["quarantine"].arrow_schema())
    home.store.target("quarantine", day).replace(rows, job="import-ubi")
    assert forget.run(home, user=user)["rows"]["quarantine"] == 1
    (left,) = home.store.read_arrow("quarantine", day)["row"].to_pylist()
    assert json.loads(left) == {"value": '{"client_id": "zo'}


def test_an_import_that_began_before_does_not_bring_the_person_back(home, monkeypatch):
    def late():
        return home.store.read(home.spark, "click_log").withColumn("event_id", F.concat("event_id", F.lit("-late")))

    person = late().agg(F.min("user")).first()[0]
    look = sources.fingerprints

    def forgotten_meanwhile(rows, columns):
        found = look(rows, columns)
        found = home.spark.createDataFrame(found.collect(), found.schema)
        forget.run(home, known_as=person)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(sources, "fingerprints", forgotten_meanwhile)
        with pytest.raises(ConcurrentWrite, match="came between"):
            sources.add_events(home, late(), job="import-ubi")
    left = home.store.read_arrow("click_log")
    assert person not in left["user"].to_pylist()
    sources.add_events(home, late(), job="import-ubi")
    assert home.store.count("click_log") == 2 * len(left)


def test_one_person_is_named_at_a_time(home):
    for both in ({}, {"user": "a", "known_as": "b"}):
        with pytest.raises(DataError, match="Name one person"):
            forget.run(home, **both)
