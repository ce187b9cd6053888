"""Why a query matches an item, or does not.

Reads the current release's query_sids, item_sids and codebooks, queries and catalog; a query that the release has no
SIDs for is predicted on the spot. Writes nothing, needs no Spark.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jobs import releases
from jobs.errors import DataError
from jobs.home import Home
from jobs.partitions import Partition
from schemas.sids import LEVELS, shift_for, unpack
from schemas.text import has_words, normalise_query, text_hash

JOB = "explain"


def explain(home: Home, query: str, item: str | None = None) -> dict[str, Any]:
    """The query's SIDs with probabilities, the item's SID, and where they match."""
    serving = releases.current(home.store)
    if serving is None:
        raise DataError("Nothing is published yet: run `dsirm nightly` first.")
    text = normalise_query(query)
    if not has_words(text):
        raise DataError(f"{query!r} holds no letter or digit, so there is nothing to look up.")
    names = _category_names(home, serving["codebook_version"])
    beams = _published(home, serving["release"], text_hash(text))
    source = "published" if beams else "predicted now: the query is not in the release"
    beams = beams or _predicted(home, serving, text)
    found: dict[str, Any] = {
        "release": serving["release"],
        "query": text,
        "source": source,
        "beams": [_beam(rank, sid, logps, names) for rank, (sid, logps) in enumerate(beams, start=1)],
    }
    if item is not None:
        found["item"] = _item(home, serving["release"], item, names)
        found["match"] = _match(home, found["beams"], found["item"]["sid"])
    return found


def _category_names(home: Home, codebook_version: str) -> dict[int, str | None]:
    book = home.store.read_arrow(
        "codebooks", {"codebook_version": codebook_version}, columns=["level", "code", "category"]
    )
    return {row["code"]: row["category"] for row in book.to_pylist() if row["level"] == 1}


def _published(home: Home, release: str, query_id: int) -> list[tuple[int, list[float]]]:
    from schemas.query_sids import SHARDS

    part: Partition = {"release": release, "shard": query_id % SHARDS}
    rows = home.store.read_arrow("query_sids", part, columns=["query_id", "rank", "sid", "logps"])
    mine = rows.filter(np.equal(rows["query_id"].to_numpy(), query_id)).sort_by("rank").to_pylist()
    return [(row["sid"], row["logps"]) for row in mine]


def _predicted(home: Home, serving: dict[str, Any], text: str) -> list[tuple[int, list[float]]]:
    from dsirm_models.beam import beam_search
    from dsirm_models.encoder import load_encoder
    from dsirm_models.generators import load_generator
    from dsirm_models.sid_index import SidIndex

    generator = load_generator(home.artifact("generator", serving["generator_version"]))
    encoder = home.settings.encoder
    inputs: Any = [text]
    if generator.backend == "embedded":
        inputs = load_encoder(encoder.name, encoder.max_tokens, precision=encoder.precision).encode([text])
    sids = home.store.read_arrow("item_sids", {"release": serving["release"]}, columns=["sid"])["sid"].to_numpy()
    found = beam_search(generator, SidIndex(np.unique(sids)), inputs, home.settings.generator.beams)
    return [(int(sid), logps.tolist()) for sid, logps in zip(found.sids[0], found.logps[0], strict=True) if sid >= 0]


def _beam(rank: int, sid: int, logps: list[float], names: dict[int, str | None]) -> dict[str, Any]:
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
