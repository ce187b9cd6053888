"""Rates and differences over queries and seeds: by hand on small numbers, and against the measure of a release."""

import numpy as np
import pytest

from dsirm_models.recall_comparisons import Chain, Rates, Wish, compare, equal_beams, measured, rate_of, slices_of
from dsirm_models.recall_metrics import Cut, Found
from tests.dsirm_models.recall_world import recall_world

CLICKS = Wish("clk", Cut(1))


@pytest.fixture(scope="module")
def later():
    return recall_world().later


def found(later, share, seed, beams=5):
    """A channel that has each entry with some probability, at a beam drawn by lot."""
    rng = np.random.default_rng(seed)
    count = len(later.entry_item)
    beam = np.where(rng.random(count) < share, rng.integers(1, beams + 1, size=count), 0)
    items = np.cumsum(rng.integers(1, 9, size=(len(later.query), beams)), axis=1)
    return Found(beam, beam * 3, items)


def test_a_rate_is_times_found_over_times_wanted(later):
    one = found(later, 0.6, 1)
    wishes = [CLICKS, Wish("exp", Cut(3)), Wish("clk", Cut(items=6)), Wish("clk", Cut(3), "half")]
    half = np.arange(len(later.entry_item)) % 2 == 0
    rates = measured(later, {Chain("a", 1): one}, wishes, {"half": half}, draws=20)
    clicked = later.clicked
    wanted = {
        wishes[0]: (clicked * (one.beam == 1)).sum() / clicked.sum(),
        wishes[1]: ((one.beam > 0) & (one.beam <= 3)).mean(),
        wishes[2]: (clicked * ((one.beam > 0) & (one.place <= 6))).sum() / clicked.sum(),
        wishes[3]: (clicked * half * ((one.beam > 0) & (one.beam <= 3))).sum() / (clicked * half).sum(),
    }
    for wish, rate in wanted.items():
        assert rates[Chain("a", 1), wish].rate == pytest.approx(rate)
    of_request = np.bincount(later.entry_request, weights=clicked)
    assert rates[Chain("a", 1), CLICKS].items == pytest.approx(of_request @ one.items[:, 0] / of_request.sum())


def test_draws_are_of_whole_queries(later):
    """Where every request of a query is alike, no draw sees a query in part: rates are ratios of whole queries."""
    one = found(later, 1.0, 1)._replace(beam=(later.query[later.entry_request] % 2).astype(np.int64))
    rates = measured(later, {Chain("a", 1): one}, [CLICKS], {}, draws=400)[Chain("a", 1), CLICKS]
    spread = rates.resampled.std()
    _, row = np.unique(later.query, return_inverse=True)
    clicks = np.bincount(row[later.entry_request], weights=later.clicked)
    hit = np.bincount(row[later.entry_request], weights=later.clicked * one.beam)
    draws = np.random.default_rng(0).multinomial(len(clicks), np.full(len(clicks), 1 / len(clicks)), size=4000)
    assert spread == pytest.approx(((draws @ hit) / (draws @ clicks)).std(), rel=0.15)


def test_a_difference_is_paired(later):
    one = found(later, 0.5, 1)
    better = one._replace(beam=np.where(np.arange(len(one.beam)) % 7 == 0, 1, one.beam))
    chains = {Chain("better", 1): better, Chain("one", 1): one, Chain("other", 1): found(later, 0.5, 2)}
    rates = {
        chain.variant: {1: value} for (chain, _), value in measured(later, chains, [CLICKS], {}, draws=500).items()
    }
    gap = compare(rates["better"], rates["one"])
    assert gap.absolute.low > 0 and gap.absolute.difference == pytest.approx(gap.rate - gap.against_rate)
    assert gap.relative.difference == pytest.approx(gap.rate / gap.against_rate - 1)
    unpaired = compare(rates["better"], rates["other"])
    assert unpaired.absolute.high - unpaired.absolute.low > gap.absolute.high - gap.absolute.low


def test_only_common_seeds_are_compared_and_a_channel_stands_against_each():
    def rates(value):
        return Rates(value, np.array([value - 0.1, value + 0.1]), 10.0)

    ours, theirs = {1: rates(0.5), 2: rates(0.7)}, {1: rates(0.4), 3: rates(0.1)}
    assert compare(ours, theirs).absolute.difference == pytest.approx(0.1)
    assert compare(ours, theirs).seeds == 1
    channel = {None: rates(0.2)}
    assert compare(ours, channel).absolute.difference == pytest.approx(0.4)
    assert compare(ours, channel).seeds == 2
    assert rate_of(ours)[0].difference == pytest.approx(0.6)
    with pytest.raises(ValueError, match="in common"):
        compare({1: rates(0.5)}, {2: rates(0.5)})


@pytest.mark.parametrize(("seeds", "least"), [(3, 0.93), (5, 0.93)])
def test_few_seeds_hold_the_truth_as_often_as_they_say(seeds, least):
    """Where seeds are all that varies: 0.76 and 0.84 of the intervals by drawing them alone."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        ours = {seed: Rates(value, np.full(400, value), 1.0) for seed, value in enumerate(rng.normal(0.5, 0.1, seeds))}
        found, _ = rate_of(ours)
        held += found.low <= 0.5 <= found.high
    assert held / 400 >= least


def test_equal_beams_counts_beams_to_the_others_rate():
    def curve(*values):
        return {1: [Rates(value, np.full(3, value), 1.0) for value in values]}

    assert equal_beams(curve(0.2, 0.5, 0.6), curve(0.1, 0.3, 0.5), 3) == (2, 2, 2)
    missed = equal_beams(curve(0.2, 0.3, 0.4), curve(0.1, 0.3, 0.5), 3)
    assert np.isnan(missed.difference) and missed.low == missed.high == np.inf


def test_slices_are_those_of_the_query_and_of_the_item():
    world = recall_world()
    slices = slices_of(world.later, ("head", "torso", "tail", "unseen"), world.query_band, world.item_new)
    assert set(slices) == {"band=head", "band=torso", "band=tail", "band=unseen", "items=old", "items=new"}
    assert np.array_equal(slices["items=new"], world.item_new[world.later.entry_item])
    assert sum(slices[f"band={name}"] for name in ("head", "torso", "tail", "unseen")).tolist() == [1] * len(
        world.later.entry_item
    )
