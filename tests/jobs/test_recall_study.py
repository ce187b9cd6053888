"""The recall study, end to end, on a tiny marketplace: every comparison and its numbers, nothing computed twice."""

import json
from pathlib import Path

import pytest

from dsirm_models.recall_chain import ARMS, VARIANTS
from dsirm_models.recall_data import RecallData
from jobs import recall_study, recall_study_world
from jobs.files import is_whole
from jobs.recall_study_work import CHANNELS
from jobs.recall_study_world import World, is_new

pytestmark = pytest.mark.slow

TINY = recall_study.QUICK._replace(
    world=World(seed=1, items=300, users=30, queries=80, days=3, later=1, train_requests=500, later_requests=100),
    codebook_sizes=(16, 4, 4),
    quantizer_steps=20,
    epochs=(1, 1, 1),
    align_steps=2,
    deep_requests=50,
    draws=50,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory, spark):
    return recall_study.Home(tmp_path_factory.mktemp("recall-study"))


@pytest.fixture(scope="module")
def found(home):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall_study, "QUICK", TINY)
        patch.setenv("DSIRM_STUDY__WORKERS", "2")
        yield recall_study.run(home, quick=True)


def root_of(home):
    return home.root / "recall-study-quick"


def whole(rows):
    return [row for row in rows if row["slice"] == row["against_slice"] == "all"]


def test_every_comparison_is_there_with_its_numbers(found, home):
    rows = json.loads((root_of(home) / "recall.json").read_text())
    assert rows == found["comparisons"]
    common = {"data", "variant", "against", "metric", "difference", "low", "high", "seeds", "queries"}
    assert all(common <= set(row) for row in rows)
    pairs = {(row["variant"], row["against"], row["metric"]) for row in whole(rows)}
    for other in ("rq-vae", "no-category", "no-contrast", "more-contrast"):
        beams = ("clk@1", "clk@10", "clk@100", "exp@10", "buy@1", "clk@10,1000items")
        for metric in (*beams, "clk@100items", "clk@1000items", "exp@100items"):
            assert ("cq-sid", other, metric) in pairs
    for arm in ARMS:
        assert {(arm, "sft", metric) for metric in ("clk@1", "clk@10", "exp@10")} <= pairs
    assert {("personalised", "cq-sid", "clk@1"), ("personalised", "nameless", "clk@1")} <= pairs
    assert {("cq-sid", channel, "clk@1000items") for channel in CHANNELS} <= pairs
    assert not [pair for pair in pairs if pair[1] in CHANNELS and not pair[2].endswith(("@100items", "@1000items"))]
    assert {("cq-sid", "rq-vae", f"equal_beam@{cut}") for cut in ("100", "100,1000items")} <= pairs
    growth = [row for row in rows if (row["slice"], row["against_slice"]) == ("items=new", "items=old")]
    assert {row["variant"] for row in growth} == {"cq-sid", "rq-vae", "personalised"}


def test_the_report_tells_what_is_found_beside_other_channels(found, home):
    (kept,) = (root_of(home) / "comparisons").iterdir()
    rows = json.loads(kept.read_text())["shared"]
    against = [*CHANNELS, " + ".join(CHANNELS)]
    assert [(row["variant"], row["against"]) for row in rows] == [
        (variant, name) for variant in ("cq-sid", "personalised") for name in against
    ]
    for row in rows:
        assert sum(row[part] for part in ("both", "ours", "theirs", "neither")) == pytest.approx(1, abs=1e-5)
    assert "Clicks found within 1,000 items" in (root_of(home) / "report.md").read_text()


def test_the_difference_is_that_of_the_rates_and_lists_come_with_their_length(found):
    for row in found["comparisons"]:
        if row["rate"] is not None and row["against_rate"] is not None:
            assert row["difference"] == pytest.approx(row["rate"] - row["against_rate"], abs=2e-6)
        if not row["metric"].startswith("equal_beam") and row["rate"] is not None:
            assert row["items"] > 0 and row["against_items"] > 0
    budget = [row for row in whole(found["comparisons"]) if row["metric"] == "clk@100items"]
    assert budget and all(row["items"] <= 100 and row["against_items"] <= 100 for row in budget)


def test_arms_go_on_from_the_personal_chain_of_their_seed(found, home):
    data = next((root_of(home) / "data").iterdir())
    settings = recall_study.settings_of(root_of(home), TINY)
    waves = recall_study.tasks(root_of(home), data, settings, TINY)
    done = [task for wave in waves.values() for task in wave]
    assert all(is_whole(task.found) for task in done)
    assert {task.variant for task in done} == {*VARIANTS, "personalised", *ARMS, *CHANNELS}
    for task in done:
        if task.variant in ARMS:
            (start,) = [other for other in done if (other.variant, other.seed) == ("personalised", task.seed)]
            (base,) = [other for other in done if (other.variant, other.seed) == ("cq-sid", task.seed)]
            assert task.start == start.out and task.base == start.base == base.out


def test_new_items_are_in_nothing_that_is_learned_and_are_asked_for(found, home):
    data = RecallData.load(next((root_of(home) / "data").iterdir()))
    new = is_new(data.item_hash)
    assert new.any() and (data.item_new == new).all()
    assert not new[data.pair_item].any() and not new[data.train.entry_item].any()
    assert data.item_clicks.sum() >= len(data.pair_item) // 2 and not data.item_clicks[new].any()
    for requests in (data.train, data.later):
        assert not new[requests.latest[requests.latest >= 0]].any()
    assert new[data.later.entry_item].any()
    assert (data.later.latest >= 0).any()


def test_a_second_run_computes_nothing(found, home, monkeypatch):
    def kept():
        files = [path for path in root_of(home).rglob("*") if path.is_file() and path.parent != root_of(home)]
        return {path: path.stat().st_mtime_ns for path in files}

    def texts():
        return [(root_of(home) / name).read_bytes() for name in ("recall.json", "report.md")]

    def never(*arguments, **named):
        raise AssertionError("the marketplace is made twice")

    before, said = kept(), texts()
    monkeypatch.setattr(recall_study, "QUICK", TINY)
    monkeypatch.setattr(recall_study_world, "make_data", never)
    monkeypatch.setattr(recall_study, "make_data", never)
    assert recall_study.run(home, quick=True)["comparisons"] == found["comparisons"]
    assert kept() == before and texts() == said
    assert not list(Path(root_of(home)).glob("world-*")), "the tables of the marketplace are not kept"
