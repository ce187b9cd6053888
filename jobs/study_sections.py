"""The sections of a study's report: which table and which plot says what, in this order, for every format.

Each data set is read by one ranker on one set of other features; the rest is there to be unfolded, so that nobody picks
the best of many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from jobs.study_page import (
    UNDEFINED,
    Block,
    Bullets,
    Forest,
    Grid,
    Interval,
    Panel,
    Panels,
    Point,
    Section,
    Text,
    signed,
)
from jobs.study_reading import (
    DSIRM,
    METRICS,
    NONE,
    VARIANTS,
    Cell,
    Data,
    Row,
    Study,
    StudyTables,
    answer,
    curves,
    data_findings,
    findings,
    in_points,
    interval,
    rank,
    reading,
    variant_label,
)

_METRIC_NAMES = {
    "auc": "AUC",
    "auc_query": "AUC within a query",
    "ndcg10": "NDCG@10",
    "precision": "precision",
    "recall": "recall",
}
_MEASURES = {
    "utilisation": "codes in use",
    "perplexity": "perplexity",
    "gini": "Gini",
    "bucket_p50": "items a prefix, median",
    "bucket_p99": "items a prefix, P99",
    "bucket_max": "items a prefix, most",
    "purity_category": "purity, category",
    "clicked_share": "clicked pairs sharing",
    "random_share": "random pairs sharing",
    "hit_k1": "hit, 1 beam",
    "hit_k5": "hit, 5 beams",
    "hit_k20": "hit, 20 beams",
    "collision_rate": "collision rate",
}
_PAPER = {
    NONE: 0.9202,
    "dsi": 0.9312,
    "tiger": 0.9323,
    DSIRM: 0.9356,
    "dsirm-no-bridge": 0.9347,
    "dsirm-no-category": 0.9349,
}
_HARD = ("dsi-hard", "tiger-hard", "dsirm-hard")


def report(tables: StudyTables) -> Section:
    """The whole report."""
    study = Study(tables)
    blocks: list[Block] = [Text(answer(study)), *_list(findings(study)), *_overview(study), Text(_HOW_TO_READ)]
    blocks += [_data_section(study, data) for data in study.data]
    blocks += [_paper(study), _variants(study), _provenance(study)]
    return Section("What semantic IDs are worth: baselines, ablations and intervals", blocks)


_HOW_TO_READ = (
    "Differences are in points, hundredths of the metric, with 95 % intervals of a paired bootstrap over queries and "
    "seeds together. Inside the noise: the interval includes zero, so this study cannot tell the difference from none. "
    "A filled dot marks an interval that excludes zero. Of many intervals about one in twenty excludes zero by chance "
    "alone: trust what repeats over data sets, not a single filled dot."
)


def _list(items: Sequence[tuple[str, str]]) -> list[Block]:
    return [Bullets(items)] if items else []


def _interval(label: str, row: Row) -> Interval:
    return Interval(label, *in_points(row))


def _overview(study: Study) -> list[Block]:
    """DSIRM against none on every data set, small logs too."""
    found = [(data, cell, row) for data in study.data if (row := study.compared(cell := study.primary(data)))]
    if not found:
        return []
    caption = "AUC of DSIRM against the ranker without semantic IDs, in points"
    head = ["data", "AUC none", "AUC DSIRM", "difference", "reading", "queries", "seeds"]
    rows = [
        [
            data.label,
            *_aucs(study, cell),
            interval(row),
            reading(row),
            *map(_count, (row["queries"], row["seeds"])),
        ]
        for data, cell, row in found
    ]
    panels = []
    for title, _, points in curves(study):
        drawn = [Point(x, y, *ends) for x, (y, *ends) in ((x, in_points(row)) for x, row in points) if y is not None]
        if drawn:
            panels.append(Panel(title, [(variant_label(DSIRM), drawn)], unit_square=False))
    curve = Panels("The same as curves", "percent", "points of AUC", panels)
    forest = Forest(caption, [_interval(data.label, row) for data, _, row in found])
    return [forest, Grid("The same in figures", head, rows), *([curve] if panels else [])]


def _data_section(study: Study, data: Data) -> Section:
    cell = study.primary(data)
    blocks: list[Block] = [Text(_facts(study, data, cell)), *_list(data_findings(study, data))]
    variants = study.variants(cell)
    sides = {
        "Each variant against none": [(name, study.compared(cell, name)) for name in variants],
        "DSIRM against each variant": [(name, study.compared(cell, DSIRM, name)) for name in variants if name != NONE],
    }
    for title, rows in sides.items():
        drawn = [_interval(variant_label(name), row) for name, row in rows if row]
        if drawn:
            blocks.append(Forest(f"{data.label}. {title}: AUC in points, {cell.label}", drawn))
    head = ["variant", *_METRIC_NAMES.values(), "AUC against none, points", "reading"]
    means = []
    for name in variants:
        row = study.compared(cell, name)
        metrics = [_metric(study.mean(cell, name, metric)) for metric in METRICS]
        means.append([variant_label(name), *metrics, *([interval(row), reading(row)] if row else [UNDEFINED, ""])])
    blocks.append(Grid(f"{data.label}. Metrics, means over seeds, {cell.label}", head, means))
    blocks += [
        *_every_metric(study, cell, data),
        *_other_cells(study, data),
        *_slices(study, cell, data),
        *_quality(study, data),
        *_calibration(study, cell, data),
    ]
    return Section(data.label, blocks, folded=data.log < 100)


def _facts(study: Study, data: Data, cell: Cell) -> str:
    said = [f"Read by {cell.label}."]
    sources = [row for row in study.tables.provenance if row["data"] == data.name]
    if sources:
        counts = {
            name: _span(row[name] for row in sources)
            for name in ("judged_pairs", "judged_queries", "items", "queries", "pairs")
        }
        said.append(
            "{judged_pairs} judged pairs of {judged_queries} queries; {items} items, {queries} queries of the log and "
            "{pairs} clicked pairs; {seeds} seeds.".format(**counts, seeds=len({row["seed"] for row in sources}))
        )
    if data.share is not None:
        said.append(f"{data.share} % of what shoppers go by is in the log and in no text.")
    if data.log < 100:
        said.append(f"Only {data.log} % of the log was used.")
    return " ".join(said)


def _every_metric(study: Study, cell: Cell, data: Data) -> list[Block]:
    grids: list[Block] = []
    for title, key in (("Each variant against none", NONE), ("DSIRM against each variant", DSIRM)):
        rows = []
        for name in study.variants(cell):
            sides = (name, NONE) if key == NONE else (DSIRM, name)
            found = [study.compared(cell, *sides, metric) for metric in METRICS]
            if any(found):
                rows.append([variant_label(name), *(interval(row) if row else UNDEFINED for row in found)])
        if rows:
            grids.append(Grid(f"{data.label}. {title}, in points", ["variant", *_METRIC_NAMES.values()], rows))
    return [Section("Every metric with its interval", grids, folded=True)] if grids else []


def _other_cells(study: Study, data: Data) -> list[Block]:
    cells = study.cells(data.name)
    names = sorted({name for cell in cells for name in study.variants(cell)} - {NONE}, key=lambda n: rank(n, VARIANTS))
    rows = [["none, AUC", *(_auc(study, cell, NONE) for cell in cells)]]
    for name in names:
        found = [study.compared(cell, name) for cell in cells]
        rows.append([variant_label(name), *(interval(row) if row else UNDEFINED for row in found)])
    forest = [_interval(cell.label, row) for cell in cells if (row := study.compared(cell))]
    blocks: list[Block] = [
        Forest(f"{data.label}. DSIRM against none by ranker and other features: AUC in points", forest),
        Grid(f"{data.label}. AUC against none, in points", ["variant", *(cell.label for cell in cells)], rows),
    ]
    return [Section("Other rankers and other features", blocks, folded=True)] if len(cells) > 1 else []


def _slices(study: Study, cell: Cell, data: Data) -> list[Block]:
    found = [(name, row) for name in study.slices(cell) if (row := study.compared(cell, slice_=name))]
    rows = [
        [name, _count(row["queries"]), *_aucs(study, cell, name), interval(row), reading(row)] for name, row in found
    ]
    caption = f"{data.label}. DSIRM against none by slice: AUC in points"
    head = ["slice", "queries", "AUC none", "AUC DSIRM", "difference", "reading"]
    blocks: list[Block] = [Forest(caption, [_interval(name, row) for name, row in found]), Grid(caption, head, rows)]
    return [Section("Slices", blocks, folded=True)] if found else []


def _quality(study: Study, data: Data) -> list[Block]:
    """One table by level, and one of what has no level."""
    values: dict[tuple[str, int | None], dict[str, list[float]]] = {}
    for row in study.tables.quality:
        if row["data"] == data.name and row["value"] is not None:
            measures = values.setdefault((row["variant"], row["level"]), {})
            measures.setdefault(row["measure"], []).append(row["value"])
    blocks: list[Block] = []
    for title, levelled in (("by level, means over seeds", True), ("whole IDs, means over seeds", False)):
        part = {key: found for key, found in values.items() if (key[1] is not None) == levelled}
        names = sorted({name for found in part.values() for name in found}, key=lambda name: rank(name, _MEASURES))
        rows = [
            [variant_label(variant), *([str(level)] if levelled else [])]
            + [_measure(name, found[name]) if name in found else UNDEFINED for name in names]
            for (variant, level), found in sorted(part.items(), key=lambda i: (rank(i[0][0], VARIANTS), i[0][1] or 0))
        ]
        heads = [_MEASURES.get(name, name.replace("purity_", "purity, ")) for name in names]
        if rows:
            head = ["variant", *(["level"] if levelled else []), *heads]
            blocks.append(Grid(f"{data.label}. Quality of the IDs, {title}", head, rows))
    return blocks


def _calibration(study: Study, cell: Cell, data: Data) -> list[Block]:
    """Predicted against observed shares of a grade, without and with DSIRM."""
    bins: dict[int, dict[str, list[Row]]] = {}
    for row in study.tables.calibration:
        here = (row["data"], row["base"], row["ranker"]) == cell and row["variant"] in (NONE, DSIRM)
        if here and row["predicted"] is not None and row["observed"] is not None:
            bins.setdefault(row["grade"], {}).setdefault(row["variant"], []).append(row)
    if not bins:
        return []
    panels, rows = [], []
    for grade, by_variant in sorted(bins.items()):
        title = f"grade {grade} or more"
        series = []
        for name in (DSIRM, NONE):
            found = sorted(by_variant.get(name, []), key=lambda row: row["bin"])
            series.append((variant_label(name), [Point(row["predicted"], row["observed"]) for row in found]))
            pairs = sum(row["pairs"] for row in found)
            if pairs:
                gap = math.fsum(row["pairs"] * abs(row["predicted"] - row["observed"]) for row in found) / pairs
                rows.append([title, variant_label(name), f"{gap:.3f}", _count(pairs)])
        panels.append(Panel(title, series, unit_square=True))
    caption = f"{data.label}. Calibration: the probability that the ranker gives a grade, and how often it is right"
    head = ["grade", "variant", "mean gap", "pairs"]
    grid = Grid(f"{data.label}. Calibration: mean distance from the diagonal, by pairs", head, rows)
    return [Panels(caption, "predicted", "observed", panels), grid]


def _paper(study: Study) -> Section:
    rows = []
    for name in [*_PAPER, *_HARD]:
        ours = []
        for data in study.whole:
            cell = study.primary(data)
            row = study.compared(cell, name)
            ours.append(_auc(study, cell, name) + (f" ({signed(in_points(row)[0])})" if row else ""))
        theirs = UNDEFINED
        if name in _PAPER:
            gain = 100 * (_PAPER[name] - _PAPER[NONE])
            theirs = f"{_PAPER[name]:.4f}" + ("" if name == NONE else f" ({signed(gain)})")
        rows.append([variant_label(name), theirs, *ours])
    said = (
        "The paper (arXiv 2606.04374) has another catalogue, log, encoder and judge. Its figures are there to be "
        "compared with, not to be reached. Its rankers read the hard match score alone: the last rows here."
    )
    grid = Grid(
        "AUC, and in brackets its points against none",
        ["variant", "paper", *(data.label for data in study.whole)],
        rows,
    )
    return Section("Beside the paper", [Text(said), grid])


def _variants(study: Study) -> Section:
    names = {row["variant"] for row in (*study.tables.comparisons, *study.tables.scores)}
    rows = []
    for name in sorted(names, key=lambda n: rank(n, VARIANTS)):
        label, meaning = VARIANTS.get(name, (name, ""))
        rows.append([label, meaning, f"`{name}`"])
    return Section(
        "The variants", [Grid("What each one is, and its name in the tables", ["here", "what", "name"], rows)]
    )


def _provenance(study: Study) -> Section:
    counts = ("items", "queries", "pairs", "judged_pairs", "judged_queries")
    rows = [
        [row["data"], str(row["seed"]), *(_count(row[name]) for name in counts)]
        + [f"`{row[name]}`" for name in ("config_hash", "code_revision", "tables")]
        for row in study.tables.provenance
    ]
    head = ["data", "seed", *(name.replace("_", " ") for name in counts), "settings", "code", "tables"]
    blocks: list[Block] = [
        Text("`dsirm evaluate --study` repeats it. Settings, code and tables say whether two runs are the same."),
        *(Text(note) for note in study.tables.notes),
        Section("Each run", [Grid("What each run was computed from", head, rows)], folded=True),
    ]
    return Section("Where the figures come from, and how to repeat them", blocks)


def _auc(study: Study, cell: Cell, variant: str, slice_: str = "all") -> str:
    return _metric(study.mean(cell, variant, "auc", slice_))


def _aucs(study: Study, cell: Cell, slice_: str = "all") -> list[str]:
    return [_auc(study, cell, variant, slice_) for variant in (NONE, DSIRM)]


def _metric(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.4f}"


def _count(value: int | None) -> str:
    return UNDEFINED if value is None else f"{value:,}"


def _span(values: Iterable[int]) -> str:
    distinct = sorted(set(values))
    return f"{distinct[0]:,}" if len(distinct) == 1 else f"{distinct[0]:,} to {distinct[-1]:,}"


def _measure(name: str, values: Sequence[float]) -> str:
    mean = math.fsum(values) / len(values)
    if name == "gini":
        return f"{mean:.3f}"
    if name == "perplexity" or name.startswith("bucket_"):
        return f"{mean:,.1f}"
    return f"{100 * mean:.3g} %"
