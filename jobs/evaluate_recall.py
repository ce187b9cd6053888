"""How much of what people wanted is recalled: hit rates at beams and at item budgets, beside other channels.

Reads item_sids, sid_items, catalog, embeddings, pairs and the generator of a release, and the log (see
`jobs.recall_targets`). Writes nothing but the daily counts of days that nobody had aggregated. Of the channels that are
compared, random, popularity, BM25 and nearest neighbours of the frozen encoder recall from the same items in stock, for
the same queries. Every interval resamples queries. `growth` tells what items cost that the generator never saw
(`jobs.recall_growth`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import planned
from jobs.arrays import Items, find, load_items
from jobs.errors import DataError
from jobs.files import without_nan
from jobs.generators import release_sids, sid_of
from jobs.home import Home
from jobs.plan import Plan
from jobs.query_beams import Serving, encoded, predict
from jobs.recall_growth import growth, new_and_old
from jobs.recall_targets import KINDS, Wanted, trained, wanted

if TYPE_CHECKING:
    from dsirm_models.ranking_metrics import Resamples
    from dsirm_models.recall_metrics import Clusters, Found, Targets

JOB = "evaluate-recall"
OURS = "sids"
BEAMS = 100
SWEEP = (1, 2, 3, 5, 10, 20, 30, 50, 65, 80, 100)
BUDGETS = (100, 1000)
MOST = 1000
SEED = 7
log = logging.getLogger(__name__)


def run(home: Home, plan: Plan) -> dict[str, Any]:
    """Rates, comparisons, the sweep over beams, what other channels miss, as rows; and what growth costs."""
    from dsirm_models.ranking_metrics import draw_resamples
    from dsirm_models.recall_metrics import found_by_sids

    asked = wanted(home, plan)
    items = load_items(home, plan)
    behind = _clusters(home, plan, items)
    of = Serving(plan.release, plan.encoder_version, plan.codebook_version, plan.generator_version)
    queries = encoded(home, of, asked.queries)
    log.info("Predicting %d SIDs for each of %d queries", BEAMS, len(queries.ids))
    beams = predict(home, of, queries, BEAMS).sids
    lists = _channels(home, plan, items, behind, asked, queries.vectors)
    draws = draw_resamples(queries=len(asked.query_ids), seeds=1, draws=home.settings.ranker.draws, seed=SEED)
    first = trained(home, plan)
    told: dict[str, Any] = {
        "release": plan.release,
        "targets": {
            "source": asked.source,
            "days": asked.days,
            "queries": len(asked.query_ids),
            "queries_there_were": asked.of,
            **{column: int(pc.sum(asked.pairs[column]).as_py() or 0) for column in KINDS.values()},
        },
        "rates": [],
        "comparisons": [],
        "sweep": [],
        "others": [],
    }
    for kind, column in KINDS.items():
        targets = _targets(asked, items, column)
        if not len(targets.item):
            continue
        found = {OURS: found_by_sids(beams, behind, targets), **_in_lists(lists, targets)}
        slices = _slices(asked, targets, items, first.items)
        _tell(told, kind, targets, found, slices, draws)
        if kind == "clk":
            told["growth"] = growth(home, plan, first, items, targets, found[OURS], draws)
    return told


def _targets(asked: Wanted, items: Items, column: str) -> Targets:
    from dsirm_models.recall_metrics import Targets

    rows = asked.pairs.filter(pc.greater(asked.pairs[column], 0))
    item = find(items.hashes, rows["item_hash"].to_numpy())
    return Targets(rows["request"].to_numpy(), item, rows[column].to_numpy())


def _clusters(home: Home, plan: Plan, items: Items) -> Clusters:
    """What is behind each SID of the release, as `generate-recall` has it."""
    from dsirm_models.recall_metrics import make_clusters

    hashes, sids, _ = release_sids(home.store, plan.release, plan.codebook_version)
    stock = planned.read_arrow(home, plan, "catalog", ["item_hash", "in_stock"]).sort_by("item_hash")
    listed = planned.read_arrow(home, plan, "sid_items", ["items", "efficiency"])
    if listed["efficiency"].null_count:
        raise DataError(f"{plan.release} was made before the order of its items was kept: evaluate a later release.")
    ids, rates = (listed[name].combine_chunks().flatten() for name in ("items", "efficiency"))
    row = pc.index_in(ids, value_set=pa.array(items.ids)).to_numpy(zero_copy_only=False)
    efficiency = np.zeros(len(items.hashes), dtype=np.int64)
    efficiency[row.astype(np.int64)] = rates.to_numpy(zero_copy_only=False)
    return make_clusters(
        sid_of(hashes, sids, items.hashes),
        efficiency,
        items.hashes,
        stock["in_stock"].to_numpy(zero_copy_only=False).astype(bool),
    )


def _channels(
    home: Home, plan: Plan, items: Items, behind: Clusters, asked: Wanted, vectors: np.ndarray
) -> dict[str, np.ndarray]:
    from dsirm_models import recall_channels as channels

    rows = np.flatnonzero(behind.of_item >= 0)
    clicks = planned.read_arrow(home, plan, "pairs", ["item_hash", "clicks"])
    totals = clicks.group_by("item_hash").aggregate([("clicks", "sum")])
    popularity = np.zeros(len(items.hashes), dtype=np.int64)
    place = find(items.hashes, totals["item_hash"].to_numpy())
    popularity[place[place >= 0]] = totals["clicks_sum"].to_numpy()[place >= 0]
    count = len(asked.queries)
    log.info("Recalling by four other channels")
    return {
        "random": channels.random_lists(rows, requests=count, items=MOST, seed=SEED),
        "popularity": channels.popular_lists(rows, popularity, requests=count, items=MOST),
        "bm25": channels.bm25_lists(rows, items.texts, asked.queries, items=MOST),
        "dense": channels.dense_lists(rows, items.vectors, vectors, items=MOST),
    }


def _in_lists(lists: dict[str, np.ndarray], targets: Targets) -> dict[str, Found]:
    from dsirm_models.recall_metrics import found_in_lists

    return {name: found_in_lists(ranked, targets) for name, ranked in lists.items()}


def _slices(asked: Wanted, targets: Targets, items: Items, trained: np.ndarray | None) -> dict[str, np.ndarray | None]:
    """Slice -> the targets in it (T,); None: all."""
    found: dict[str, np.ndarray | None] = {"all": None}
    bands = asked.bands[targets.request]
    for band in ("head", "torso", "tail", "unseen"):
        found[f"band={band}"] = bands == band
    if trained is not None:
        new, old = new_and_old(targets, items, trained)
        found |= {"items=old": old, "items=new": new}
    return {name: mask for name, mask in found.items() if mask is None or mask.any()}


def _tell(
    told: dict[str, Any],
    kind: str,
    targets: Targets,
    found: dict[str, Found],
    slices: dict[str, np.ndarray | None],
    draws: Resamples,
) -> None:
    """Add the rows of one kind of target."""
    from dsirm_models import recall_metrics as metrics

    budgets = [metrics.Cut(items=count) for count in BUDGETS]
    of_beams = [metrics.Cut(count, most) for most in (None, MOST) for count in (1, 10, 100)]
    queries = len(draws.queries[0])
    for name, mask in slices.items():
        for channel, of_channel in found.items():
            for cut in (*of_beams, *budgets) if channel == OURS else budgets:
                one = metrics.measure(targets, of_channel, cut, draws.queries, of=mask)
                rate, low, high = metrics.interval(one)
                row = {"channel": channel, "metric": f"{kind}@{cut.name}", "slice": name, "rate": rate}
                told["rates"].append(without_nan({**row, "low": low, "high": high, "items": one.items}))
    for cut in budgets:
        measured = {name: metrics.measure(targets, one, cut, draws.queries) for name, one in found.items()}
        for against, other in measured.items():
            if against == OURS:
                continue
            row = {"variant": OURS, "against": against, "metric": f"{kind}@{cut.name}"}
            gap = metrics.difference([(measured[OURS], other)], draws.seeds)._asdict()
            told["comparisons"].append(without_nan({**row, **gap, "seeds": 1, "queries": queries}))
    for swept in metrics.sweep(targets, found[OURS], SWEEP, most=MOST):
        told["sweep"].append({"metric": kind, **without_nan(swept._asdict())})
    hits = {name: metrics.hits(of_channel, metrics.Cut(items=MOST)) for name, of_channel in found.items()}
    ours = hits.pop(OURS)
    for against, theirs in {**hits, "all of them": metrics.any_of(hits)}.items():
        both = without_nan(metrics.shared(targets, ours, theirs)._asdict())
        told["others"].append({"metric": f"{kind}@{MOST}items", "against": against, **both})
