"""Making up for nights that did not run."""

import datetime as dt

import pytest

from jobs import backfill, releases
from jobs.aggregate_day import changed_days
from jobs.errors import DataError
from tests.marketplace import LAST_DAY, copy_home, versions

pytestmark = pytest.mark.slow
DAY_BEFORE = LAST_DAY - dt.timedelta(days=1)


def test_nights_run_oldest_first_and_again_changes_nothing(marketplace, tmp_path, spark):
    home = copy_home(marketplace, tmp_path / "home", spark)
    before = versions(home)
    promised = backfill.run(home, DAY_BEFORE, LAST_DAY, dry_run=True)
    assert versions(home) == before
    assert promised["days"] == [night["date"] for night in promised["nights"]] == [str(DAY_BEFORE), str(LAST_DAY)]

    done = backfill.run(home, DAY_BEFORE, LAST_DAY)
    made = [night["release"] for night in done["nights"]]
    assert [row["release"] for row in releases.history(home.store)] == made
    assert [release[:10] for release in made] == [str(DAY_BEFORE), str(LAST_DAY)]
    after = versions(home)
    again = backfill.run(home, DAY_BEFORE, LAST_DAY)
    assert (again["days"], versions(home)) == ([], after)
    assert [night["date"] for night in again["nights"]] == [str(LAST_DAY)], "no night older than what serves"


def test_a_day_before_the_current_release_is_counted_anew_and_nothing_older_published(market, first, tmp_path, spark):
    home = copy_home(market, tmp_path / "home", spark)
    home.store.target("pair_days", {"event_date": DAY_BEFORE}).replace(
        home.store.read_arrow("pair_days", {"event_date": DAY_BEFORE}).slice(0, 1), job="test"
    )
    done = backfill.run(home, DAY_BEFORE, DAY_BEFORE)
    assert (done["days"], done["nights"]) == ([str(DAY_BEFORE)], [])
    assert changed_days(home, [DAY_BEFORE]) == {}
    assert home.store.count("pair_days") == market.store.count("pair_days")
    assert releases.current(home.store)["release"] == first


def test_a_range_without_a_day_of_the_log_is_refused(market):
    with pytest.raises(DataError, match="no day from 2020-01-01 to 2020-01-02; it runs from 2026-01-30"):
        backfill.run(market, dt.date(2020, 1, 1), dt.date(2020, 1, 2))
