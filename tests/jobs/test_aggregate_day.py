"""Aggregating a long list of days: some at a time, and none twice."""

import datetime as dt

import pytest

from jobs import aggregate_day
from jobs.errors import ConcurrentWrite
from pipelines import clicks
from tests.marketplace import LAST_DAY, copy_home

pytestmark = pytest.mark.slow
DAYS = [LAST_DAY - dt.timedelta(days=1), LAST_DAY]
TABLES = ("pair_days", "query_days", "quarantine")


def contents(home):
    return {name: sorted(map(str, home.store.read_arrow(name).to_pylist())) for name in TABLES}


def commits(home):
    return [commit.metadata["partitions"] for commit in home.store.commits("pair_days")]


class Killed(Exception):
    pass


def before_day(number, act, monkeypatch):
    """One day at a time, and `act` before the number-th of them."""
    clean, passes = clicks.clean_events, []

    def acting(log, **options):
        passes.append(log)
        if len(passes) == number:
            act()
        return clean(log, **options)

    monkeypatch.setattr(aggregate_day, "LOG_BYTES_A_CORE", 1)
    monkeypatch.setattr(clicks, "clean_events", acting)


def test_a_run_killed_between_days_goes_on_with_the_next_and_ends_as_one_run_over_all(
    marketplace, tmp_path, spark, monkeypatch
):
    whole, apart = (copy_home(marketplace, tmp_path / name, spark) for name in ("whole", "apart"))
    aggregate_day.run(whole, DAYS)
    assert len(commits(whole)) == 1, "a short log is aggregated at once"

    def kill():
        raise Killed

    before_day(2, kill, monkeypatch)
    with pytest.raises(Killed):
        aggregate_day.run(apart, DAYS)
    assert list(aggregate_day.changed_days(apart, DAYS)) == [LAST_DAY]
    aggregate_day.run(apart, DAYS)
    assert commits(apart) == [[f"event_date={day}"] for day in reversed(DAYS)]
    assert contents(apart) == contents(whole)


def test_a_day_that_another_run_wrote_before_its_turn_is_left_to_that_run(marketplace, tmp_path, spark, monkeypatch):
    home = copy_home(marketplace, tmp_path / "home", spark)

    def overtake():
        empty = home.store.read_arrow("pair_days").slice(0, 0)
        home.store.target("pair_days", {"event_date": LAST_DAY}).replace(empty, job="another", memo="another's")

    before_day(1, overtake, monkeypatch)
    with pytest.raises(ConcurrentWrite, match=f"pair_days event_date={LAST_DAY}"):
        aggregate_day.run(home, DAYS)
    assert home.store.memos("pair_days")[f"event_date={LAST_DAY}"] == "another's"
    assert home.store.count("pair_days") > 0, "the day before was this run's"
