"""Hit rates of many chains over many queries, and their differences with intervals, in one pass over the draws.

A rate is times found over times wanted, summed over the requests of a draw. The unit that is resampled is the query,
with all its requests and users: requests of one query are too alike to be counted as so many. Queries and seeds are
drawn together, the same draws for every chain, which makes each difference paired (design, section 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from dsirm_models.ranking_metrics import Flags, Floats, Interval, draw_resamples, paired_interval, ratio
from dsirm_models.recall_data import Requests
from dsirm_models.recall_metrics import Cut, Found, equal_beam, hits, items_behind

KINDS = ("clk", "exp", "buy")
DRAWS_AT_ONCE = 250
"""Draws held together: bounds memory."""
QUERY_SEED, SEED_SEED = 7, 11


class Wish(NamedTuple):
    """What a rate is asked of: a kind of target, how much of a list counts, and which targets."""

    kind: str
    """`clk`: clicked, `exp`: shown, `buy`: bought; each time counts."""
    cut: Cut
    slice: str = "all"

    @property
    def metric(self) -> str:
        """As `clk@10`."""
        return f"{self.kind}@{self.cut.name}"


class Rates(NamedTuple):
    """A chain's rate as observed, under each draw of queries (D,), and the mean number of items behind a target."""

    rate: float
    resampled: Floats
    items: float


class Chain(NamedTuple):
    """Whose rates: a variant and a seed of it; None for a channel that has none."""

    variant: str
    seed: int | None


class Difference(NamedTuple):
    """One variant minus another over their common seeds."""

    absolute: Interval
    relative: Interval
    """Over the other's rate: the difference of the mean rates divided by the other's mean rate, under each draw."""
    rate: float
    against_rate: float
    items: float
    against_items: float
    seeds: int


def measured(
    requests: Requests,
    found: Mapping[Chain, Found],
    wishes: Sequence[Wish],
    slices: Mapping[str, Flags],
    *,
    draws: int,
) -> dict[tuple[Chain, Wish], Rates]:
    """The rates of all chains for all wishes.

    Args:
        requests: R requests with E entries.
        found: where each chain has the entries; `items` (R, B).
        wishes: rates wanted.
        slices: name -> (E,) entries in it; every slice of a wish but `all`.
        draws: D.
    """
    _, query = np.unique(requests.query, return_inverse=True)
    queries = int(query.max(initial=-1)) + 1
    of_entry = query[requests.entry_request]
    times = dict(zip(KINDS, (requests.clicked, requests.shown, requests.bought), strict=True))
    sides = list(dict.fromkeys((wish.kind, wish.slice) for wish in wishes))
    wanted_times = {
        side: times[side[0]] if side[1] == "all" else np.where(slices[side[1]], times[side[0]], 0) for side in sides
    }
    columns = [_sums(of_entry, wanted_times[side], queries) for side in sides]
    weights = {side: _sums(requests.entry_request, wanted_times[side], len(query)) for side in sides}
    keys: list[tuple[Chain, Wish]] = []
    items: list[float] = []
    for chain, where in found.items():
        for wish in wishes:
            side = (wish.kind, wish.slice)
            hit = wanted_times[side] * hits(where, wish.cut)
            columns.append(_sums(of_entry, hit, queries))
            keys.append((chain, wish))
            held = weights[side] @ items_behind(where, wish.cut)
            items.append(float(ratio(held, weights[side].sum())))
    matrix = np.stack(columns, axis=1)
    sums, whole = _resampled_sums(matrix, draws), matrix.sum(axis=0)
    out = {}
    for at, (key, behind) in enumerate(zip(keys, items, strict=True), start=len(sides)):
        below = sides.index((key[1].kind, key[1].slice))
        out[key] = Rates(float(ratio(whole[at], whole[below])), ratio(sums[:, at], sums[:, below]), behind)
    return out


def _sums(group: NDArray[np.integer], values: NDArray[np.integer], groups: int) -> Floats:
    """(G,) sum of the values (N,) of each group."""
    return np.bincount(group, weights=values, minlength=groups).astype(np.float64)


def _resampled_sums(columns: Floats, draws: int) -> Floats:
    """Sums of (Q, C) columns under each draw of queries: (D, C)."""
    out = np.empty((draws, columns.shape[1]))
    for begin in range(0, draws, DRAWS_AT_ONCE):
        count = min(DRAWS_AT_ONCE, draws - begin)
        drawn = draw_resamples(queries=len(columns), seeds=1, draws=count, seed=QUERY_SEED + begin)
        out[begin : begin + count] = drawn.queries.astype(np.float64) @ columns
    return out


def compare(ours: Mapping[int | None, Rates], theirs: Mapping[int | None, Rates]) -> Difference:
    """One variant's rates by seed minus another's. A channel without seeds stands against each seed of the other.

    Raises:
        ValueError: they have no seed in common.
    """
    seeds = _common(ours, theirs)
    if not seeds:
        raise ValueError(f"Seeds {list(ours)} and {list(theirs)} have none in common.")
    first, second = ([side.get(seed, side.get(None)) for seed in seeds] for side in (ours, theirs))
    one, two = [rates for rates in first if rates], [rates for rates in second if rates]
    drawn = _seed_counts(len(seeds), len(one[0].resampled))
    gap = _resampled(one) - _resampled(two)
    absolute = paired_interval([a.rate - b.rate for a, b in zip(one, two, strict=True)], gap, drawn)
    rate, base = (float(np.mean([rates.rate for rates in side])) for side in (one, two))
    top, below = (_mean_of(side, drawn) for side in (one, two))
    share = ratio(top, below) - 1
    relative = paired_interval(ratio([rate], [base]) - 1, share[None], np.ones((len(share), 1), dtype=np.uint16))
    items, base_items = (float(np.mean([rates.items for rates in side])) for side in (one, two))
    return Difference(absolute, relative, rate, base, items, base_items, len(seeds))


def rate_of(ours: Mapping[int | None, Rates]) -> tuple[Interval, float]:
    """A variant's own rate over its seeds with its interval, and the mean items behind it."""
    rates = list(ours.values())
    drawn = _seed_counts(len(rates), len(rates[0].resampled))
    found = paired_interval([one.rate for one in rates], _resampled(rates), drawn)
    return found, float(np.mean([one.items for one in rates]))


def equal_beams(
    ours: Mapping[int | None, Sequence[Rates]], theirs: Mapping[int | None, Sequence[Rates]], beams: int
) -> Interval:
    """Beams that one variant needs to reach the rate of another's `beams` beams, with its interval.

    Args:
        ours: seed -> rates of 1, 2, 3, ... beams.
        theirs: the same of the other variant.
        beams: of the other.

    NaN where the rate is not reached within the beams that were looked at; such a draw counts as infinitely many.
    """
    seeds = _common(ours, theirs)
    drawn = _seed_counts(len(seeds), len(ours[seeds[0]][0].resampled))
    level = _mean_of([theirs[seed][beams - 1] for seed in seeds], drawn)
    curve = np.stack([_mean_of([ours[seed][at] for seed in seeds], drawn) for at in range(len(ours[seeds[0]]))])
    needed = [equal_beam(curve[:, draw].tolist(), float(level[draw])) for draw in range(curve.shape[1])]
    mean = [float(np.mean([ours[seed][at].rate for seed in seeds])) for at in range(len(curve))]
    found = equal_beam(mean, float(np.mean([theirs[seed][beams - 1].rate for seed in seeds])))
    low, high = np.quantile([np.inf if count is None else count for count in needed], [0.025, 0.975], method="nearest")
    return Interval(float("nan") if found is None else float(found), float(low), float(high))


def _common(ours: Mapping[int | None, object], theirs: Mapping[int | None, object]) -> list[int | None]:
    """Seeds of both sides; those of the one where the other has none."""
    if None in ours:
        return list(theirs)
    return list(ours) if None in theirs else [seed for seed in ours if seed in theirs]


def _mean_of(rates: Sequence[Rates], seed_counts: NDArray[np.uint16]) -> Floats:
    """(D,) mean rate over the seeds of each draw, as often as it took them."""
    mean: Floats = (seed_counts.T * _resampled(rates)).sum(axis=0) / seed_counts.sum(axis=1)
    return mean


def _resampled(rates: Sequence[Rates]) -> Floats:
    """(S, D) the seeds' rates under each draw, each set apart from their mean by as much as so few seeds ask for.

    Drawing S seeds with repetition shows their spread too small by (S - 1) / S, and takes it for that of a normal
    variable instead of Student's t (S - 1 degrees of freedom): of three seeds, the interval of 95 % would hold the
    truth in 76 cases of 100 where seeds are all that varies.
    """
    stacked = np.stack([one.resampled for one in rates])
    seeds = len(stacked)
    if seeds == 1:
        return stacked
    stretch = np.sqrt(seeds / (seeds - 1)) * t.ppf(0.975, seeds - 1) / norm.ppf(0.975)
    middle = stacked.mean(axis=0)
    apart: Floats = middle + stretch * (stacked - middle)
    return apart


def _seed_counts(seeds: int, draws: int) -> NDArray[np.uint16]:
    """(D, S): the same draws wherever there are as many seeds."""
    return draw_resamples(queries=1, seeds=seeds, draws=draws, seed=SEED_SEED).seeds


def slices_of(
    requests: Requests, bands: Sequence[str], query_band: NDArray[np.integer], item_new: Flags
) -> dict[str, Flags]:
    """Name -> the entries (E,) in it: by the query's band (Q,), and whether the item was there in training (I,)."""
    band = query_band[requests.query][requests.entry_request]
    found = {f"band={name}": band == at for at, name in enumerate(bands)}
    new = item_new[requests.entry_item]
    found |= {"items=old": ~new, "items=new": new}
    return {name: mask for name, mask in found.items() if mask.any()}
