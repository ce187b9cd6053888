"""Query SIDs are generated shard by shard: what was done is not done again, whoever did it."""

import pytest

import dsirm_models.beam
from jobs import generate_query_sids
from jobs.plan import load_plan
from tests.marketplace import SETTINGS, copy_home, open_home, rows

pytestmark = pytest.mark.slow
beam_search = dsirm_models.beam.beam_search


class KilledError(Exception):
    pass


@pytest.fixture
def emptied(market, first, tmp_path):
    """The marketplace with no SIDs for the release's queries, its plan, and the rows that were there."""
    home = copy_home(market, tmp_path / "home")
    before = rows(home, "query_sids")
    none = home.store.read_arrow("query_sids", {"release": first}).slice(0, 0)
    home.store.target("query_sids", {"release": first}).replace(none, job="test", memo="emptied")
    return home, load_plan(home, first), before


@pytest.fixture
def calls(monkeypatch):
    """How often beams were searched; the search is stopped where a limit is set."""
    seen = {"count": 0, "limit": None}

    def counted(*arguments, **options):
        if seen["count"] == seen["limit"]:
            raise KilledError
        seen["count"] += 1
        return beam_search(*arguments, **options)

    monkeypatch.setattr(dsirm_models.beam, "beam_search", counted)
    return seen


def test_workers_share_the_shards_and_a_last_run_writes_the_table(emptied, calls):
    home, plan, before = emptied
    generate_query_sids.run(home, plan, shards=range(8))
    generate_query_sids.run(home, plan, shards=[15, 14, 13, 12, 11, 10, 9, 8, 8])
    assert rows(home, "query_sids") == [], "nothing is published in parts"
    calls["limit"] = calls["count"]
    generate_query_sids.run(home, plan)
    assert rows(home, "query_sids") == before
    assert not home.scratch("query-sids", plan.release).exists()


def test_a_killed_run_goes_on_with_the_shards_that_are_missing(emptied, calls):
    home, plan, before = emptied
    calls["limit"] = 5
    with pytest.raises(KilledError):
        generate_query_sids.run(home, plan)
    assert rows(home, "query_sids") == []
    calls["limit"] = None
    generate_query_sids.run(home, plan)
    assert calls["count"] == 16
    assert rows(home, "query_sids") == before


def test_a_shard_of_other_inputs_is_not_taken(emptied, calls):
    home, plan, before = emptied
    fewer = open_home(home.root, settings=SETTINGS.replace("beams = 3", "beams = 2"))
    generate_query_sids.run(fewer, plan, shards=range(16))
    generate_query_sids.run(home, plan)
    assert calls["count"] == 32
    assert rows(home, "query_sids") == before
