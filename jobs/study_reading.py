"""A study's flat rows, looked up and said in plain words: what is above zero, below it, or inside the noise."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jobs.study_page import bracketed, signed, verdict

Row = dict[str, Any]
METRICS = ("auc", "auc_query", "ndcg10", "precision", "recall")
NONE, DSIRM, NULL = "none", "dsirm", "null"

VARIANTS = {
    NONE: ("none", "the ranker without semantic IDs"),
    "dsi": ("DSI", "IDs of hierarchical k-means"),
    "tiger": ("TIGER", "IDs of a residual quantizer that sees items alone"),
    "rkmeans": ("residual k-means", "IDs of residual k-means"),
    DSIRM: ("DSIRM", "DSIRM's IDs; the soft match score, one column: the score's expectation under the generator"),
    "dsirm-hard": ("DSIRM hard score", "the same IDs, the hard match score alone, as in the paper"),
    "dsirm-own": ("DSIRM own logp", "the same IDs, the log-probability of the item's own ID"),
    "dsirm-mass": ("DSIRM beam mass", "the same IDs, the hard score and the beams' mass per level"),
    "dsirm-beams": (
        "DSIRM soft by beams",
        "the same IDs, the soft score from the beams alone, as all pairs can have it",
    ),
    "dsi-hard": ("DSI hard score", "IDs of hierarchical k-means, the hard match score alone"),
    "tiger-hard": ("TIGER hard score", "TIGER's IDs, the hard match score alone"),
    "dsirm-no-bridge": ("without bridge", "DSIRM without the contrast between queries and items"),
    "dsirm-no-category": ("without category", "DSIRM without a category per first code"),
    "dsirm-dynamic": ("dynamic embeddings", "DSIRM over an encoder whose top layer clicks have tuned"),
    "dsirm-nearest": ("nearest first code", "DSIRM in whose training a query takes the nearest first code"),
    "dsirm-k1": ("1-beam hard score", "the hard score with one ID a query"),
    "dsirm-k20": ("20-beam hard score", "the hard score with twenty IDs a query"),
    NULL: ("null control", "noise in place of the match scores, of the same width"),
}
"""By name: what a plot says, and what it means. This order is the report's."""

_PARTS = {
    "dsirm-no-bridge": "the query bridge",
    "dsirm-no-category": "the category level",
    "dsirm-dynamic": "embeddings kept frozen",
    "dsirm-nearest": "the first code taken from the pair",
}
_GROUPS: tuple[tuple[str, str, str, Sequence[str]], ...] = (
    ("DSIRM's parts", "Earning something", "Costing something", tuple(_PARTS)),
    ("DSIRM beside other IDs", "Above", "Below", ("dsi", "tiger", "rkmeans")),
    (
        "DSIRM beside other match features of its IDs",
        "Above",
        "Below",
        ("dsirm-hard", "dsirm-own", "dsirm-mass", "dsirm-beams", "dsirm-k1", "dsirm-k20"),
    ),
)
"""A sentence each: what it is about, words for intervals above and below zero, and what DSIRM is compared with."""

_RANKERS = {"mlp": "MLP", "lr": "logistic regression", "gbdt": "boosted trees"}
_BASES = ("cosine+bm25+category", "cosine+bm25")
_STEMS = {"icecat": "Icecat", "marketplace": "Marketplace", "esci": "ESCI"}


class StudyTables(NamedTuple):
    """What a study measured, as flat rows; a float may be None, or NaN, where it is not defined."""

    comparisons: list[Row]
    """data, base, ranker, variant, against, metric, slice, difference, low, high, seeds, queries"""
    scores: list[Row]
    """data, base, ranker, variant, seed, slice, auc, auc_query, ndcg10, precision, recall, pairs, queries"""
    quality: list[Row]
    """data, variant, seed, measure, level (1 to 3, or None), value"""
    calibration: list[Row]
    """data, base, ranker, variant, grade (at least), bin, predicted, observed, pairs"""
    provenance: list[Row]
    """data, seed, config_hash, code_revision, tables, items, queries, pairs, judged_pairs, judged_queries"""
    notes: list[str]


class Data(NamedTuple):
    """What the name of a data set says."""

    name: str
    stem: str
    share: int | None
    """Percent of what shoppers go by that the log alone knows; None where nobody can say."""
    log: int
    """Percent of the log that was used."""

    @property
    def label(self) -> str:
        """For a heading or a plot."""
        share = "" if self.share is None else f" {self.share} %"
        return _STEMS.get(self.stem, self.stem) + share + ("" if self.log == 100 else f", {self.log} % of its log")


class Cell(NamedTuple):
    """Where variants can be compared: one data set, one ranker, one set of other features."""

    data: str
    base: str
    ranker: str

    @property
    def label(self) -> str:
        """Ranker and other features."""
        return f"{_RANKERS.get(self.ranker, self.ranker)}, {self.base}"


def parse_data(name: str) -> Data:
    """`marketplace-20@25%`: 20 % in the log alone, a quarter of the log."""
    stem, log = m.groups() if (m := re.fullmatch(r"(.+)@(\d+)%", name)) else (name, 100)
    shared = re.fullmatch(r"(marketplace)-(\d+)", stem)
    return Data(name, shared[1] if shared else stem, int(shared[2]) if shared else None, int(log))


def rank(name: str, known: Iterable[str]) -> tuple[int, str]:
    """For sorting: the known as they are listed, then others by name."""
    places = list(known)
    return (places.index(name) if name in places else len(places), name)


def variant_label(name: str) -> str:
    """Short, for a plot or a table."""
    return VARIANTS.get(name, (name, ""))[0]


def interval(row: Row) -> str:
    """`+1.54 [+0.20, +2.90]`, in points."""
    return bracketed(*in_points(row))


def in_points(row: Row) -> tuple[float | None, float | None, float | None]:
    """Difference and ends, times a hundred."""
    middle, low, high = (None if row[n] is None else 100 * row[n] for n in ("difference", "low", "high"))
    return middle, low, high


class Study:
    """The rows of a study by what they are about."""

    def __init__(self, tables: StudyTables) -> None:
        self.tables = tables
        self._compared = {
            (_cell(r), r["variant"], r["against"], r["metric"], r["slice"]): r for r in tables.comparisons
        }
        self._scores: dict[tuple[Cell, str, str], list[Row]] = {}
        for row in tables.scores:
            self._scores.setdefault((_cell(row), row["variant"], row["slice"]), []).append(row)
        cells = {key[0] for key in self._compared} | {key[0] for key in self._scores}
        self._cells = sorted(cells, key=lambda c: (rank(c.ranker, _RANKERS), rank(c.base, _BASES)))
        data = {parse_data(cell.data) for cell in cells}
        self.data = sorted(data, key=lambda d: (rank(d.stem, _STEMS), d.share or 0, -d.log, d.name))
        self.whole = [found for found in self.data if found.log == 100]

    def cells(self, data: str) -> list[Cell]:
        """Every ranker and base of a data set, the primary one first."""
        return [cell for cell in self._cells if cell.data == data]

    def variants(self, cell: Cell) -> list[str]:
        """The variants compared in a cell."""
        compared = {key[1] for key in self._compared if key[0] == cell}
        scored = {key[1] for key in self._scores if key[0] == cell}
        return sorted(compared | scored, key=lambda name: rank(name, VARIANTS))

    def slices(self, cell: Cell) -> list[str]:
        """The slices of a cell, by name."""
        found = {key[4] for key in self._compared if key[0] == cell}
        return sorted(found - {"all"})

    def compared(
        self, cell: Cell, variant: str = DSIRM, against: str = NONE, metric: str = "auc", slice_: str = "all"
    ) -> Row | None:
        """One comparison, if the study made it."""
        return self._compared.get((cell, variant, against, metric, slice_))

    def mean(self, cell: Cell, variant: str, metric: str, slice_: str = "all") -> float | None:
        """A metric over the seeds for which it is defined."""
        values = [row[metric] for row in self._scores.get((cell, variant, slice_), []) if row[metric] is not None]
        return math.fsum(values) / len(values) if values else None

    def primary(self, data: Data) -> Cell:
        """The cell that a data set is read by."""
        return self.cells(data.name)[0]


def _cell(row: Row) -> Cell:
    return Cell(row["data"], row["base"], row["ranker"])


def answer(study: Study) -> str:
    """One paragraph: what DSIRM adds on each data set, and whether the null control stays at zero."""
    gains = [(data, row) for data in study.whole if (row := study.compared(study.primary(data)))]
    if not gains:
        return "The study compares DSIRM with a ranker without semantic IDs on no whole log."
    (first, row), *others = gains
    ends = f"95 % interval {_ends(row)}"
    said = [
        f"On {first.label}, adding DSIRM's semantic IDs to the ranker changes its AUC by {_middle(row)} points "
        f"({ends}): {reading(row)}."
    ]
    said += [f"On {data.label} it is {_middle(row)} ({_ends(row)}): {reading(row)}." for data, row in others]
    if any(data.share is not None for data, _ in gains):
        said.append("(The percentage says how much of what shoppers go by is in the log and in no text.)")
    nulls = [(data, row) for data in study.whole if (row := study.compared(study.primary(data), NULL))]
    return " ".join([*said, *_null_sentences(nulls)])


def findings(study: Study) -> list[tuple[str, str]]:
    """What to say below the answer, by subject: curves over shares and logs, and what holds on which data set."""
    return [*((f"{title}.", sentence) for title, sentence, _ in curves(study)), *_group_sentences(study, study.whole)]


def data_findings(study: Study, data: Data) -> list[tuple[str, str]]:
    """The same comparisons of DSIRM, on one data set."""
    return _group_sentences(study, [data])


def curves(study: Study) -> list[tuple[str, str, list[tuple[int, Row]]]]:
    """DSIRM against none over the marketplaces' shares and over the size of each log: title, sentence, points."""
    # In the order of `study.data`: shares rise, logs shrink.
    gains = [(data, row) for data in study.data if (row := study.compared(study.primary(data)))]
    by_share = [(data.share, row) for data, row in gains if data.share is not None and data.log == 100]
    found = [("Marketplace, by the share that the log alone knows", by_share)]
    for whole in dict.fromkeys(data._replace(name="", log=100) for data, _ in gains):
        by_log = [(data.log, row) for data, row in gains if data._replace(name="", log=100) == whole]
        found.append((f"{whole.label}, by the size of the log", by_log[::-1]))
    return [(title, _curve_sentence(points), points) for title, points in found if len(points) > 1]


def reading(row: Row) -> str:
    """What a comparison's interval says of zero."""
    return verdict(row["low"], row["high"])


def _middle(row: Row) -> str:
    return signed(in_points(row)[0])


def _ends(row: Row) -> str:
    _, low, high = in_points(row)
    return f"{signed(low)} to {signed(high)}"


def _null_sentences(nulls: Sequence[tuple[Data, Row]]) -> list[str]:
    calm = [data.label for data, row in nulls if reading(row) == "inside the noise"]
    said = []
    if calm:
        where = "on all of them" if len(calm) == len(nulls) > 1 else f"on {', '.join(calm)}"
        said.append(f"The null control, noise of the same width, is near zero {where}, as it should be.")
    for data, row in nulls:
        if meaning := _NULL_MEANINGS.get(reading(row)):
            said.append(
                f"On {data.label} the null control is {reading(row)} ({_middle(row)}, {_ends(row)}): {meaning}."
            )
    return said


_NULL_MEANINGS = {
    "above zero": "noise seems to gain as well, so a gain of that size says nothing there",
    "below zero": "noise of that width costs the ranker, so compare with none, the stricter of the two",
}


def _group_sentences(study: Study, among: Sequence[Data]) -> list[tuple[str, str]]:
    """What tells DSIRM from others on some of these data sets, and what on none of them."""
    said = []
    for title, above, below, names in _GROUPS:
        found: dict[str, list[str]] = {above: [], below: []}
        noise = []
        for name in names:
            rows = [(data, row) for data in among if (row := study.compared(study.primary(data), DSIRM, name))]
            told = [(data, row) for data, row in rows if reading(row) in ("above zero", "below zero")]
            subject = _PARTS.get(name, variant_label(name))
            for data, row in told:
                where = f" on {data.label}" if len(among) > 1 else ""
                side = above if reading(row) == "above zero" else below
                found[side].append(f"{subject}{where} ({_middle(row)}, {_ends(row)})")
            if rows and not told:
                noise.append(subject)
        found["Inside the noise everywhere" if len(among) > 1 else "Inside the noise"] = noise
        parts = [f"{word}: {', '.join(items)}." for word, items in found.items() if items]
        if parts:
            said.append((f"{title}.", " ".join(parts)))
    return said


def _curve_sentence(points: Sequence[tuple[int, Row]]) -> str:
    steps = ", ".join(f"{x} %: {_middle(row)} ({_ends(row)})" for x, row in points)
    middles = [row["difference"] for _, row in points]
    if None in middles:
        return f"{steps}."
    pairs = list(itertools.pairwise(middles))
    rising, falling = all(a < b for a, b in pairs), all(a > b for a, b in pairs)
    way = "It rises at every step" if rising else "It falls at every step" if falling else "It goes both ways"
    (_, first), (_, last) = points[0], points[-1]
    if None in (first["low"], first["high"], last["low"], last["high"]):
        return f"{steps}. {way}."
    apart = first["high"] < last["low"] or last["high"] < first["low"]
    ends = "do not overlap" if apart else "overlap, so that may be noise"
    return f"{steps}. {way}; the intervals of its two ends {ends}."
