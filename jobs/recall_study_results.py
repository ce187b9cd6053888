"""The comparisons of the recall study, out of what its chains found: one object each, computed once.

Which variants are compared, on which metrics and slices, and what the paper measured beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dsirm_models.recall_chain import ARMS, VARIANTS, ItemSids
from dsirm_models.recall_comparisons import (
    KINDS,
    Chain,
    Rates,
    Wish,
    compare,
    equal_beams,
    measured,
    rate_of,
    slices_of,
)
from dsirm_models.recall_data import BANDS, RecallData, Requests
from dsirm_models.recall_evidence import history_tells, moved
from dsirm_models.recall_found import ChannelFound, deep_rows
from dsirm_models.recall_metrics import Cut, Found, Shared, Targets, any_of, hits, shared
from jobs.files import write_json
from jobs.recall_study_work import CHANNELS, Task
from jobs.study_work import source_hash
from schemas.fingerprint import digest
from schemas.sids import shift_for

DATA = "marketplace"
PAPER_RATES = {
    "rq-vae": {"clk@1": 0.0598, "clk@10": 0.2579, "clk@100": 0.5199},
    "no-category": {"clk@1": 0.0680, "clk@10": 0.2870, "clk@100": 0.5578},
    "no-contrast": {"clk@1": 0.0596, "clk@10": 0.2691, "clk@100": 0.5652},
    "cq-sid": {"clk@1": 0.0758, "clk@10": 0.3161, "clk@100": 0.6181},
    "not personalised": {"clk@1": 0.1359, "clk@100": 0.7513},
    "personalised": {"clk@1": 0.1510, "clk@100": 0.8062},
    "sft": {"clk@1": 0.1510, "clk@10": 0.5206, "exp@10": 0.8693},
    "grpo": {"clk@1": 0.1519, "clk@10": 0.5196, "exp@10": 0.8702},
    "eg-grpo": {"clk@1": 0.1524, "clk@10": 0.5221, "exp@10": 0.8703},
}
"""CQ-SID (arXiv 2605.14434), results. Its personal table has another test set than its first."""
PAPER_NAMES = {("personalised", "cq-sid"): "not personalised"}
ABLATIONS = tuple(name for name in VARIANTS if name != "cq-sid")
SID_PAIRS = [("cq-sid", name) for name in ABLATIONS]
USER_PAIRS = [("personalised", "cq-sid"), ("personalised", "nameless"), ("nameless", "cq-sid")]
ARM_PAIRS = [("eg-grpo", "sft"), ("grpo", "sft"), ("eg-grpo", "grpo")]
CHANNEL_PAIRS = [(ours, channel) for ours in ("cq-sid", "personalised") for channel in CHANNELS]
SLICES = (*(f"band={name}" for name in BANDS), "items=old", "items=new")
MOST = 1000
LOT = 17
WIDE = [Wish(kind, Cut(beams, items)) for kind in KINDS for items in (None, MOST) for beams in (1, 10)]
WIDE_SLICED = ("clk@1", "clk@10")
BUDGETS = [Wish(kind, Cut(items=count)) for kind in KINDS for count in (100, MOST)]
DEEP = [*(Wish(kind, Cut(100, items)) for kind in KINDS for items in (None, MOST)), *BUDGETS]
DEEP_SLICED = ("clk@100", "clk@100items", "clk@1000items")
SWEEP = (1, 2, 3, 5, 10, 20, 30, 50, 65, 80, 100, 150, 200)
EQUAL = (10, 20, 50, 100)
"""Beams of RQ-VAE whose rate CQ-SID is to reach with fewer."""
Row = dict[str, Any]
Table = dict[str, dict[int | None, dict[Wish, Rates]]]


class Results(NamedTuple):
    """What the report tells."""

    comparisons: list[Row]
    rates: list[Row]
    sweep: list[Row]
    shared: list[Row]
    """Of the clicks, what SIDs and another channel both find within 1,000 items, or one alone."""
    moved: list[Row]
    """How many requests an arm gives other SIDs than the model that it started from."""
    histories: list[Row]
    """How often a click is on something that the user, or another one of the category, clicked before."""


def results(root: Path, data: RecallData, tasks: Sequence[Task], draws: int) -> Results:
    """All comparisons, computed unless they were from the same chains."""
    asked = {
        "chains": [task.out.name for task in tasks],
        "draws": draws,
        "code": source_hash("jobs.recall_study_results"),
    }
    path = root / "comparisons" / f"{digest(asked)[:16]}.json"
    if not path.is_file():
        write_json(path, _computed(data, tasks, draws)._asdict())
    return Results(**json.loads(path.read_text(encoding="utf-8")))


def _computed(data: RecallData, tasks: Sequence[Task], draws: int) -> Results:
    deep = data.later.take(deep_rows(data.later, tasks[0].settings.deep_requests))
    wide_found, deep_found = _load(tasks)
    comparisons: list[Row] = []
    rates: list[Row] = []
    for requests, found, wishes, sliced in (
        (data.later, wide_found, WIDE, WIDE_SLICED),
        (deep, deep_found, DEEP, DEEP_SLICED),
    ):
        slices = slices_of(requests, BANDS, data.query_band, data.item_new)
        parts = [
            wish._replace(slice=name) for wish in wishes if wish.metric in sliced for name in SLICES if name in slices
        ]
        measures = _table(measured(requests, found, [*wishes, *parts], slices, draws=draws))
        queries = len(set(requests.query.tolist()))
        for ours, theirs in (*SID_PAIRS, *USER_PAIRS, *ARM_PAIRS, *CHANNEL_PAIRS):
            if ours not in measures or theirs not in measures:
                continue
            fit = _fitting(theirs, [*wishes, *parts])
            comparisons += [_compared(measures, ours, theirs, wish, wish, queries) for wish in fit]
        for wish in wishes if "items=new" in slices else []:
            if wish.metric in sliced:
                new, old = (wish._replace(slice=f"items={name}") for name in ("new", "old"))
                for name in ("cq-sid", "rq-vae", "personalised"):
                    comparisons.append(_compared(measures, name, name, new, old, queries))
        rates += [row for name in measures for row in _rates(measures[name], name, _fitting(name, [*wishes, *parts]))]
    found_sweep, equal = _swept(data, deep, deep_found, draws)
    told = _shared(deep, deep_found), _moved(wide_found), _histories(data, tasks)
    return Results([*comparisons, *equal], rates, found_sweep, *told)


def _fitting(name: str, wishes: Sequence[Wish]) -> list[Wish]:
    """A channel without SIDs has no beams: it is measured at equal numbers of items alone."""
    return [wish for wish in wishes if name not in CHANNELS or wish.cut.beams is None]


def _shared(deep: Requests, found: dict[Chain, Found]) -> list[Row]:
    """What SIDs find that the other channels miss, and these that SIDs miss: shares of the clicks, mean over seeds."""
    cut = Cut(items=MOST)
    targets = Targets(*(column.astype(np.int64) for column in (deep.entry_request, deep.entry_item, deep.clicked)))
    channels = {name: hits(found[Chain(name, None)], cut) for name in CHANNELS if Chain(name, None) in found}
    if not channels:
        return []
    every = {**channels, " + ".join(channels): any_of(channels)}
    rows = []
    for variant in ("cq-sid", "personalised"):
        own = [hits(one, cut) for chain, one in found.items() if chain.variant == variant]
        for name, theirs in every.items() if own else ():
            parts = np.mean([shared(targets, ours, theirs) for ours in own], axis=0)
            named = dict(zip(Shared._fields, map(float, parts), strict=True))
            rows.append(_finite({"variant": variant, "against": name, **named, "seeds": len(own)}))
    return rows


def _moved(found: dict[Chain, Found]) -> list[Row]:
    rows = []
    for arm in ARMS:
        seeds = [chain.seed for chain in found if chain.variant == arm]
        shares = [moved(found[Chain(arm, seed)], found[Chain("sft", seed)]) for seed in seeds]
        if shares:
            first, beams = np.mean(shares, axis=0).tolist()
            rows.append(_finite({"variant": arm, "against": "sft", "first": first, "any": beams, "seeds": len(seeds)}))
    return rows


def _histories(data: RecallData, tasks: Sequence[Task]) -> list[Row]:
    rows = []
    sids = [ItemSids.load(task.out / "sids").sids for task in tasks if task.variant == "cq-sid"]
    category = data.item_category.astype(np.int64)
    for what, depth in (("SID", 3), ("first two codes", 2), ("first code", 1)):
        told = [history_tells(data.later, own >> shift_for(depth), category, seed=LOT) for own in sids]
        own, other = np.mean([part[:2] for part in told], axis=0).tolist()
        row = {"of": what, "own": own, "other": other, "clicks": told[0].clicks, "seeds": len(told)}
        rows.append(_finite(row))
    return rows


def _load(tasks: Sequence[Task]) -> tuple[dict[Chain, Found], dict[Chain, Found]]:
    """What every chain found, with few beams and with many. `sft` is the personal generator, the arms' start."""
    wide: dict[Chain, Found] = {}
    deep: dict[Chain, Found] = {}
    for task in tasks:
        found = ChannelFound.load(task.found)
        names = ("personalised", "sft") if task.variant == "personalised" else (task.variant,)
        for name in names:
            if found.wide is not None:
                wide[Chain(name, task.seed)] = found.wide
            if found.deep is not None and name != "sft":
                deep[Chain(name, task.seed)] = found.deep
        if task.variant == "personalised":
            alone = ChannelFound.load(task.out / "nameless").wide
            assert alone is not None
            wide[Chain("nameless", task.seed)] = alone
    return wide, deep


def _table(found: dict[tuple[Chain, Wish], Rates]) -> Table:
    table: Table = {}
    for (chain, wish), rates in found.items():
        table.setdefault(chain.variant, {}).setdefault(chain.seed, {})[wish] = rates
    return table


def _of(table: Table, name: str, wish: Wish) -> dict[int | None, Rates]:
    return {seed: rates[wish] for seed, rates in table[name].items()}


def _compared(table: Table, ours: str, theirs: str, wish: Wish, other: Wish, queries: int) -> Row:
    found = compare(_of(table, ours, wish), _of(table, theirs, other))
    row = {
        "data": DATA,
        "variant": ours,
        "against": theirs,
        "metric": wish.metric,
        "slice": wish.slice,
        "against_slice": other.slice,
        **found.absolute._asdict(),
        "seeds": found.seeds,
        "queries": queries,
        "rate": found.rate,
        "against_rate": found.against_rate,
        "items": found.items,
        "against_items": found.against_items,
        "relative": found.relative.difference,
        "relative_low": found.relative.low,
        "relative_high": found.relative.high,
        "paper_relative": paper_relative(ours, theirs, wish.metric) if wish.slice == other.slice == "all" else None,
    }
    return _finite(row)


def paper_relative(ours: str, theirs: str, metric: str) -> float | None:
    """The paper's relative difference of two rates, where it has both."""
    base = PAPER_RATES.get(PAPER_NAMES.get((ours, theirs), theirs), {}).get(metric)
    rate = PAPER_RATES.get(ours, {}).get(metric)
    return None if base is None or rate is None else rate / base - 1


def _rates(seeds: dict[int | None, dict[Wish, Rates]], name: str, wishes: Sequence[Wish]) -> list[Row]:
    rows = []
    for wish in wishes:
        found, items = rate_of({seed: rates[wish] for seed, rates in seeds.items()})
        row = {"variant": name, "metric": wish.metric, "slice": wish.slice, "rate": found.difference}
        # The stretch for few seeds can lead out of what a rate can be.
        low, high = np.clip([found.low, found.high], 0, 1).tolist()
        rows.append(_finite({**row, "low": low, "high": high, "items": items, "seeds": len(seeds)}))
    return rows


def _swept(data: RecallData, deep: Any, found: dict[Chain, Found], draws: int) -> tuple[list[Row], list[Row]]:
    """Rates over numbers of beams, whole and under the first items; and how many beams CQ-SID needs for RQ-VAE's."""
    beams = {chain: one for chain, one in found.items() if chain.seed is not None}
    swept = measured(
        deep, beams, [Wish("clk", Cut(count, items)) for count in SWEEP for items in (None, MOST)], {}, draws=1
    )
    rows = []
    for name in dict.fromkeys(chain.variant for chain in beams):
        for count in SWEEP:
            row: Row = {"variant": name, "beams": count}
            for prefix, items in (("", None), ("cut_", MOST)):
                of = [
                    rates
                    for (chain, wish), rates in swept.items()
                    if chain.variant == name and wish.cut == Cut(count, items)
                ]
                row[f"{prefix}rate"] = sum(one.rate for one in of) / len(of)
                row[f"{prefix}items"] = sum(one.items for one in of) / len(of)
            rows.append(_finite(row))
    both = {chain: one for chain, one in beams.items() if chain.variant in ("cq-sid", "rq-vae")}
    equal = [row for items in (None, MOST) for row in _equal(deep, both, items, draws)]
    return rows, equal


def _equal(deep: Requests, both: dict[Chain, Found], cut: int | None, draws: int) -> list[Row]:
    """Beams that CQ-SID needs for RQ-VAE's rate: of whole clusters, and of what is left of them in a list of 1,000."""
    wishes = [Wish("clk", Cut(count, cut)) for count in range(1, max(SWEEP) + 1)]
    curve = measured(deep, both, wishes, {}, draws=draws)
    sides = {
        name: {chain.seed: [curve[chain, wish] for wish in wishes] for chain in both if chain.variant == name}
        for name in ("cq-sid", "rq-vae")
    }

    def behind(name: str, beams: float) -> float:
        return float(np.mean([rates[int(beams) - 1].items for rates in sides[name].values()]))

    equal = []
    for count in EQUAL:
        needed = equal_beams(sides["cq-sid"], sides["rq-vae"], count)
        reached = math.isfinite(needed.difference)
        row = {
            "data": DATA,
            "variant": "cq-sid",
            "against": "rq-vae",
            "metric": f"equal_beam@{Cut(count, cut).name}",
            "slice": "all",
            "against_slice": "all",
            **{name: value - count for name, value in needed._asdict().items()},
            "seeds": len(sides["cq-sid"]),
            "queries": len(set(deep.query.tolist())),
            "rate": needed.difference,
            "against_rate": count,
            "items": behind("cq-sid", needed.difference) if reached else math.nan,
            "against_items": behind("rq-vae", count),
        }
        equal.append(_finite(row))
    return equal


def _finite(row: Row) -> Row:
    """Without what JSON does not know, and no more digits than mean anything."""
    return {
        key: (round(value, 6) if math.isfinite(value) else None) if isinstance(value, float) else value
        for key, value in row.items()
    }
