"""How much of what people wanted a recall channel finds: hit rates at beams and at item budgets.

CQ-SID (arXiv 2605.14434) reports the click hit rate: the share of target items that the recalled SIDs cover. More SIDs,
or larger ones, cover more, and one SID that holds everything would win at beam 1. So every rate comes with the mean
number of items behind it, and again at equal numbers of items.

Q requests, each with target items (clicked, shown or bought), T in all; I items by row 0..I-1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dsirm_models.ranking_metrics import (
    Counts,
    Flags,
    Floats,
    Interval,
    Ints,
    paired_interval,
    ratio,
    resampled_ratio,
)

# Comparisons of targets with beams at once: bounds memory, changes no result.
_CHUNK = 1 << 24


class Targets(NamedTuple):
    """T wanted items."""

    request: Ints
    """(T,) 0..Q-1."""
    item: Ints
    """(T,) row of the item; -1 for one that the release does not have, which nobody can find."""
    times: Ints
    """(T,) how often it was clicked (shown, bought) for the request; each time counts."""


class Clusters(NamedTuple):
    """What is behind each SID, and where each item stands there. Items out of stock are behind none."""

    sids: Ints
    """(C,) ascending, as a generator emits them."""
    sizes: Ints
    """(C,) items."""
    of_item: Ints
    """(I,) 0..C-1, -1 for an item that cannot be recalled."""
    place: Ints
    """(I,) from 1 in the order of its cluster."""


class Found(NamedTuple):
    """Where a channel has the targets. A channel without SIDs is one of a single beam."""

    beam: Ints
    """(T,) beam that holds the target, from 1; 0 where none does."""
    place: Ints
    """(T,) place in the request's whole list, from 1; 0 where it is not on it."""
    items: Ints
    """(Q, B) items behind the first 1..B beams."""


class Cut(NamedTuple):
    """How much of a list counts. None: all of it."""

    beams: int | None = None
    items: int | None = None

    @property
    def name(self) -> str:
        """`10`: ten beams; `1000items`: so many items; `10,1000items`: both."""
        parts = [str(self.beams)] if self.beams else []
        return ",".join([*parts, f"{self.items}items"] if self.items else parts)


def make_clusters(sids: Ints, efficiency: Ints, hashes: Ints, recallable: Flags) -> Clusters:
    """Clusters of I items: higher efficiency first, ties to the lowest hash, as `generate_recall` orders them.

    Args:
        sids: (I,) packed SID of each item without the group of a split cluster; -1 for one without.
        efficiency: (I,) smoothed click rate.
        hashes: (I,) item hash.
        recallable: (I,) in stock.
    """
    rows = np.flatnonzero(recallable & (sids >= 0))
    order = rows[np.lexsort((hashes[rows], -efficiency[rows], sids[rows]))]
    distinct, first, cluster, sizes = np.unique(sids[order], return_index=True, return_inverse=True, return_counts=True)
    of_item = np.full(len(sids), -1, dtype=np.int64)
    place = np.zeros(len(sids), dtype=np.int64)
    of_item[order] = cluster
    place[order] = np.arange(len(order)) - first[cluster] + 1
    return Clusters(distinct, sizes, of_item, place)


def found_by_sids(beams: Ints, clusters: Clusters, targets: Targets) -> Found:
    """Where the targets are behind the beams (Q, B) of packed SIDs, distinct in a row, best first; -1 where absent."""
    at = np.searchsorted(clusters.sids, beams)
    known = at < len(clusters.sids)
    known[known] = clusters.sids[at[known]] == beams[known]
    cluster = np.where(known, at, -2)
    held = np.zeros(beams.shape, dtype=np.int64)
    held[known] = clusters.sizes[at[known]]
    items = held.cumsum(axis=1)
    own = np.where(targets.item < 0, -1, clusters.of_item[targets.item])
    beam = np.zeros(len(own), dtype=np.int64)
    step = max(1, _CHUNK // max(beams.shape[1], 1))
    for begin in range(0, len(own), step):
        part = slice(begin, begin + step)
        same = cluster[targets.request[part]] == own[part, None]
        beam[part] = np.where(same.any(axis=1), same.argmax(axis=1) + 1, 0)
    row = (targets.request, np.maximum(beam - 1, 0))
    place = items[row] - held[row] + clusters.place[targets.item]
    return Found(beam, np.where(beam > 0, place, 0), items)


def found_in_lists(lists: Ints, targets: Targets) -> Found:
    """Where the targets are in ranked lists (Q, N) of item rows, -1 where a list is shorter."""
    width = int(max(lists.max(initial=0), targets.item.max(initial=0))) + 1
    request, place = np.nonzero(lists >= 0)
    keys = request * width + lists[request, place]
    order = np.argsort(keys, kind="stable")
    wanted = targets.request * width + targets.item
    at = np.searchsorted(keys[order], wanted)
    there = (at < len(keys)) & (targets.item >= 0)
    there[there] = keys[order[at[there]]] == wanted[there]
    found = np.zeros(len(wanted), dtype=np.int64)
    found[there] = place[order[at[there]]] + 1
    return Found((found > 0).astype(np.int64), found, (lists >= 0).sum(axis=1, dtype=np.int64)[:, None])


def hits(found: Found, cut: Cut) -> Flags:
    """(T,): is the target within the cut?"""
    hit: Flags = found.beam > 0
    if cut.beams is not None:
        hit = hit & (found.beam <= cut.beams)
    return hit & (found.place <= cut.items) if cut.items is not None else hit


def items_behind(found: Found, cut: Cut) -> Ints:
    """(Q,) items of each request within the cut."""
    width = found.items.shape[1]
    held = found.items[:, min(cut.beams or width, width) - 1]
    return np.minimum(held, cut.items) if cut.items is not None else held


class Measured(NamedTuple):
    """A hit rate as observed and under each draw of requests (D,), and the mean number of items behind it."""

    rate: float
    resampled: Floats
    items: float
    """Each target of a request counts its list once, as in the rate."""


def measure(targets: Targets, found: Found, cut: Cut, draws: Counts, *, of: Flags | None = None) -> Measured:
    """Hit rate of the targets (those that `of` (T,) marks): times found over times wanted.

    `draws` (D, Q) are of requests (`ranking_metrics.draw_resamples`); the same ones for every channel make their
    differences paired. NaN where nothing is wanted.
    """
    requests = draws.shape[1]
    times = targets.times if of is None else np.where(of, targets.times, 0)
    wanted = np.bincount(targets.request, weights=times, minlength=requests)
    got = np.bincount(targets.request, weights=times * hits(found, cut), minlength=requests)
    behind = float(ratio(wanted @ items_behind(found, cut), wanted.sum()))
    return Measured(float(ratio(got.sum(), wanted.sum())), resampled_ratio(got, wanted, draws), behind)


def interval(measured: Measured, level: float = 0.95) -> Interval:
    """The rate itself with its percentile interval over requests."""
    one = np.ones((len(measured.resampled), 1), dtype=np.uint16)
    return paired_interval([measured.rate], measured.resampled[None], one, level=level)


def difference(both: Sequence[tuple[Measured, Measured]], seed_draws: Counts, level: float = 0.95) -> Interval:
    """One channel minus another over S seeds, each measured with the same draws; `seed_draws` (D, S)."""
    return paired_interval(
        [first.rate - second.rate for first, second in both],
        np.stack([first.resampled - second.resampled for first, second in both]),
        seed_draws,
        level=level,
    )


class Growth(NamedTuple):
    """What items that a generator never saw cost it."""

    new: Measured
    old: Measured
    new_share: float
    """Of all target times, those of new items."""
    lost: float
    """Hit rate that would be there if new items were found as old ones are: `new_share * (old - new)`."""
    lost_share: float
    """That, of what the hit rate would then be."""


def growth(targets: Targets, found: Found, cut: Cut, draws: Counts, *, new: Flags, old: Flags) -> Growth:
    """Hit rates of new and of old items, and what the gap between them costs; NaN where either is not wanted.

    Args:
        targets: T targets; those that are neither new nor old (of no release) count in the whole alone.
        found: of the channel.
        cut: how much of a list counts.
        draws: (D, Q) of requests, the same for both, so that their difference is paired.
        new: (T,) targets whose item came after the training.
        old: (T,) those whose item was there.
    """
    whole, ours, theirs = (measure(targets, found, cut, draws, of=of) for of in (None, new, old))
    share = float(ratio(targets.times @ new, targets.times.sum()))
    lost = share * (theirs.rate - ours.rate)
    return Growth(ours, theirs, share, lost, float(ratio(lost, whole.rate + lost)))


class SweepRow(NamedTuple):
    """A number of beams: the hit rate and the mean items behind it, of the whole lists and of their first items."""

    beams: int
    rate: float
    items: float
    cut_rate: float
    cut_items: float


def sweep(targets: Targets, found: Found, beams: Sequence[int], *, most: int) -> list[SweepRow]:
    """Hit rates over numbers of beams, uncut and under the first `most` items of a list."""
    everyone = np.ones((1, len(found.items)), dtype=np.uint16)
    rows = []
    for count in beams:
        whole, cut = (measure(targets, found, Cut(count, items), everyone) for items in (None, most))
        rows.append(SweepRow(count, whole.rate, whole.items, cut.rate, cut.items))
    return rows


def equal_beam(rates: Sequence[float], level: float) -> int | None:
    """The least number of beams whose rate reaches a level (another variant's rate); None where none does.

    `rates` are those of 1, 2, 3, ... beams.
    """
    return next((beams for beams, rate in enumerate(rates, start=1) if rate >= level), None)


class Shared(NamedTuple):
    """Shares of all target times that two channels find."""

    both: float
    ours: float
    """Found by ours and missed by the other."""
    theirs: float
    neither: float


def shared(targets: Targets, ours: Flags, theirs: Flags) -> Shared:
    """What two channels find of the targets, (T,) each: together, alone, not at all."""
    whole = targets.times.sum()
    parts = (ours & theirs, ours & ~theirs, ~ours & theirs, ~ours & ~theirs)
    return Shared(*(float(ratio(targets.times @ part, whole)) for part in parts))


def any_of(found: Mapping[str, Flags]) -> Flags:
    """(T,): does any of the channels find it?"""
    some: Flags = np.asarray(np.stack(list(found.values())).any(axis=0))
    return some
