"""What the full benchmarks say of other sizes: growth exponents and a sizing table, put into docs/scaling.md.

`python -m benchmarks.scaling` reads results/*-full.json (encode: either size) and measures nothing. Of a Spark job
measured at several sizes on c cores, the line through the least and the largest gives a fixed part a (starts, plans,
commits) and a part b per row. Only b is divided among more cores: `T(n, C) = a + b n c / C`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.figures import RESULTS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- scaling: written by `python -m benchmarks.scaling` -->", "<!-- scaling: end -->"
CORES = (1, 10, 100)
SIZES = (8_000_000, 80_000_000, 800_000_000)
ITEMS_PER_PAIR, QUERIES_PER_PAIR = 1 / 40, 1 / 20
"""Of the prefix-match benchmark: 2M items and 4M queries behind 80M pairs."""


class Measured(NamedTuple):
    """One job on `cores` cores: (rows, seconds) of every size, ascending."""

    cores: int
    points: list[tuple[int, float]]
    rows_a_pair: float = 1.0
    """Rows that it reads for each pair of the window."""

    @property
    def line(self) -> tuple[float, float]:
        """Fixed seconds and seconds a row, through the least and the largest size; of one size, nothing is fixed."""
        (few, first), (many, last) = self.points[0], self.points[-1]
        if few == many:
            return 0.0, last / many
        slope = (last - first) / (many - few)
        return max(first - slope * few, 0.0), slope

    @property
    def exponent(self) -> float | None:
        """Of growth, between the least and the largest size."""
        (few, first), (many, last) = self.points[0], self.points[-1]
        return None if few == many else math.log(last / first) / math.log(many / few)

    def seconds(self, rows: float, cores: int) -> float:
        """Expected of so many rows on so many cores."""
        fixed, each = self.line
        return fixed + each * rows * self.cores / cores


def measured(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Measured]:
    """What the results of the full size say of each job; `found` by the name of the benchmark."""
    jobs = {}
    if corpus := found.get("corpus"):
        # Measured from the largest down, so that a run that is cut short has what was promised.
        points = sorted((int(size["pairs"]), float(size["seconds"])) for size in corpus["facts"]["sizes"])
        jobs["corpus, full rebuild of 30 days"] = Measured(corpus["machine"]["cores"], points)
    if match := found.get("prefix_match"):
        points = [(int(size["pairs"]), float(size["seconds"])) for size in match["facts"]["sizes"]]
        jobs["prefix match, five beams"] = Measured(match["machine"]["cores"], points)
    if encode := found.get("encode"):
        rate = _figure(encode, "titles encoded by the Spark job")["ours"]
        jobs["titles and queries to vectors (first time)"] = Measured(
            encode["machine"]["cores"], [(1, 1 / rate)], ITEMS_PER_PAIR + QUERIES_PER_PAIR
        )
    if assign := found.get("assign"):
        seconds, rows = _figure(assign, "Spark job from stored vectors")["ours"], assign["facts"]["job_rows"]
        jobs["SIDs of all items"] = Measured(assign["machine"]["cores"], [(rows, seconds)], ITEMS_PER_PAIR)
    return jobs


def _figure(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(row for row in body["figures"] if row["name"] == name)


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Growth of each job, and what it takes at other sizes and on other clusters, as Markdown."""
    jobs = measured(found)
    lines = ["| job | measured | fixed | per million rows, one core | exponent |", "|---|---|---|---|---|"]
    for name, job in jobs.items():
        fixed, each = job.line
        at = ", ".join(f"{rows:,}: {seconds:,.0f} s" for rows, seconds in job.points if rows > 1) or "one rate"
        exponent = "" if job.exponent is None else f"{job.exponent:.2f}"
        lines.append(f"| {name} | {at} | {fixed:.0f} s | {each * job.cores * 1e6:.0f} s | {exponent} |")
    lines += ["", "| pairs | job | " + " | ".join(f"{cores} Spark core{'s' * (cores > 1)}" for cores in CORES) + " |"]
    lines.append("|---|---|" + "---|" * len(CORES))
    for pairs in SIZES:
        for name, job in jobs.items():
            cells = " | ".join(_clock(job.seconds(pairs * job.rows_a_pair, cores)) for cores in CORES)
            lines.append(f"| {pairs // 1_000_000}M | {name} | {cells} |")
    return "\n".join(lines)


# Rows for each pair of the window, and the figure of the GPU's benchmark that says how many a second.
GPU_JOBS = {
    "titles and queries to vectors (first time)": (ITEMS_PER_PAIR + QUERIES_PER_PAIR, "titles encoded, fp32"),
    "the quantizer, one pass over the pairs": (1.0, "step, against the goal"),
    "fine-tuning 0.6B weights, one pass over the pairs": (1.0, "fine-tuning 0.6B weights, full"),
    "SIDs of queries by 0.6B weights, 5 beams": (QUERIES_PER_PAIR, "SIDs of queries by 0.6B weights, 5 beams"),
    "SIDs of queries by 0.6B weights, 50 beams": (QUERIES_PER_PAIR, "SIDs of queries by 0.6B weights, 50 beams"),
}


def gpu_table(body: Mapping[str, Any] | None) -> str:
    """What models take on one GPU, as Markdown; nothing where none was measured."""
    if body is None:
        return "One GPU: not measured (`python -m benchmarks --full gpu`)."
    rates = {job: (share, _figure(body, name)["ours"]) for job, (share, name) in GPU_JOBS.items()}
    columns = " | ".join(f"{pairs // 1_000_000}M pairs" for pairs in SIZES)
    lines = [f"| on one {body['machine']['gpu']} | rows/s | {columns} |", "|---|---|" + "---|" * len(SIZES)]
    for job, (share, rate) in rates.items():
        took = " | ".join(_clock(pairs * share / rate) for pairs in SIZES)
        lines.append(f"| {job} | {rate:,.0f} | {took} |")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main() -> None:
    """Renew the page."""
    files = {path.stem.removesuffix("-full"): path for path in sorted(RESULTS.glob("*-full.json"))}
    files.setdefault("encode", RESULTS / "encode.json")  # a rate: of any size
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items()}
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    missing = [name for name in ("corpus", "prefix_match", "assign") if name not in found]
    told = f"Not measured at the full size: {', '.join(missing)}.\n\n" if missing else ""
    body = f"{told}{tables(found)}\n\n{gpu_table(found.get('gpu'))}"
    PAGE.write_text(f"{head}{BEGIN}\n{body}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
