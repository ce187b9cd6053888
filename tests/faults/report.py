"""What was tried and what came of it, as the table in docs/reliability.md."""

from typing import NamedTuple

BEGIN, END = "<!-- faults: written by `make test-faults` -->", "<!-- faults: end -->"


class Row(NamedTuple):
    """A fault that the product stood."""

    engine: str
    where: str
    fault: str
    outcome: str
    times: int = 1


def table(rows):
    """Markdown: equal outcomes of one engine and fault are one line. The order of the rows does not matter."""
    lines = ["| engine | where | fault | tried | outcome |", "|---|---|---|---|---|"]
    grouped = {}
    for row in sorted(rows):
        places, count = grouped.setdefault((row.engine, row.fault, row.outcome), ([], [0]))
        places.append(row.where)
        count[0] += row.times
    for (engine, fault, outcome), (places, (count,)) in sorted(grouped.items()):
        lines.append(f"| {engine} | {', '.join(dict.fromkeys(places))} | {fault} | {count} | {outcome} |")
    return "\n".join(lines)


def write(path, rows):
    """Put the table between its two marks."""
    text = path.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n{table(rows)}\n{END}{tail}", encoding="utf-8")
