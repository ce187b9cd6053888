"""CQ-SID's progressive training: four jobs, each with a model of its own that goes on from the one before."""

import dataclasses
import shutil
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from dsirm_models.beam import beam_search
from dsirm_models.embedded_generator import EmbeddedGenerator
from dsirm_models.generators import load_generator
from dsirm_models.sid_index import SidIndex
from jobs import (
    align_generator,
    finetune_generator,
    generator_stages,
    personalise_generator,
    pretrain_generator,
    searches,
)
from jobs.aggregate_day import planned_days
from jobs.errors import DataError
from jobs.generators import load_checked, query_inputs, release_sids
from jobs.plan import load_plan, make_plan
from jobs.requests import fields_of, request_inputs, user_fields
from jobs.searches import load_searches
from schemas.text import text_hash
from tests.dsirm_models import test_causal_lm_generator as lm
from tests.jobs import shop

JOBS = (pretrain_generator, finetune_generator, personalise_generator, align_generator)
PLAN = shop.plan_of()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The shop after the four stages, and after the first two."""
    home = shop.fill(tmp_path_factory.mktemp("stages") / "home")
    for job in JOBS:
        job.run(home, PLAN)
    return home


def copy(home, root):
    shutil.copytree(home.root, root)
    return type(home)(root)


def asked(home, user=None, day=shop.DAYS[-1], queries=shop.QUERIES):
    """Queries of one user on one day, as inputs of the trained generators."""
    texts = home.store.read_arrow("queries", columns=["query_id", "query"])
    ids = [text_hash(query) for query in queries]
    requests = {"query_id": ids, "user": pa.array([user] * len(ids), pa.string()), "event_date": [day] * len(ids)}
    return request_inputs(home, PLAN, query_inputs(home, PLAN, texts), pa.table(requests), fields_of(home, PLAN))


def stage(home, name):
    return load_generator(home.artifact("generator", PLAN.stages[name]))


def first_brands(home, generator, user):
    """Brand of the first SID of every query, asked by a user."""
    _, _, existing = release_sids(home.store, shop.RELEASE, shop.CODEBOOK)
    inputs = asked(home, user)
    rows = np.arange(len(shop.QUERIES))
    found = beam_search(generator, SidIndex(existing), inputs.take(rows, generator.backend), 1)
    assert (found.sids[:, 0] >> 40).tolist() == [shop.CATEGORIES.index(shop.category_of(q)) for q in shop.QUERIES]
    return found.sids[:, 0] >> 20 & 1023


def test_every_stage_keeps_its_model_and_says_what_it_went_through(trained):
    names = list(generator_stages.JOBS)
    for place, name in enumerate(names):
        meta = stage(trained, name).meta
        assert meta["stages"] == {name: PLAN.stages[name] for name in names[: place + 1]}
        assert meta["codebook_version"] == shop.CODEBOOK
        assert (trained.scratch("generator", PLAN.stages[name]) / "checkpoints").is_dir()
        assert ("users" in meta) == (place > 1)
    weights = [stage(trained, name).state_dict() for name in names]
    assert all(not np.array_equal(a["read.weight"], b["read.weight"]) for a, b in pairwise(weights))
    before = {path: path.stat().st_mtime_ns for path in trained.root.rglob("*") if path.is_file()}
    for job in JOBS:
        job.run(trained, PLAN)
        job.run(trained, shop.plan_of(fit=False))
    after = {path: path.stat().st_mtime_ns for path in trained.root.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path) and ".locks" not in path.parts} == set()


def test_without_stages_only_the_one_step_trains(tmp_path):
    single = shop.plan_of(stages=())
    home = shop.fill(tmp_path / "home", shop.SETTINGS.replace('stages = ["items", "queries", "users", "align"]', ""))
    for job in JOBS:
        job.run(home, single)
    assert [path.name for path in (home.root / "artifacts/generator").iterdir()] == ["generator-single"]
    assert "stages" not in load_generator(home.artifact("generator", "generator-single")).meta


def test_users_get_what_they_like_and_a_query_alone_is_read_as_before(trained):
    for name in ("users", "align"):
        generator = stage(trained, name)
        hits = [np.mean(first_brands(trained, generator, user) == shop.brand_of(user)) for user in shop.USERS]
        assert np.mean(hits) > 0.9, name
        rows = np.arange(len(shop.QUERIES))
        nobody = asked(trained).take(rows, "embedded")
        vectors = nobody[:, : generator.embedding_dim]
        assert not nobody[:, generator.embedding_dim :].any()
        np.testing.assert_array_equal(
            generator.encode(lm.torch.tensor(nobody)).detach(), generator.encode(lm.torch.tensor(vectors)).detach()
        )


def test_alignment_tells_tensorboard_what_it_earns(trained):
    from tests.dsirm_models.test_train_eg_grpo import figures

    told = figures(trained.scratch("generator", PLAN.stages["align"]) / "tensorboard")
    parts = [told[f"reward/{name}"] for name in ("acted", "exposed", "valid", "invalid")]
    assert np.allclose(np.sum(parts, axis=0), 1)
    assert max(told["reward/acted"]) > 0
    assert max(told["reward/exposed"]) > 0
    for tag in ("groups/flat", "policy/entropy", "policy/distinct", "policy/kl", "reward/mean"):
        assert len(told[tag]) == 6


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_stage_that_was_killed_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch, place):
    class Killed(Exception):
        pass

    @contextmanager
    def killed_at_last_but_one(_):
        def advance(done, steps):
            if done == steps - 1:
                raise Killed

        yield advance

    home, name = copy(trained, tmp_path / "home"), list(generator_stages.JOBS)[place]
    for folder in (home.artifact, home.scratch):
        shutil.rmtree(folder("generator", PLAN.stages[name]))
    with monkeypatch.context() as patched:
        patched.setattr(generator_stages, "progress", killed_at_last_but_one)
        with pytest.raises(Killed):
            JOBS[place].run(home, PLAN)
    assert not home.artifact("generator", PLAN.stages[name]).exists()
    JOBS[place].run(home, PLAN)
    whole, resumed = stage(trained, name).state_dict(), stage(home, name).state_dict()
    assert all(np.array_equal(value, resumed[key]) for key, value in whole.items())


def test_a_refit_goes_on_from_the_last_stage_of_the_release_before(trained, tmp_path):
    home = copy(trained, tmp_path / "home")
    for name, parent in (("scratch", None), ("refit", PLAN.generator_version)):
        later = dataclasses.replace(PLAN, stages={"items": name, "queries": "-"}, parent_generator=parent)
        pretrain_generator.run(home, later)
    scratch, refit = (
        EmbeddedGenerator.load(home.artifact("generator", name)).state_dict() for name in ("scratch", "refit")
    )
    first = stage(home, "items").state_dict()
    assert all(np.array_equal(value, scratch[key]) for key, value in first.items())
    # Titles name no users: their layer stays behind, and all else is learned on.
    assert (
        refit.keys()
        == scratch.keys()
        == stage(home, "align").state_dict().keys() - {"who.read.weight", "who.add.weight"}
    )
    assert not np.array_equal(refit["read.weight"], scratch["read.weight"])


def test_a_stage_is_named_by_all_before_it_and_by_nothing_after(trained, tmp_path, monkeypatch):
    home = copy(trained, tmp_path / "home")
    for day in shop.DAYS:
        mine = [row for row in shop.log_of(shop.searches()) if row["event_date"] == day]
        shop.put(home, "click_log", mine, {"event_date": day}, mark=f"log of {day}")

    def planned_with(**environment):
        with monkeypatch.context() as changed:
            for name, value in environment.items():
                changed.setenv(f"DSIRM_{name}", value)
            opened = type(home)(home.root)
            plan = make_plan(opened)
            assert load_plan(opened, plan.release) == plan
            return plan

    names, plan = list(generator_stages.JOBS), planned_with()
    assert plan.generator_version == plan.stages["align"]
    for stage, first in (("items", 0), ("users", 2), ("align", 3)):
        other = planned_with(**{f"STAGE_{stage.upper()}__LR": "0.5"})
        assert [other.stages[name] == plan.stages[name] for name in names] == [place < first for place in range(4)]
        assert (other.release == plan.release, other.codebook_version == plan.codebook_version) == (False, True)
    shop.put(home, "users", home.store.read_arrow("users").to_pylist()[1:], mark="fewer users")
    assert planned_with().generator_version != plan.generator_version
    # Without stages neither their sections nor the users say anything.
    single = planned_with(GENERATOR__STAGES="[]")
    assert single.stages == {}
    assert "users" not in single.inputs
    assert planned_with(GENERATOR__STAGES="[]", STAGE_USERS__LR="0.5") == single
    assert single.corpus_memo == plan.corpus_memo


# Requests ---------------------------------------------------------------------------------------------------------


def test_no_click_of_the_querys_day_or_later_is_read(trained, tmp_path):
    """What a request reads of its user is the same whether they clicked anything on its day and after, or nothing."""
    home = copy(trained, tmp_path / "home")
    part = {"as_of_date": shop.DAYS[-1]}
    for day in shop.DAYS:
        rows = shop.searches()
        shop.put(home, "user_profiles", shop.profiles(rows), part, memo=PLAN.corpus_memo)
        whole = [asked(home, user, day).recent for user in shop.USERS]
        past = [row for row in rows if row["event_date"] < day]
        shop.put(home, "user_profiles", shop.profiles(past), part, memo=PLAN.corpus_memo)
        np.testing.assert_array_equal(whole, [asked(home, user, day).recent for user in shop.USERS])
        clicked = {user: {r["item_hash"] for r in past if r["user"] == user and r["clicks"]} for user in shop.USERS}
        for user, recent in zip(shop.USERS, whole, strict=True):
            known = {shop.sid_of(item) for item in shop.ITEMS if text_hash(item) in clicked[user]}
            assert set(recent[recent >= 0].tolist()) <= known
    assert np.array(whole).max() > 0, "nobody had a history"


def test_the_training_requests_read_the_past_alone_and_no_query_of_the_test_split(trained):
    found = load_searches(trained, PLAN, fields_of(trained, PLAN), shown=True)
    asked_for = {text_hash(query): query for query in shop.QUERIES}
    requests = {}
    for row in shop.searches():
        if not asked_for[row["query_id"]].startswith("pink"):  # the test split
            requests.setdefault((row["event_date"], row["user"], row["query_id"]), []).append(row)
    # Those that led to something, in order of day and user, each with the items that were shown.
    requests = {key: rows for key, rows in requests.items() if any(row["clicks"] for row in rows)}
    texts = [found.inputs.queries.texts[row] for row in found.inputs.query_row]
    assert texts == [asked_for[key[2]] for key in sorted(requests)]
    assert len(found.sids) == sum(map(len, requests.values()))
    acted = sum(row["clicks"] for rows in requests.values() for row in rows)
    assert found.acted.sum() == acted < len(found.acted)
    assert {texts[row] for row in found.request[~found.train]} == {"grey ring"}
    first = sum(day == shop.DAYS[0] for day, _, _ in requests)
    assert (found.inputs.recent[:first] == -1).all(), "on the first day nobody has a past"
    assert (found.inputs.recent[first:, 0] >= 0).any()
    only = load_searches(trained, PLAN, fields_of(trained, PLAN), shown=False)
    assert only.acted.all() and len(only.acted) == acted


def test_of_too_many_requests_some_are_drawn_whole_and_always_the_same(trained, monkeypatch):
    def drawn():
        found = load_searches(trained, PLAN, fields_of(trained, PLAN), shown=True)
        return len(found.inputs.query_row), found.inputs.query_row[found.request].tolist(), found.sids.tolist()

    count = drawn()[0]
    sizes = Counter((row["event_date"], row["user"], row["query_id"]) for row in shop.searches())
    assert len(set(sizes.values())) == 1, "the shop shows every request as many items"
    monkeypatch.setattr(searches, "MOST", count // 3)
    fewer, rows, sids = drawn()
    assert fewer == count // 3
    assert len(sids) == fewer * max(sizes.values()), "every row of a request, or none"
    assert drawn() == (fewer, rows, sids)


def test_queries_that_are_withheld_are_not_learned_from(trained, tmp_path):
    home = copy(trained, tmp_path / "home")
    part = {"as_of_date": shop.DAYS[-1]}
    kept = home.store.read_arrow("queries").to_pylist()
    shop.put(home, "queries", [row for row in kept if row["query"] != "red lamp"], part, memo=PLAN.corpus_memo)
    found = load_searches(home, PLAN, fields_of(home, PLAN), shown=False)
    assert "red lamp" not in {found.inputs.queries.texts[row] for row in found.inputs.query_row}


def test_who_is_not_known_asks_the_query_alone(trained, tmp_path):
    rows = np.arange(len(shop.QUERIES))
    alone = asked(trained)
    for inputs in (asked(trained, ""), asked(trained, "nobody-ever-heard-of")):
        np.testing.assert_array_equal(inputs.take(rows, "embedded"), alone.take(rows, "embedded"))
        assert inputs.take(rows, "causal_lm") == alone.take(rows, "causal_lm") == shop.QUERIES
    # Without a profile the attributes are left.
    home = copy(trained, tmp_path / "home")
    shop.put(home, "user_profiles", [], {"as_of_date": shop.DAYS[-1]}, memo=PLAN.corpus_memo)
    inputs = asked(home, shop.USERS[0])
    assert (inputs.recent == -1).all()
    assert inputs.about[0] == "f, purchase power 1"
    assert inputs.take(rows, "causal_lm")[0].about == "f, purchase power 1"
    # A value that the generator never saw counts for nothing.
    people = home.store.read_arrow("users").to_pylist()
    shop.put(home, "users", [row | {"gender": "x", "purchase_power": None} for row in people])
    fields = user_fields(stage(home, "users"))
    assert fields.genders == ("f", "m")
    table = pa.table({"query_id": inputs.queries.ids[:1], "user": shop.USERS[:1], "event_date": [shop.DAYS[-1]]})
    assert not request_inputs(home, PLAN, inputs.queries, table, fields).take(rows[:1], "embedded")[:, 16:].any()


def test_a_category_that_appeared_after_training_has_an_answer(trained, tmp_path):
    home = copy(trained, tmp_path / "home")
    items = home.store.read_arrow("catalog").to_pylist()
    new = [
        row | {"category": "torches" if row["item_id"] in ("lamp-0", "lamp-1") else row["category"]} for row in items
    ]
    shop.put(home, "catalog", new)
    profile = shop.profiles(shop.searches())
    clicks = {"items": ["lamp-0", "gone", "lamp-1"], "days": [shop.day_number(shop.DAYS[0])] * 3}
    profile = [row for row in profile if row["user"] != shop.USERS[0]]
    profile += [{"as_of_date": shop.DAYS[-1], "user": shop.USERS[0], "category": "torches", **clicks}]
    profile += [{"as_of_date": shop.DAYS[-1], "user": shop.USERS[0], "category": "no longer any", **clicks}]
    shop.put(home, "user_profiles", profile, {"as_of_date": shop.DAYS[-1]}, memo=PLAN.corpus_memo)
    recent = asked(home, shop.USERS[0], queries=["red lamp"]).recent[0]
    assert recent[recent >= 0].tolist() == [shop.sid_of("lamp-0"), shop.sid_of("lamp-1")]
    assert first_brands(home, stage(home, "align"), shop.USERS[0]).shape == (len(shop.QUERIES),)


# Refusals ---------------------------------------------------------------------------------------------------------


def test_a_stage_out_of_turn_or_of_another_codebook_is_refused(trained, tmp_path):
    home = shop.fill(tmp_path / "home")
    for job, before in (
        (finetune_generator, "pretrain"),
        (personalise_generator, "finetune"),
        (align_generator, "perso"),
    ):
        with pytest.raises(DataError, match=f"is not there: run `dsirm {before}.* --release {shop.RELEASE}` first"):
            job.run(home, PLAN)
    other = copy(trained, tmp_path / "other")
    shutil.rmtree(other.artifact("generator", PLAN.stages["align"]))
    generator = stage(other, "users")
    generator.meta["codebook_version"] = "quantizer-other"
    generator.save(other.artifact("generator", PLAN.stages["users"]))
    with pytest.raises(DataError, match="learned the SIDs of quantizer-other; the release uses quantizer-test"):
        align_generator.run(other, PLAN)
    queries = query_inputs(other, PLAN, other.store.read_arrow("queries"))
    with pytest.raises(DataError, match="learned the SIDs of quantizer-other"):
        load_checked(other, shop.plan_of(generator_version=PLAN.stages["users"]), queries)


def test_a_log_without_users_and_days_of_another_run_are_refused(trained, tmp_path):
    home = copy(trained, tmp_path / "home")
    shutil.rmtree(home.artifact("generator", PLAN.stages["users"]))
    days, counted = planned_days(home, PLAN)
    shop.put(home, "user_searches", [], *days, memo=counted)
    with pytest.raises(DataError, match=r"No search of a known user .* Does the log name users"):
        personalise_generator.run(home, PLAN)
    shop.put(home, "user_searches", shop.searches(), *days, memo="of another run")
    with pytest.raises(DataError, match="user_searches event_date=2026-01-26 is not what this release was planned on"):
        personalise_generator.run(home, PLAN)
    shop.put(home, "user_searches", shop.searches(), *days, memo=counted)
    shop.put(home, "user_profiles", [], {"as_of_date": shop.DAYS[-1]}, memo="of another run")
    with pytest.raises(DataError, match="user_profiles as_of_date=2026-01-31 is not what"):
        personalise_generator.run(home, PLAN)


# The other backend ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_causal_lm_goes_through_the_same_stages(tmp_path):
    base = lm.write_base(tmp_path / "base")
    small = (
        shop.SETTINGS.replace("batch = 16", "batch = 8")
        .replace("epochs", "steps")
        .replace("hidden = 32", f'backend = "causal_lm"\nmodel = "{base}"')
    )
    home = shop.fill(tmp_path / "home", small)
    for job in JOBS:
        job.run(home, PLAN)
    for name, place in zip(generator_stages.JOBS, range(4), strict=True):
        assert len(stage(home, name).meta["stages"]) == place + 1
    first = first_brands_of_lm(home)
    assert first.shape == (len(shop.QUERIES),)


def first_brands_of_lm(home):
    generator = stage(home, "align")
    _, _, existing = release_sids(home.store, shop.RELEASE, shop.CODEBOOK)
    inputs = asked(home, shop.USERS[1]).take(np.arange(len(shop.QUERIES)), "causal_lm")
    assert any(request.recent for request in inputs)
    return beam_search(generator, SidIndex(existing), inputs, 1).sids[:, 0]
