"""The history of releases. Everything here is delta-rs: no Spark session."""

import datetime as dt

import pytest

from jobs import releases
from jobs.errors import DataError
from jobs.storage import Store

A, B, C, D = (f"2026-01-0{day}-0000000{day}" for day in range(1, 5))


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "tables"))


def row(release):
    day = dt.date.fromisoformat(release[:10])
    return {
        "release": release,
        "as_of_date": day,
        "encoder_version": "encoder-1",
        "codebook_version": f"codebook-{day.day}",
        "generator_version": "generator-1",
        "inputs": {"click_log/event_date=2026-01-01": "2-ab"},
        "code_revision": "abc",
        "config_hash": "def",
        "metrics": {"auc": 0.75},
        "event_time": releases.day_end(day),
        "created_time": releases.day_end(day),
    }


def publish(store, *names, **how):
    for name in names:
        last = releases.history(store)
        releases.publish(store, row(name), seen=last[-1]["sequence"] if last else 0, **how)


def serving(store):
    found = releases.current(store)
    return found and found["release"]


def standing(store):
    return releases.states(releases.history(store))


def test_nothing_is_current_at_first(store):
    assert releases.history(store) == []
    assert releases.current(store) is None
    assert standing(store) == {}


def test_the_last_published_serves_with_all_that_belongs_to_it(store):
    publish(store, A, B)
    found = releases.current(store)
    expected = row(B)
    assert {key: dict(found[key]) if isinstance(expected[key], dict) else found[key] for key in expected} == expected
    assert (found["sequence"], found["state"]) == (2, "published")
    assert standing(store) == {A: "standing", B: "current"}


def test_publishing_what_is_current_changes_nothing(store):
    publish(store, A)
    assert releases.publish(store, row(A), seen=1) is False
    assert len(releases.history(store)) == 1


def test_publishing_on_a_history_that_moved_on_fails_and_writes_nothing(store):
    publish(store, A)
    for seen in (0, 2):
        with pytest.raises(DataError, match="plans and audits anew"):
            releases.publish(store, row(B), seen=seen)
    assert standing(store) == {A: "current"}


def test_a_pin_during_the_night_does_not_stop_it_and_a_rollback_does(store):
    publish(store, A, B)
    releases.pin(store, A)
    assert releases.publish(store, row(C), seen=2)
    assert standing(store) == {A: "standing", B: "standing", C: "current"}
    releases.roll_back(store, C)
    with pytest.raises(DataError, match="plans and audits anew"):
        releases.publish(store, row(D), seen=4)
    assert standing(store) == {A: "standing", B: "current", C: "rolled_back"}


def test_rolling_back_the_current_one_brings_the_one_before(store):
    publish(store, A, B, C)
    assert releases.roll_back(store, C) == B
    assert releases.current(store)["codebook_version"] == "codebook-2"
    assert standing(store) == {A: "standing", B: "current", C: "rolled_back"}
    assert releases.roll_back(store, A) == A
    assert standing(store) == {A: "current", B: "rolled_back", C: "rolled_back"}


def test_going_back_again_after_a_lost_reply_withdraws_nothing_more(store):
    publish(store, A, B, C)
    for _ in range(2):
        assert releases.roll_back(store, B) == B
    releases.pin(store, C)
    assert releases.roll_back(store, B) == B
    assert standing(store) == {A: "standing", B: "current", C: "rolled_back"}


def test_the_only_release_cannot_be_rolled_back(store):
    publish(store, A)
    with pytest.raises(DataError, match="nothing to go back to"):
        releases.roll_back(store, A)


def test_an_older_day_takes_the_place_of_a_newer_one_only_when_told_so(store):
    publish(store, B)
    with pytest.raises(DataError, match=f"{A} is older than {B}, which serves.*--again"):
        publish(store, A)
    assert serving(store) == B
    publish(store, A, again=True)
    assert serving(store) == A


def test_rolling_back_to_an_older_one_withdraws_all_that_came_after(store):
    publish(store, A, B, C)
    assert releases.roll_back(store, A) == A
    assert standing(store) == {A: "current", B: "rolled_back", C: "rolled_back"}
    publish(store, D)
    assert releases.roll_back(store, D) == A, "a release that was rolled back is never gone back to"


def test_what_was_rolled_back_comes_back_only_when_told_so(store):
    publish(store, A, B)
    releases.roll_back(store, B)
    with pytest.raises(DataError, match="--again"):
        publish(store, B)
    with pytest.raises(DataError, match="rolled back already"):
        releases.roll_back(store, B)
    assert serving(store) == A
    publish(store, B, again=True)
    assert standing(store) == {A: "standing", B: "current"}
    assert releases.roll_back(store, B) == A


def test_a_pin_keeps_a_release_and_changes_nothing_else(store):
    publish(store, A, B)
    releases.pin(store, A)
    assert releases.pinned(releases.history(store)) == {A}
    assert standing(store) == {A: "standing", B: "current"}
    releases.roll_back(store, B)
    assert releases.pinned(releases.history(store)) == {A}
    assert [r["state"] for r in releases.history(store)] == ["published", "published", "pinned", "rolled_back"]
    assert [r["sequence"] for r in releases.history(store)] == [1, 2, 3, 4]


@pytest.mark.parametrize("command", [releases.pin, releases.roll_back])
def test_an_unknown_release_is_answered_with_the_known_ones(store, command):
    with pytest.raises(DataError, match="Published: none yet"):
        command(store, D)
    publish(store, A, B)
    with pytest.raises(DataError, match=f"no published release {D}. Published: {B}, {A}"):
        command(store, D)
    assert len(releases.history(store)) == 2


def test_a_day_ends_at_midnight_utc():
    assert releases.day_end(dt.date(2026, 2, 28)) == dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
