"""What the audit refuses, and what it leaves behind for whoever has to find out why."""

import dataclasses
import datetime as dt

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs import audit, releases
from jobs.errors import AuditFailed, DataError
from jobs.home import Home
from jobs.plan import load_plan
from tests.marketplace import LAST_DAY, copy_home

pytestmark = pytest.mark.slow


@pytest.fixture
def audited(market, first, tmp_path, spark):
    """A copy of the published home whose release has still to be audited, and its plan."""
    home = copy_home(market, tmp_path / "home", spark)
    (home.root / "audits" / f"{first}.json").unlink()
    return home, load_plan(home, first)


def change(home, name, part, column, values):
    rows = home.store.read_arrow(name, part)
    place = rows.schema.get_field_index(column)
    changed = rows.set_column(place, rows.schema.field(column), values(rows[column]))
    home.store.target(name, part).replace(changed, job="test")


def test_rows_that_break_a_contract_are_named_and_kept_and_a_sound_release_clears_them(audited, first):
    home, plan = audited
    part = {"release": first}
    sound = home.store.read_arrow("item_sids", part)
    change(home, "item_sids", part, "residual_norm", lambda norm: pa.array([-1.0, *norm.to_pylist()[1:]], pa.float32()))
    with pytest.raises(AuditFailed, match=r"item_sids: expect_column_values_to_be_between .*residual_norm"):
        audit.run(home, plan)
    kept = home.store.read_arrow("quarantine", {"run_date": LAST_DAY, "job": "audit"}).to_pylist()
    assert [(row["source"], row["reason"]) for row in kept] == [("item_sids", "not so: residual_norm in [0, ∞]")]
    assert f'"item_id":"{sound["item_id"][0]}"' in kept[0]["row"]
    assert "residual_norm" in (home.root / "audits" / first / "item_sids.html").read_text()

    home.store.target("item_sids", part).replace(sound, job="test")
    audit.run(home, plan)
    assert home.store.count("quarantine", {"run_date": LAST_DAY, "job": "audit"}) == 0
    assert releases.current(home.store)["release"] == first


def test_a_day_with_far_fewer_searches_than_the_days_before_is_refused(audited):
    home, plan = audited
    before = [LAST_DAY - dt.timedelta(days=n) for n in (1, 2, 3)]
    rows = home.store.read_arrow("query_days", {"event_date": LAST_DAY})
    for day in before:
        many = rows.set_column(0, rows.schema.field(0), pa.array([day] * len(rows), pa.date32()))
        many = many.set_column(3, rows.schema.field(3), pc.multiply(rows["searches"], 10))
        home.store.target("query_days", {"event_date": day}).replace(many, job="test")
    longer = dataclasses.replace(plan, days=tuple(map(str, [*reversed(before), LAST_DAY])))
    with pytest.raises(AuditFailed, match=r"gate volume: 0\.1000, limit 0\.3000"):
        audit.run(home, longer)
    assert "volume" not in audit.figures(home, plan), "two days say nothing of a trend"


def test_an_audit_beside_a_release_that_does_not_serve_any_more_is_made_anew(audited, first):
    home, plan = audited
    audit.run(home, plan)
    assert audit.passed(home, first)
    serving = releases.current(home.store)
    next_one = {**serving, "release": "2026-02-01-00000000", "inputs": list(dict(serving["inputs"]).items())}
    releases.pin(home.store, first)
    releases.publish(home.store, next_one, seen=serving["sequence"])
    with pytest.raises(DataError, match="Another release serves"):
        audit.passed(home, first)
    assert audit.passed(home, first, whenever=True), "told to publish it again"
    audit.run(home, plan)
    assert audit.passed(home, first)


def test_a_release_of_which_nothing_was_judged_may_have_no_ranker_metrics(audited, first):
    home, plan = audited
    part = {"release": first}
    none = home.store.read_arrow("ranker_metrics", part).slice(0, 0)
    home.store.target("ranker_metrics", part).replace(none, job="test")
    audit.run(home, plan)
    assert audit.passed(home, first).keys() >= {"items"}
    assert "auc_dsirm" not in audit.passed(home, first)


def test_a_release_whose_coverage_was_not_measured_is_told_what_to_run(audited, first):
    home, plan = audited
    part = {"release": first}
    none = home.store.read_arrow("sid_coverage", part).slice(0, 0)
    home.store.target("sid_coverage", part).replace(none, job="test")
    with pytest.raises(DataError, match=f"run `dsirm measure-coverage --release {first}`"):
        audit.run(home, plan)


def test_a_damaged_outcome_is_named(audited, first):
    home, plan = audited
    path = home.root / "audits" / f"{first}.json"
    for body in ("", "{}", '{"seen": 1, "metrics": 3}'):
        path.write_text(body)
        for look in (lambda: audit.run(home, plan), lambda: audit.passed(home, first)):
            with pytest.raises(DataError, match="is damaged: delete it"):
                look()


def test_a_catalogue_that_shrank_and_a_ranker_that_nobody_judged_any_more_miss_their_gates(tmp_path):
    shares = ("item_coverage", "query_coverage", "traffic_coverage", "utilisation_1", "utilisation_2", "utilisation_3")
    found = dict.fromkeys(shares, 1.0) | {"largest_bucket": 0.0}
    home = Home(tmp_path)
    found |= {"items": 70.0, "pairs_in_catalogue": 0.5}
    assert audit.broken_gates(home, found, {"items": 100.0}) == []
    apart = audit.broken_gates(home, found | {"pairs_in_catalogue": 0.4}, {})
    assert apart == ["gate pairs_in_catalogue: 0.4000, limit 0.5000"], "log and catalogue name items differently"
    assert audit.broken_gates(home, found, {"items": 101.0}) == ["gate items: 70.0000, limit 70.7000"]
    (told,) = audit.broken_gates(home, found, {"auc_dsirm": 0.8})
    assert told.startswith("gate auc_dsirm: 0.0000, limit 0.7")
