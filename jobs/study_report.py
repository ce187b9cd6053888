"""The report of a study: what semantic IDs are worth, as one HTML page, as Markdown, and as tables for machines.

Reads nothing but the rows it is given, knows no clock, and says the same in every format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.files import without_nan
from jobs.study_page import Block, Bullets, Grid, Section, Text, page
from jobs.study_reading import Row, StudyTables
from jobs.study_sections import report

__all__ = ["StudyTables", "write_report"]


_COLUMNS = {
    "comparisons": "data base ranker variant against metric slice difference low high seeds queries",
    "scores": "data base ranker variant seed slice auc auc_query ndcg10 precision recall pairs queries",
    "quality": "data variant seed measure level value",
    "calibration": "data base ranker variant grade bin predicted observed pairs",
}
_INTEGERS = {"seeds", "queries", "seed", "pairs", "level", "grade", "bin"}
_TEXTS = {"data", "base", "ranker", "variant", "against", "metric", "slice", "measure"}
_ORIGIN = ("config_hash", "code_revision", "tables")
_RESULT = ("data", "variant", "against", "metric", "difference", "low", "high", "seeds", "queries", "base", "ranker")


def write_report(directory: Path, study: StudyTables) -> dict[str, Path]:
    """Write report.html, report.md, results.json and four Parquet files; returns each path by its file name.

    Raises:
        ValueError: the study compared nothing.

    """
    if not study.comparisons or not study.scores:
        raise ValueError(
            "The study holds no comparison, so there is nothing to report: give `dsirm evaluate --study` a data set "
            "with judged pairs, and at least the variants none and dsirm."
        )
    study = StudyTables(
        comparisons=_defined(study.comparisons),
        scores=_defined(study.scores),
        quality=_defined(study.quality),
        calibration=_defined(study.calibration),
        provenance=study.provenance,
        notes=study.notes,
    )
    found = report(study)
    texts = {
        "report.html": page(found),
        "report.md": "\n\n".join(markdown(found, 1)) + "\n",
        "results.json": json.dumps(_results(study.comparisons), indent=1, allow_nan=False) + "\n",
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    for name in _COLUMNS:
        pq.write_table(_arrow(name, getattr(study, name), study.provenance), directory / f"{name}.parquet")
    return {name: directory / name for name in [*texts, *(f"{name}.parquet" for name in _COLUMNS)]}


def _defined(rows: Iterable[Row]) -> list[Row]:
    """With None for NaN, and Python's own numbers for numpy's: JSON knows neither."""
    plain = [{k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in rows]
    return [without_nan(row) for row in plain]


def _results(comparisons: Iterable[Row]) -> list[Row]:
    return [
        {name: round(row[name], 6) if isinstance(row[name], float) else row[name] for name in _RESULT}
        for row in comparisons
        if row["slice"] == "all"
    ]


def _arrow(name: str, rows: Sequence[Row], provenance: Sequence[Row]) -> pa.Table:
    """Rows with their origin: the seed's own, or all distinct ones of the data set where rows span its seeds."""
    columns = _COLUMNS[name].split()
    by_seed = "seed" in columns
    origins: dict[object, list[Row]] = {}
    for source in provenance:
        origins.setdefault((source["data"], source["seed"]) if by_seed else source["data"], []).append(source)
    joined = []
    for row in rows:
        found = origins.get((row["data"], row["seed"]) if by_seed else row["data"], [])
        values = {column: sorted({source[column] for source in found}) for column in _ORIGIN}
        joined.append({**row, **{key: ", ".join(distinct) or None for key, distinct in values.items()}})
    types = {c: pa.int64() if c in _INTEGERS else pa.string() if c in _TEXTS else pa.float64() for c in columns}
    return pa.Table.from_pylist(joined, schema=pa.schema([*types.items(), *((c, pa.string()) for c in _ORIGIN)]))


def markdown(block: Block, level: int) -> list[str]:
    """The same report without its plots: each has a table of its figures."""
    match block:
        case Text(text):
            return [_plain(text)]
        case Bullets(items):
            return ["\n".join(f"- **{_plain(about)}** {_plain(item)}" for about, item in items)]
        case Grid(caption, head, rows):
            lines = [head, ["---"] * len(head), *rows]
            return [f"{_plain(caption)}:", "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)]
        case Section(title, blocks, _):
            return [f"{'#' * level} {_plain(title)}", *(text for part in blocks for text in markdown(part, level + 1))]
        case _:
            return []


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, but for code between backticks."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part.replace("|", "\\|") if at % 2 else re.sub(r"([\\*_<>|]|\](?=\())", r"\\\1", part)
        for at, part in enumerate(parts)
    )
