"""Hit rates of recall: by hand, against a search through the lists, and what each number stands for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsirm_models.ranking_metrics import draw_resamples
from dsirm_models.recall_metrics import (
    Cut,
    Targets,
    any_of,
    difference,
    equal_beam,
    found_by_sids,
    found_in_lists,
    growth,
    hits,
    interval,
    items_behind,
    make_clusters,
    measure,
    shared,
    sweep,
)


def array(*values):
    return np.array(values, dtype=np.int64)


@pytest.fixture
def clusters():
    """SID 10: items 2, 0 (by efficiency); SID 20: items 1, 3 (by hash); item 4 has no SID, item 5 is out of stock."""
    sids, efficiency = array(10, 20, 10, 20, -1, 10), array(1, 5, 2, 5, 9, 9)
    return make_clusters(sids, efficiency, array(1, 2, 3, 4, 5, 6), np.array([True] * 5 + [False]))


@pytest.fixture
def world(clusters):
    """Two requests; the first wants items 0 (three times), 3 and 5, the second item 1 and one that nobody has."""
    targets = Targets(array(0, 0, 0, 1, 1), array(0, 3, 5, 1, -1), array(3, 1, 1, 2, 1))
    beams = np.array([[20, 10, -1], [99, 10, -1]])
    return targets, found_by_sids(beams, clusters, targets)


def test_where_targets_are_behind_beams(world, clusters):
    assert clusters.sids.tolist() == [10, 20]
    assert clusters.place.tolist() == [2, 1, 1, 2, 0, 0]
    _, found = world
    assert found.beam.tolist() == [2, 1, 0, 0, 0]
    assert found.place.tolist() == [4, 2, 0, 0, 0]
    assert found.items.tolist() == [[2, 4, 4], [0, 2, 2]]


def test_rates_count_each_time_and_come_with_the_items_behind_them(world):
    targets, found = world
    draws = draw_resamples(queries=2, seeds=1, draws=50, seed=1)
    of = {cut: measure(targets, found, cut, draws.queries) for cut in (Cut(1), Cut(2), Cut(2, 3), Cut(items=2))}
    # 8 times wanted; at one beam item 3, at two item 0 as well, which is the fourth of the list.
    assert [round(found.rate, 4) for found in of.values()] == [1 / 8, 4 / 8, 1 / 8, 1 / 8]
    # Five of the eight are of request 0.
    assert of[Cut(1)].items == (5 * 2 + 3 * 0) / 8
    assert of[Cut(2)].items == (5 * 4 + 3 * 2) / 8
    assert of[Cut(2, 3)].items == (5 * 3 + 3 * 2) / 8
    assert interval(of[Cut(2)]).low == 0.0
    assert interval(of[Cut(2)]).high == pytest.approx(4 / 5)
    only = measure(targets, found, Cut(2), draws.queries, of=np.array([True, False, False, False, False]))
    assert only.rate == 1.0
    nothing = measure(targets, found, Cut(2), draws.queries, of=np.zeros(5, dtype=bool))
    assert np.isnan(nothing.rate)


@given(st.data())
def test_beams_and_lists_of_the_same_items_find_the_same(data):
    count, codes = 12, st.integers(0, 3)
    sids = np.array(data.draw(st.lists(codes, min_size=count, max_size=count)), dtype=np.int64)
    rates = np.array(data.draw(st.lists(codes, min_size=count, max_size=count)), dtype=np.int64)
    stock = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    beams = np.array([data.draw(st.permutations(range(5)))[:3] for _ in range(4)], dtype=np.int64)
    held = make_clusters(sids, rates, np.arange(count), stock)
    lists = np.full((4, count), -1, dtype=np.int64)
    for row, wanted in enumerate(beams):
        # By probability, efficiency, hash: the definition, item by item.
        listed = [
            item
            for sid in wanted
            for item in sorted(range(count), key=lambda i: (-rates[i], i))
            if sids[item] == sid and stock[item]
        ]
        lists[row, : len(listed)] = listed
    pairs = [(q, i) for q in range(4) for i in range(-1, count)]
    targets = Targets(*np.array(pairs, dtype=np.int64).T, np.ones(len(pairs), dtype=np.int64))
    by_sids, in_lists = found_by_sids(beams, held, targets), found_in_lists(lists, targets)
    assert by_sids.place.tolist() == in_lists.place.tolist()
    assert by_sids.items[:, -1].tolist() == in_lists.items[:, 0].tolist()
    for cut in (Cut(), Cut(items=3)):
        assert hits(by_sids, cut).tolist() == hits(in_lists, cut).tolist()
        assert items_behind(by_sids, cut).tolist() == items_behind(in_lists, cut).tolist()


def test_one_sid_that_holds_everything_wins_at_beam_1_and_not_at_equal_items():
    rng = np.random.default_rng(3)
    count = 400
    fine, one = rng.integers(0, 40, count), np.zeros(count, dtype=np.int64)
    wanted = rng.integers(0, count, 50)
    targets = Targets(np.arange(50), wanted, np.ones(50, dtype=np.int64))
    stock, none = np.ones(count, dtype=bool), np.zeros(count, dtype=np.int64)
    right = fine[wanted][:, None]
    beams = {"fine": (right, fine), "one": (np.zeros((50, 1), dtype=np.int64), one)}
    found = {
        name: found_by_sids(wide, make_clusters(sids, none, np.arange(count), stock), targets)
        for name, (wide, sids) in beams.items()
    }
    draws = draw_resamples(queries=50, seeds=1, draws=200, seed=1)
    at = {name: measure(targets, held, Cut(1), draws.queries) for name, held in found.items()}
    assert at["one"].rate == at["fine"].rate == 1.0
    assert at["one"].items == 400 > 10 * at["fine"].items / 2
    budget = [measure(targets, held, Cut(items=20), draws.queries) for held in found.values()]
    gap = difference([(budget[0], budget[1])], draws.seeds)
    assert gap.low > 0


def test_the_sweep_shows_where_more_beams_stop_to_help_and_which_number_equals_another(world):
    targets, found = world
    rows = sweep(targets, found, [1, 2, 3], most=3)
    assert [row.rate for row in rows] == [1 / 8, 4 / 8, 4 / 8]
    assert [row.cut_rate for row in rows] == [1 / 8, 1 / 8, 1 / 8]
    assert [row.cut_items for row in rows] == [10 / 8, (15 + 6) / 8, (15 + 6) / 8]
    assert equal_beam([row.rate for row in rows], 0.3) == 2
    assert equal_beam([row.rate for row in rows], 0.6) is None


def test_what_one_channel_finds_that_others_miss(world):
    targets, found = world
    ours = hits(found, Cut(2))
    theirs = {"bm25": np.array([True, False, False, False, False]), "dense": np.array([False] * 3 + [True, False])}
    assert shared(targets, ours, theirs["bm25"]) == (3 / 8, 1 / 8, 0.0, 4 / 8)
    assert shared(targets, ours, any_of(theirs)) == (3 / 8, 1 / 8, 2 / 8, 2 / 8)


def test_what_new_items_cost_by_hand():
    """Three requests, two beams of one item each: 6 of 8 times old items are found, and 1 of 2 times new ones."""
    # Items 0 and 1 are old, 2 and 3 new; item 3 has a SID that no beam names. One target is of no release.
    clusters = make_clusters(array(10, 20, 30, 40), array(0, 0, 0, 0), array(1, 2, 3, 4), np.ones(4, dtype=bool))
    targets = Targets(array(0, 0, 1, 1, 2, 2), array(0, 1, 2, 3, 1, -1), array(4, 2, 1, 1, 2, 2))
    found = found_by_sids(np.array([[10, 30], [20, 30], [20, 10]]), clusters, targets)
    new, old = (np.isin(targets.item, rows) for rows in ((2, 3), (0, 1)))
    draws = draw_resamples(queries=3, seeds=1, draws=200, seed=1)
    cost = growth(targets, found, Cut(2), draws.queries, new=new, old=old)
    assert (cost.new.rate, cost.old.rate) == (1 / 2, 6 / 8)
    assert cost.new_share == 2 / 12
    assert cost.lost == pytest.approx(2 / 12 * (6 / 8 - 1 / 2))
    # 7 of 12 are found; with new items found as old ones, 7.5 of 12.
    assert cost.lost_share == pytest.approx(0.5 / 7.5)
    gap = difference([(cost.new, cost.old)], draws.seeds)
    assert gap.difference == -1 / 4
    assert gap.low <= gap.difference <= gap.high
    none = growth(targets, found, Cut(2), draws.queries, new=np.zeros(6, dtype=bool), old=old)
    assert none.new_share == 0.0
    assert np.isnan(none.new.rate) and np.isnan(none.lost_share)


def test_names_of_cuts():
    assert [cut.name for cut in (Cut(10), Cut(items=100), Cut(30, 1000))] == ["10", "100items", "30,1000items"]
