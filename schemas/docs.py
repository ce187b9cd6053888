"""The contracts as a page: `python -m schemas.docs` prints `docs/tables.md`."""

from __future__ import annotations

import sys

from schemas.contract import Table
from schemas.tables import TABLES


def render() -> str:
    """The whole page as Markdown."""
    head = (
        "# Tables\n\nMade from the contracts in `schemas/` by `make docs`; edit those, not this page. Every table is a "
        "Delta table in `HOME/tables/NAME`,\nreadable by any Delta reader (reader protocol 1). Times are UTC. Columns "
        "are added, never renamed or retyped.\n"
    )
    index = "\n".join(f"- [{table.name}](#{table.name}): {table.doc}" for table in TABLES.values())
    return "\n".join([head, index, "", *(_section(table) for table in TABLES.values())])


def _section(table: Table) -> str:
    lines = [f"## {table.name}", "", table.doc, ""]
    key, partition = ", ".join(table.key) or "none", ", ".join(table.partition) or "none"
    lines += [f"Key: {key}. Partition: {partition}.", "", "| column | type | NULL | what |", "|---|---|---|---|"]
    lines += [f"| `{c.name}` | {c.type} | {'yes' if c.nullable else ''} | {c.doc} |" for c in table.columns]
    if table.checks:
        lines += ["", "Checked: " + "; ".join(check.doc for check in table.checks) + "."]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(render())
