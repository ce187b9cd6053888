"""Why a query matches an item, or does not.

Reads the current release's query_sids, item_sids and codebooks, queries and catalog; a query that the release has no
SIDs for is predicted on the spot. Writes nothing, needs no Spark.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jobs.errors import DataError
from jobs.generators import codebook_sizes
from jobs.home import Home
from jobs.query_beams import predicted, published, query_text, serving
from schemas.sids import LEVELS, shift_for, unpack, without_group

JOB = "explain"


def explain(home: Home, query: str, item: str | None = None) -> dict[str, Any]:
    """The query's SIDs with probabilities, the item's SID, and where they match."""
    of = serving(home)
    text = query_text(query)
    names = category_names(home, of.codebook_version)
    count = home.settings.generator.beams
    known, _ = published(home, of, text)
    beams = known[:count] or predicted(home, of, text, count)
    found: dict[str, Any] = {
        "release": of.release,
        "query": text,
        "source": "published" if known else "predicted now: the query is not in the release",
        "beams": [beam_row(rank, sid, logps, names) for rank, (sid, logps) in enumerate(beams, start=1)],
    }
    if item is not None:
        found["item"] = _item(home, of.release, item, names)
        third = codebook_sizes(home.store, of.codebook_version)[-1]
        found["match"] = _match(home, found["beams"], without_group(found["item"]["sid"], third))
    return found


def category_names(home: Home, codebook_version: str) -> dict[int, str | None]:
    """Level-1 code -> the category mapped to it."""
    book = home.store.read_arrow(
        "codebooks", {"codebook_version": codebook_version}, columns=["level", "code", "category"]
    )
    return {row["code"]: row["category"] for row in book.to_pylist() if row["level"] == 1}


def beam_row(rank: int, sid: int, logps: list[float], names: dict[int, str | None]) -> dict[str, Any]:
    """A SID of a query as it is shown: codes, category, probability of each prefix and of the whole."""
    codes = unpack(sid)
    steps = [math.exp(sum(logps[:depth])) for depth in range(1, LEVELS + 1)]
    return {
        "rank": rank,
        "sid": sid,
        "codes": list(codes),
        "category": names.get(codes[0]),
        "prefix_probabilities": steps,
        "probability": steps[-1],
    }


def _item(home: Home, release: str, item: str, names: dict[int, str | None]) -> dict[str, Any]:
    rows = home.store.read_arrow(
        "item_sids", {"release": release}, columns=["item_id", "sid", "level1_by", "residual_norm"]
    )
    mine = rows.filter(np.equal(rows["item_id"].to_numpy(zero_copy_only=False), item)).to_pylist()
    if not mine:
        raise DataError(f"Release {release} has no SID for item {item!r}.")
    catalog = home.store.read_arrow("catalog", columns=["item_id", "title", "category"])
    described = catalog.filter(np.equal(catalog["item_id"].to_numpy(zero_copy_only=False), item)).to_pylist()
    codes = unpack(mine[0]["sid"])
    return {
        **mine[0],
        "codes": list(codes),
        "code_category": names.get(codes[0]),
        "title": described[0]["title"] if described else None,
        "category": described[0]["category"] if described else None,
    }


def _match(home: Home, beams: list[dict[str, Any]], sid: int) -> dict[str, Any]:
    for depth in range(LEVELS, 0, -1):
        for beam in beams:
            if beam["sid"] >> shift_for(depth) == sid >> shift_for(depth):
                return {
                    "depth": depth,
                    "ss": home.settings.matching.ss[depth],
                    "beam_rank": beam["rank"],
                    "prefix": beam["codes"][:depth],
                }
    return {"depth": 0, "ss": home.settings.matching.ss[0], "beam_rank": None, "prefix": []}
