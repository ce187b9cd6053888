"""A person asks to be forgotten."""

import json

import pytest

from jobs import aggregate_day, forget
from jobs.aggregate_day import changed_days
from jobs.errors import DataError
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


def test_one_person_is_named_at_a_time(home):
    for both in ({}, {"user": "a", "known_as": "b"}):
        with pytest.raises(DataError, match="Name one person"):
            forget.run(home, **both)
