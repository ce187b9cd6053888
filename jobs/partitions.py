"""Partitions by name: as commits carry them, as SQL, as Arrow filters."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.errors import DataError

Value = str | int | dt.date
Partition = Mapping[str, Value]
_PLAIN = re.compile(r"[\w .=:+-]+")


def few(labels: Sequence[str]) -> str:
    """Names of partitions for a log line."""
    return " ".join(labels) if len(labels) < 4 else f"{labels[0]} .. {labels[-1]} ({len(labels)})"


def _literal(value: Value) -> str:
    """A partition value as a SQL literal; only plain characters ever reach SQL text."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dt.date):
        # A text would be cast anew for every row that is written.
        return f"DATE '{value.isoformat()}'"
    if not _PLAIN.fullmatch(value):
        raise DataError(f"{value!r} cannot name a partition: letters, digits, blank and _.=:+- only.")
    return f"'{value}'"


def label(partition: Partition) -> str:
    """Name of a partition as commits carry it, for example `event_date=2026-01-31`."""
    return "/".join(f"{key}={value!s}" for key, value in sorted(partition.items()))


def parsed(name: str) -> dict[str, str]:
    """What `label` made a name of; no value holds a slash."""
    return dict(step.split("=", 1) for step in name.split("/") if step)


def overlap(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether a row may lie in both: nothing that both name differs."""
    return all(other.get(key, value) == value for key, value in one.items())


def predicate(partitions: Sequence[Partition]) -> str:
    """The rows of any of these partitions, as SQL."""
    alternatives = [" AND ".join(f"{key} = {_literal(value)}" for key, value in part.items()) for part in partitions]
    columns = {tuple(part) for part in partitions}
    if len(partitions) > 1 and len(columns) == 1 and len(key := next(iter(columns))) == 1:
        return f"{key[0]} IN ({', '.join(_literal(part[key[0]]) for part in partitions)})"
    return " OR ".join(f"({alternative})" for alternative in alternatives)


def expression(partitions: Sequence[Partition]) -> Any:
    """The same as an Arrow filter."""
    import pyarrow.compute as pc

    def one(part: Partition) -> Any:
        terms = [pc.field(key) == value for key, value in part.items()]
        result = terms[0]
        for term in terms[1:]:
            result = result & term
        return result

    result = one(partitions[0])
    for part in partitions[1:]:
        result = result | one(part)
    return result
