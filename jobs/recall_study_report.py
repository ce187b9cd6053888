"""The report of the recall study: report.md for people, recall.json for machines, both out of what chains kept.

Knows no clock: seconds are those that each chain kept when it was learnt, so a second run says the same.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dsirm_models.recall_chain import RecallSettings
from dsirm_models.recall_data import RecallData
from dsirm_models.recall_found import ChannelFound
from jobs.recall_study_results import (
    ABLATIONS,
    ARM_PAIRS,
    CHANNEL_PAIRS,
    PAPER_RATES,
    SLICES,
    USER_PAIRS,
    Results,
    Row,
    results,
)
from jobs.recall_study_work import Task
from jobs.revision import code_revision
from jobs.settings import RecallSettings as RecallSection
from jobs.study_page import Grid, Section, Text
from jobs.study_report import markdown

COMMAND = "dsirm evaluate --recall --study"
BUDGET_MINUTES = 300
"""Of the whole study, on two cores."""
BUDGETS = {
    "marketplace": 60,
    "cq-sid": 15,
    "rq-vae": 15,
    "no-category": 15,
    "no-contrast": 15,
    "more-contrast": 15,
    "personalised": 15,
    "grpo": 10,
    "eg-grpo": 10,
    "random": 5,
    "popularity": 5,
    "bm25": 10,
    "dense": 10,
}
"""Minutes of one such piece of work in a full study; a chain has one core."""


class Studied(NamedTuple):
    """What a report is made of."""

    data: Path
    settings: RecallSettings
    tasks: Sequence[Task]
    draws: int
    quick: bool


def write_report(root: Path, studied: Studied) -> dict[str, Any]:
    """Write report.md and recall.json; returns their paths and the comparisons."""
    data = RecallData.load(studied.data)
    found = results(root, data, studied.tasks, studied.draws)
    facts = [(task.variant, task.seed, ChannelFound.load(task.found).facts) for task in studied.tasks]
    report = Section("Recall study", [*_head(data, studied), *_tables(data, found), *_about(data, facts)])
    files = {
        "report.md": "\n\n".join(markdown(report, 1)) + "\n",
        "recall.json": json.dumps(found.comparisons, indent=1, allow_nan=False) + "\n",
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    return {"files": {name: str(root / name) for name in files}, "comparisons": found.comparisons}


def _head(data: RecallData, studied: Studied) -> list[Any]:
    told, settings = data.provenance, studied.settings
    world, later = told["world"], data.later
    command = f"{COMMAND} --quick" if studied.quick else COMMAND
    lines = [
        f"`{command}`, revision {code_revision()} (marketplace: {told['code_revision']}), {os.cpu_count()} cores of "
        f"{platform.machine()}.",
        f"A marketplace of {world['items']:,} items and {world['users']:,} users (docs/simulation.md, seed "
        f"{world['seed']}; {told['unseen_share']:.0%} of the queries go by what no text tells). Learned from "
        f"{world['days'] - world['later']} days up to {told['as_of_date']}: {len(data.pair_query):,} clicked pairs, "
        f"{len(data.train.query):,} requests of users. Evaluated on {len(later.query):,} requests of "
        f"{', '.join(told['later_days'])} that led to a click or purchase, {len(set(later.query.tolist())):,} queries: "
        f"{int(later.clicked.sum()):,} clicks, {int(later.shown.sum()):,} impressions, {int(later.bought.sum()):,} "
        f"purchases; with {settings.deep_beams} beams on {min(settings.deep_requests, len(later.query)):,} of them, "
        "drawn by lot.",
        f"{int(data.item_new.sum()):,} items ({told['new_share']:.0%}) came after the training: in no pair, no request "
        "and no history, unknown to quantizer and generator, and given their SID afterwards.",
        f"Codebooks of {' x '.join(map(str, settings.quantizer.codebook_sizes))}. Intervals of 95 %: paired bootstrap, "
        f"{studied.draws:,} draws of queries and seeds together. One marketplace: seeds are those of the training.",
    ]
    if len(later.query) < world["later_requests"]:
        lines.append(f"**Too few requests**: the log of the days after does not have the {world['later_requests']:,}.")
    if studied.quick:
        lines.insert(0, "A quick study: it shows that the study runs, not what recall is worth.")
    return [Text(line) for line in lines]


def _tables(data: RecallData, found: Results) -> list[Any]:
    whole = [row for row in found.comparisons if row["slice"] == row["against_slice"] == "all"]

    def of(pairs: Sequence[tuple[str, str]], metrics: Sequence[str] | None = None) -> list[Row]:
        return [
            row
            for row in whole
            if (row["variant"], row["against"]) in pairs
            and not row["metric"].startswith("equal_beam")
            and (metrics is None or row["metric"] in metrics)
        ]

    equal = [row for row in whole if row["metric"].startswith("equal_beam")]
    growth = [row for row in found.comparisons if row["slice"] == "items=new" and row["against_slice"] == "items=old"]
    sliced = [row for row in found.rates if row["slice"] in SLICES and row["metric"] in ("clk@10", "clk@1000items")]
    return [
        Section("CQ-SID against plain RQ-VAE", [_compared(of([("cq-sid", "rq-vae")])), _equal(equal)]),
        Section("Without its parts", [_compared(of([("cq-sid", name) for name in ABLATIONS if name != "rq-vae"]))]),
        Section("Who asks", [_compared(of(USER_PAIRS)), _histories(found.histories)]),
        Section(
            "The alignment: EG-GRPO, GRPO and what both start from", [_compared(of(ARM_PAIRS)), _moved(found.moved)]
        ),
        Section("Beside other channels", [_compared(of(CHANNEL_PAIRS)), _shared(found.shared)]),
        Section("Daily growth: new items against the others", [_compared(growth), *_lost(data, growth)]),
        Section("Rates", [_rates([row for row in found.rates if row["slice"] == "all"], "All")]),
        Section("By band, and by age of the item", [_rates(sliced, "Parts")]),
        Section("Beam sweep", [_sweep(found.sweep)]),
    ]


def _compared(rows: Sequence[Row]) -> Grid:
    head = ["variant", "against", "metric", "rate", "items", "against: rate", "items", "difference, points", "relative"]
    lines = [
        [
            row["variant"],
            row["against"],
            row["metric"] if row["slice"] == "all" else f"{row['metric']}, {row['slice']} - {row['against_slice']}",
            _share(row["rate"]),
            _number(row["items"]),
            _share(row["against_rate"]),
            _number(row["against_items"]),
            _interval(row["difference"], row["low"], row["high"]),
            _interval(row["relative"], row["relative_low"], row["relative_high"], "%"),
            "" if row["paper_relative"] is None else f"{100 * row['paper_relative']:+.2f} %",
            str(row["seeds"]),
        ]
        for row in rows
    ]
    return Grid("Hit rates in percent, items behind them", [*head, "paper, relative", "seeds"], lines)


def _lost(data: RecallData, growth: Sequence[Row]) -> list[Text]:
    """What new items cost, and when that is reason enough to train again (`jobs.recall_growth`)."""
    later = data.later
    share = float(later.clicked[data.item_new[later.entry_item]].sum() / later.clicked.sum())
    limit = RecallSection().retrain_at
    told = []
    for row in growth:
        if row["metric"] != "clk@10" or not row["rate"] or not row["against_rate"]:
            continue
        gap = 1 - row["rate"] / row["against_rate"]
        when = f"when they get {limit / gap:.0%} of the clicks" if gap > limit else "never"
        told.append(
            Text(
                f"`{row['variant']}` finds new items {gap:.1%} less often at ten beams. They got {share:.1%} of the "
                f"clicks, which costs {share * gap:.2%} of the hit rate; `recall.retrain_at` ({limit:.0%}) is reached "
                f"{when}."
            )
        )
    return told


def _histories(rows: Sequence[Row]) -> Grid:
    lines = [[row["of"], _share(row["own"]), _share(row["other"]), f"{row['clicks']:,}"] for row in rows]
    head = ["what was clicked", "in the user's history, %", "in another's of the category", "clicks"]
    return Grid("Clicks on what is in a history already, requests that have one", head, lines)


def _moved(rows: Sequence[Row]) -> Grid:
    lines = [[row["variant"], _share(row["first"]), _share(row["any"])] for row in rows]
    return Grid(
        "Requests whose SIDs differ from those of `sft`, at least", ["arm", "the first, %", "any of ten"], lines
    )


def _shared(rows: Sequence[Row]) -> Grid:
    columns = ("both", "ours", "theirs", "neither")
    lines = [[row["variant"], row["against"], *(_share(row[name]) for name in columns)] for row in rows]
    head = ["SIDs", "channel", "both, %", "SIDs alone", "channel alone", "neither"]
    return Grid("Clicks found within 1,000 items, mean over seeds", head, lines)


def _equal(rows: Sequence[Row]) -> Grid:
    lines = [
        [
            row["metric"].removeprefix("equal_beam@"),
            _number(row["against_items"]),
            "more than looked at" if row["rate"] is None else f"{row['rate']:.0f}",
            *(("more" if row[end] is None else f"{row['against_rate'] + row[end]:.0f}") for end in ("low", "high")),
            _number(row["items"]),
        ]
        for row in rows
    ]
    head = ["RQ-VAE's beams", "items", "CQ-SID's", "low", "high", "items"]
    return Grid("Beams that CQ-SID needs for RQ-VAE's click hit rate", head, lines)


def _rates(rows: Sequence[Row], caption: str) -> Grid:
    lines = [
        [
            row["variant"],
            row["metric"],
            row["slice"],
            "–" if row["rate"] is None else f"{100 * row['rate']:.2f}",
            "–" if row["low"] is None else f"{100 * row['low']:.2f} to {100 * row['high']:.2f}",
            _number(row["items"]),
            _share(PAPER_RATES.get(row["variant"], {}).get(row["metric"])) if row["slice"] == "all" else "",
        ]
        for row in rows
    ]
    return Grid(caption, ["variant", "metric", "slice", "rate, %", "interval", "items", "paper, %"], lines)


def _sweep(rows: Sequence[Row]) -> Grid:
    lines = [
        [
            row["variant"],
            str(row["beams"]),
            _share(row["rate"]),
            _number(row["items"]),
            _share(row["cut_rate"]),
            _number(row["cut_items"]),
        ]
        for row in rows
    ]
    head = ["variant", "beams", "rate, %", "items", "first 1,000 items: rate, %", "items"]
    return Grid("Click hit rate over numbers of beams, mean over seeds", head, lines)


def _about(data: RecallData, facts: Sequence[tuple[str, int | None, Any]]) -> list[Any]:
    """What the SIDs are like, and what each piece of work took."""
    sids = [
        [
            variant,
            str(seed),
            f"{told['sids']:,}",
            f"{told['items a SID']:.1f}",
            f"{told['items a SID of an item']:.1f}",
            f"{told['split']['largest']:,}",
            f"{told['split']['split']:,}",
            " / ".join(f"{value:.0f}" for value in told["perplexity"]),
            f"{100 * told['new items of known SIDs']:.1f}",
            " / ".join(_share(value) for value in told["pairs that agree"]),
            " / ".join(f"{value:.2f}" for value in told["queries stage"]["held-out log-likelihood"] or []),
        ]
        for variant, seed, told in facts
        if "sids" in told
    ]
    head = [
        "variant",
        "seed",
        "SIDs",
        "items a SID",
        "the same, by item",
        "largest",
        "SIDs split",
        "perplexity a level",
    ]
    head += ["new items on known SIDs, %", "pairs of unseen queries that agree, %", "held-out log-likelihood a level"]
    pieces: dict[str, list[Any]] = {}
    for variant, _, told in facts:
        pieces.setdefault(variant, []).append(told)
    times = [["marketplace", "1", *_minutes([data.provenance["seconds"]]), str(BUDGETS["marketplace"]), ""]]
    for name, of_variant in pieces.items():
        spent = [told["seconds"] for told in of_variant]
        peak = max(told["peak MiB"] for told in of_variant)
        times.append([name, str(len(spent)), *_minutes(spent), str(BUDGETS[name]), f"{peak:,}"])
    every = [data.provenance["seconds"], *(told["seconds"] for _, _, told in facts)]
    learning = sum(sum(seconds.values()) for seconds in every[1:]) / 60
    return [
        Section("What the SIDs are like", [Grid("A chain", head, sids)]),
        Section(
            "What it took",
            [
                Text(
                    f"Chains took {learning:.1f} minutes of one core each, the marketplace "
                    f"{sum(every[0].values()) / 60:.1f} minutes of all; the budget of the whole is {BUDGET_MINUTES} "
                    "minutes on two cores."
                ),
                Grid(
                    "Minutes of a piece of work, its stages in seconds (mean), and its budget in a full study",
                    ["work", "pieces", "minutes", "stages, seconds", "budget, minutes", "peak MiB of a process"],
                    times,
                ),
            ],
        ),
    ]


def _minutes(spent: Sequence[dict[str, float]]) -> tuple[str, str]:
    mean = {stage: sum(seconds[stage] for seconds in spent) / len(spent) for stage in spent[0]}
    return f"{sum(mean.values()) / 60:.1f}", ", ".join(f"{stage} {value:.0f}" for stage, value in mean.items())


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _interval(middle: float | None, low: float | None, high: float | None, unit: str = "") -> str:
    if middle is None or low is None or high is None:
        return "–"
    return f"{100 * middle:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]{unit and f' {unit}'}"
