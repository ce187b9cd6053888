"""What is recalled for a query: its semantic IDs with probabilities, and the items behind them, in order.

Reads query_sids, request_sids, sid_items and codebooks of a release, and catalog as it is now (titles, what is in
stock). Predicted on the spot is what the release has too few SIDs for. Writes nothing, needs no Spark.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.explain import beam_row, category_names
from jobs.generators import codebook_sizes
from jobs.home import Home
from jobs.query_beams import (
    Found,
    Serving,
    predicted,
    predicted_for,
    published,
    published_for,
    query_text,
    serving,
)
from schemas.sids import BITS, without_group
from schemas.text import text_hash

JOB = "recall"


def recall(
    home: Home, query: str, *, user: str | None = None, beams: int = 20, release: str | None = None
) -> dict[str, Any]:
    """SIDs of a query, best first, and the items in stock behind them, likelier SIDs and higher click rates first.

    A user of whom nothing is known gets what everybody does, and so does every user where the release's generator
    reads queries alone; `personalised` says so.

    Raises:
        DataError: nothing is published, no such release, or a query without a letter or digit.
    """
    of = serving(home, release)
    text = query_text(query)
    found, own, now = _sids(home, of, text, beams, user)
    names = category_names(home, of.codebook_version)
    rows = [beam_row(rank, sid, logps, names) for rank, (sid, logps) in enumerate(found, start=1)]
    behind = _behind(home, of, [row["sid"] for row in rows])
    items: list[dict[str, Any]] = []
    for row in rows:
        held = behind[row["sid"]]
        row["items"], row["in_stock"] = len(held), sum(item["in_stock"] for item in held)
        score = {"beam_rank": row["rank"], "sid": row["sid"], "codes": row["codes"], "score": row["probability"]}
        items += [{**item, **score} for item in held if item["in_stock"]]
    return {
        "release": of.release,
        "query": text,
        "user": user,
        "personalised": own,
        "source": "predicted now" if now else "published",
        "beams": rows,
        "items": [
            {"rank": rank, **{key: value for key, value in item.items() if key != "in_stock"}}
            for rank, item in enumerate(items[: home.settings.recall.items], start=1)
        ],
    }


def _sids(home: Home, of: Serving, text: str, beams: int, user: str | None) -> tuple[Found, bool, bool]:
    """The SIDs; whether they are the user's own; and whether they were predicted now."""
    if user:
        mine, all_there_are = published_for(home, of, text, user)
        if len(mine) >= beams or all_there_are:
            return mine[:beams], True, False
    known, all_there_are = published(home, of, text)
    enough = len(known) >= beams or all_there_are
    if user:
        found, own = predicted_for(home, of, text, beams, user, everybody=not enough)
        if found:
            return found, own, True
    return (known[:beams], False, False) if enough else (predicted(home, of, text, beams), False, True)


def _behind(home: Home, of: Serving, sids: list[int]) -> dict[int, list[dict[str, Any]]]:
    """Generated SID -> its items in order, the groups of a split cluster together."""
    prefixes = pa.array(sorted({sid >> BITS for sid in sids}), pa.int64())
    listed = home.store.read_arrow(
        "sid_items",
        {"release": of.release},
        columns=["sid", "items", "efficiency"],
        where=pc.shift_right(pc.field("sid"), BITS).isin(prefixes),
    ).to_pylist()
    third = codebook_sizes(home.store, of.codebook_version)[-1]
    held: dict[int, list[tuple[int, int, str]]] = {sid: [] for sid in sids}
    for row in listed:
        if (sid := without_group(row["sid"], third)) in held:
            # A release made before efficiency was kept: all alike.
            rates = row["efficiency"] or [0] * len(row["items"])
            held[sid] += [(-rate, text_hash(item), item) for rate, item in zip(rates, row["items"], strict=True)]
    wanted = [item for members in held.values() for *_, item in members]
    catalog = home.store.read_arrow(
        "catalog",
        columns=["item_id", "title", "in_stock"],
        where=pc.field("item_id").isin(pa.array(wanted, pa.string())),
    )
    now = {row["item_id"]: row for row in catalog.to_pylist()}
    return {
        sid: [
            {
                "item_id": item,
                "title": now[item]["title"] if item in now else None,
                "in_stock": item in now and now[item]["in_stock"],
                "efficiency": -rate,
            }
            for rate, _, item in sorted(members)
        ]
        for sid, members in held.items()
    }
