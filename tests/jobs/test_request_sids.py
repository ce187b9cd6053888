"""SIDs per user and query: which requests get them, what they are read with, and what is refused. No Spark."""

import dataclasses
import shutil
from collections import defaultdict

import deltalake
import numpy as np
import pytest

from dsirm_models.beam import beam_search
from dsirm_models.generators import load_generator
from dsirm_models.sid_index import SidIndex
from jobs import finetune_generator, generate_request_sids, personalise_generator, pretrain_generator
from jobs.aggregate_day import planned_days
from jobs.errors import DataError
from jobs.generators import query_inputs, release_sids
from jobs.home import Home
from jobs.requests import asked_of, request_inputs, user_fields
from jobs.searches import most_searched
from schemas.text import text_hash
from tests.faults import points
from tests.jobs import shop

MOST = 12
PLAN = shop.plan_of(("items", "queries", "users"))
SETTINGS = (
    shop.SETTINGS.replace(', "align"', "").split("[stage_align]")[0] + f"[recall]\nbeams = 3\nrequests = {MOST}\n"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The shop with a generator that knows users, and the SIDs of its requests."""
    home = shop.fill(tmp_path_factory.mktemp("requests") / "home", SETTINGS, PLAN)
    for job in (pretrain_generator, finetune_generator, personalise_generator, generate_request_sids):
        job.run(home, PLAN)
    return home


@pytest.fixture
def changed(trained, tmp_path):
    """A copy without its request_sids, to be changed."""
    shutil.copytree(trained.root, tmp_path / "home")
    shutil.rmtree(tmp_path / "home/tables/request_sids")
    return Home(tmp_path / "home")


def rows(home):
    found = defaultdict(list)
    for row in home.store.read_arrow("request_sids").sort_by("rank").to_pylist():
        found[row["query_id"], row["user"]].append(row)
    return found


def searched(rows):
    """Requests by how often they were searched, then the latest day, then the lowest hashes: one by one."""
    times, last = defaultdict(int), {}
    for day in shop.DAYS:
        shown = defaultdict(int)
        for row in rows:
            if row["event_date"] == day:
                key = (row["query_id"], row["user"])
                shown[key] = max(shown[key], row["impressions"], 1)
        for key, count in shown.items():
            times[key] += count
            last[key] = day
    return sorted(times, key=lambda key: (-times[key], -shop.day_number(last[key]), key))


def test_the_requests_searched_most_get_sids_and_no_more_of_them(trained):
    found = rows(trained)
    wanted = searched(shop.searches())
    assert len(wanted) > MOST
    assert set(found) == set(wanted[:MOST])
    for listed in found.values():
        assert [row["rank"] for row in listed] == [1, 2, 3]
        assert all(row["complete"] and row["generator_version"] == PLAN.generator_version for row in listed)
        assert len({row["sid"] for row in listed}) == 3
    counts = trained.store.last_commit("request_sids").metadata["counts"]
    assert counts == {"asked": MOST, "unknown": 0, "requests": MOST}
    version = trained.store.version("request_sids")
    generate_request_sids.run(trained, PLAN)
    assert trained.store.version("request_sids") == version, "done is done"


def test_they_are_read_with_every_click_up_to_the_as_of_date(trained):
    key, listed = next(iter(rows(trained).items()))
    generator = load_generator(trained.artifact("generator", PLAN.generator_version))
    queries = query_inputs(trained, PLAN, trained.store.read_arrow("queries"))
    _, _, existing = release_sids(trained.store, shop.RELEASE, shop.CODEBOOK)
    asked = asked_of(PLAN, most_searched(trained, PLAN, trained.store.read_arrow("queries")["query_id"], MOST))
    inputs = request_inputs(trained, PLAN, queries, asked, user_fields(generator))
    place = list(zip(asked["query_id"].to_pylist(), asked["user"].to_pylist(), strict=True)).index(key)
    best = beam_search(generator, SidIndex(existing), inputs.take(np.array([place]), "embedded"), 3)
    assert best.sids[0].tolist() == [row["sid"] for row in listed]
    np.testing.assert_allclose(best.logps[0], [row["logps"] for row in listed], atol=1e-5)
    # Three categories are related, all there are, and nobody clicked more SIDs than are read.
    names = {text_hash(item): item for item in shop.ITEMS}
    for user, recent in zip(asked["user"].to_pylist(), inputs.recent, strict=True):
        clicked = [row for row in shop.searches() if row["user"] == user and row["clicks"]]
        assert max(row["event_date"] for row in clicked) == shop.DAYS[-1]
        assert set(recent[recent >= 0].tolist()) == {shop.sid_of(names[row["item_hash"]]) for row in clicked}


@pytest.mark.parametrize("where", points.TABLE_POINTS)
def test_killed_at_its_commit_and_run_again_is_as_if_nothing_had_happened(trained, changed, monkeypatch, where):
    class Killed(Exception):
        pass

    def kill(_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(points, "stop", kill)
        patched.setattr(deltalake, "write_deltalake", deltalake.write_deltalake)
        points.arm("request_sids", where, None)
        with pytest.raises(OSError if where == "lost" else Killed):
            generate_request_sids.run(changed, PLAN)
    assert bool(rows(changed)) == (where in ("commit", "lost"))
    generate_request_sids.run(changed, PLAN)
    assert rows(changed) == rows(trained)


def test_counts_of_searches_ties_and_queries_that_are_not_published(changed):
    first, second, other = (text_hash(query) for query in shop.QUERIES[:3])
    days, counted = planned_days(changed, PLAN)

    def row(day, user, query, **counts):
        acted = {"impressions": 0, "clicks": 0, "purchases": 0, "last_action": None} | counts
        return {
            "event_date": shop.DAYS[day],
            "user": user,
            "query_id": query,
            "item_hash": acted.pop("item", 1),
            **acted,
        }

    time = shop.searches()[0]["last_action"] or PLAN.times["event_time"]
    many = [
        # Twice on one day (its pages differ), once on another: three.
        row(0, "ann", first, impressions=2),
        row(0, "ann", first, impressions=1, item=2),
        row(1, "ann", first, impressions=1),
        # Two: clicked without an impression counts once.
        row(2, "bob", first, clicks=1, last_action=time),
        row(3, "bob", first, impressions=1),
        row(2, "bob", second, impressions=1),
        row(4, "bob", second, impressions=1),  # the later day goes first
        row(0, "cid", max(first, second), impressions=1),
        row(0, "cid", min(first, second), impressions=1),
        row(0, "bea", max(first, second), impressions=1),
        row(5, "ann", other, impressions=9),  # not published: asked by few
    ]
    shop.put(changed, "user_searches", many, *days, memo=counted)
    published = changed.store.read_arrow("queries")["query_id"].filter(
        np.array([q != other for q in changed.store.read_arrow("queries")["query_id"].to_pylist()])
    )
    found = most_searched(changed, PLAN, published, 5)
    assert list(zip(found["user"].to_pylist(), found["query_id"].to_pylist(), strict=True)) == [
        ("ann", first),
        ("bob", second),
        ("bob", first),
        ("cid", min(first, second)),
        ("bea", max(first, second)),
    ]


def test_one_of_whom_nothing_is_known_gets_no_row(changed):
    """Neither attributes nor clicks; one with clicks alone has rows."""
    wanted = searched(shop.searches())[:MOST]
    nobody, clicker = sorted({user for _, user in wanted})[:2]
    people = changed.store.read_arrow("users").to_pylist()
    shop.put(changed, "users", [row for row in people if row["user"] not in (nobody, clicker)])
    profile = shop.profiles([row for row in shop.searches() if row["user"] != nobody])
    shop.put(changed, "user_profiles", profile, {"as_of_date": shop.DAYS[-1]}, memo=PLAN.corpus_memo)
    generate_request_sids.run(changed, PLAN)
    users = {user for _, user in rows(changed)}
    assert users == {user for _, user in wanted} - {nobody}
    assert clicker in users
    unknown = sum(user == nobody for _, user in wanted)
    counts = changed.store.last_commit("request_sids").metadata["counts"]
    assert counts == {"asked": MOST, "unknown": unknown, "requests": MOST - unknown}


def test_a_log_without_users_or_a_generator_of_queries_alone_gives_no_rows(changed):
    days, counted = planned_days(changed, PLAN)
    alone = dataclasses.replace(PLAN, generator_version=PLAN.stages["queries"])
    generate_request_sids.run(changed, alone)
    assert changed.store.last_commit("request_sids").metadata["counts"]["requests"] == 0
    shutil.rmtree(changed.root / "tables/request_sids")
    shop.put(changed, "user_searches", [], *days, memo=counted)
    generate_request_sids.run(changed, PLAN)
    assert changed.store.count("request_sids") == 0
    assert changed.store.memos("request_sids") == {f"release={PLAN.release}": PLAN.release}, "it is done all the same"


@pytest.mark.parametrize("settings", ["[recall]\nbeams = 3\n", "[recall]\nrequests = 5\n"])
def test_nothing_is_written_where_nobody_asks_for_lists(changed, settings):
    (changed.root / "dsirm.toml").write_text(SETTINGS.split("[recall]")[0] + settings)
    home = Home(changed.root)
    generate_request_sids.run(home, PLAN)
    assert not home.store.exists("request_sids")


def test_another_codebook_and_inputs_of_another_plan_are_refused(changed):
    generator = load_generator(changed.artifact("generator", PLAN.generator_version))
    generator.meta["codebook_version"] = "quantizer-other"
    generator.save(changed.artifact("generator", "generator-other"))
    with pytest.raises(DataError, match=r"learned the SIDs of quantizer-other.*only make sense together"):
        generate_request_sids.run(changed, dataclasses.replace(PLAN, generator_version="generator-other"))
    part = {"as_of_date": shop.DAYS[-1]}
    # A profile made for another plan may hold clicks that came after this one's day.
    shop.put(changed, "user_profiles", shop.profiles(shop.searches()), part, memo="of another run")
    with pytest.raises(DataError, match="user_profiles as_of_date=2026-01-31 is not what this release was planned on"):
        generate_request_sids.run(changed, PLAN)
    days, _ = planned_days(changed, PLAN)
    shop.put(changed, "user_searches", shop.searches(), *days, memo="of another run")
    with pytest.raises(DataError, match="user_searches event_date=2026-01-26 is not what this release was planned on"):
        generate_request_sids.run(changed, PLAN)
    assert not changed.store.exists("request_sids")
