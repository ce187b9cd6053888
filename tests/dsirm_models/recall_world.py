"""A made-up marketplace as arrays, for the tests of the recall study: kinds of things, each in colours."""

import numpy as np

from dsirm_models.recall_data import RecallData, Requests

KINDS, COLOURS, COPIES = 6, 4, 8


def recall_world(seed=0):
    """Items are copies of a kind in a colour; a query asks for a kind, and a user likes one colour of all."""
    rng = np.random.default_rng(seed)
    kinds, colours = rng.standard_normal((KINDS, 12)), rng.standard_normal((COLOURS, 12)) / 3
    kind, colour = (part.repeat(COPIES) for part in np.divmod(np.arange(KINDS * COLOURS), COLOURS))
    items = _unit(kinds[kind] + colours[colour] + rng.standard_normal((len(kind), 12)) / 10)
    queries = _unit(np.repeat(kinds, 5, axis=0) + rng.standard_normal((5 * KINDS, 12)) / 10)
    asked = np.repeat(np.arange(KINDS), 5)
    new = np.arange(len(kind)) % COPIES == 0
    split = np.zeros(len(queries), dtype=np.int8)
    split[::10], split[4::10] = 1, 2

    def requests(count, of, usable):
        query = rng.choice(of, count).astype(np.int32)
        likes = rng.integers(COLOURS, size=count)
        shown, clicked = [], []
        for row, want in zip(query, likes, strict=True):
            some = rng.choice(np.flatnonzero((kind == asked[row]) & usable), 5, replace=False)
            shown.append(np.sort(some))
            clicked.append((colour[np.sort(some)] == want).astype(np.int32))
            clicked[-1][0] = 1
        before = [rng.choice(np.flatnonzero((colour == want) & ~new), 6) for want in likes]
        entries = np.concatenate(shown).astype(np.int32), np.ones(5 * count, dtype=np.int32)
        hit = np.concatenate(clicked)
        return Requests(
            query,
            np.stack([likes, np.full(count, -1)], axis=1).astype(np.int8),
            np.stack(before).astype(np.int32),
            np.repeat(np.arange(count), 5).astype(np.int32),
            *entries,
            hit,
            np.zeros_like(hit),
        )

    pairs = [(row, item) for row in range(len(queries)) for item in np.flatnonzero((kind == asked[row]) & ~new)[::2]]
    return RecallData(
        query_embeddings=queries,
        query_texts=[f"kind{asked[row]} query{row}" for row in range(len(queries))],
        query_band=(np.arange(len(queries)) % 4).astype(np.int8),
        query_split=split,
        item_embeddings=items,
        item_texts=[f"kind{a} colour{b} item{at}" for at, (a, b) in enumerate(zip(kind, colour, strict=True))],
        item_hash=np.sort(rng.integers(1 << 62, size=len(kind))),
        item_category=kind.astype(np.int32),
        item_stocked=np.arange(len(kind)) % 9 > 0,
        item_new=new,
        item_efficiency=rng.integers(1000, size=len(kind)),
        item_clicks=np.where(new, 0, np.arange(len(kind)) % 7),
        pair_query=np.array([row for row, _ in pairs], dtype=np.int32),
        pair_item=np.array([item for _, item in pairs], dtype=np.int32),
        pair_weight=np.ones(len(pairs), dtype=np.float32),
        pair_acted=np.ones(len(pairs), dtype=np.bool_),
        attribute_counts=[COLOURS, 2],
        train=requests(120, np.flatnonzero(split < 2), ~new),
        later=requests(60, np.arange(len(queries)), np.ones(len(kind), dtype=np.bool_)),
        provenance={"world": "made up"},
    )


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
