"""Aggregating a long list of days: some at a time, and none twice."""

import datetime as dt

import pytest

from jobs import aggregate_day
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


def test_a_run_killed_between_days_goes_on_with_the_next_and_ends_as_one_run_over_all(
    marketplace, tmp_path, spark, monkeypatch
):
    whole, apart = (copy_home(marketplace, tmp_path / name, spark) for name in ("whole", "apart"))
    aggregate_day.run(whole, DAYS)
    assert len(commits(whole)) == 1, "a short log is aggregated at once"

    clean, passes = clicks.clean_events, []

    def once(log, **options):
        passes.append(log)
        if len(passes) == 2:
            raise Killed
        return clean(log, **options)

    monkeypatch.setattr(aggregate_day, "LOG_BYTES_A_CORE", 1)
    monkeypatch.setattr(clicks, "clean_events", once)
    with pytest.raises(Killed):
        aggregate_day.run(apart, DAYS)
    assert list(aggregate_day.changed_days(apart, DAYS)) == [LAST_DAY]
    aggregate_day.run(apart, DAYS)
    assert commits(apart) == [[f"event_date={day}"] for day in reversed(DAYS)]
    assert contents(apart) == contents(whole)
