"""Prefixes of query and item SIDs -> features for the offline ranker (`match_prefixes`).

Packed SIDs compare by shifting (see `schemas.sids`), so a match is native arithmetic on a short array per query: no
Python UDF and no explosion of pairs by beams. DSIRM, section on prefix matching: the deepest match among the K beams
decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from schemas.sids import LEVELS, shift_for

FEATURES = ["depth", "beam_rank", *(f"mass_{depth}" for depth in range(1, LEVELS + 1))]


def beams_per_query(query_sids: DataFrame) -> DataFrame:
    """query_id -> beams: array of (rank, sid, p1, p2, p3) by rank, where p_l = P(prefix of length l), cumulative."""
    step = F.struct(
        "rank",
        "sid",
        *[
            F.exp(F.aggregate(F.slice("logps", 1, depth), F.lit(0.0), lambda a, x: a + x)).alias(f"p{depth}")
            for depth in range(1, LEVELS + 1)
        ],
    )
    return query_sids.groupBy("query_id").agg(F.sort_array(F.collect_list(step)).alias("beams"))


def to_match(pairs: DataFrame, judged: DataFrame, catalog: DataFrame, scores: DataFrame) -> DataFrame:
    """Pairs of the corpus and judged pairs -> query_id, item_hash, item_id, labelled, own_logps: each pair once.

    A judged pair whose item has left the catalogue is kept: it has no SID, and its features say so.
    """
    items = catalog.select("item_hash", "item_id")
    of_corpus = pairs.select("query_id", "item_hash").join(items, "item_hash")
    of_labels = judged.distinct().withColumn("item_hash", F.xxhash64("item_id")).withColumn("labelled", F.lit(True))
    every = of_corpus.join(of_labels, ["query_id", "item_hash", "item_id"], "full")
    own = scores.select("query_id", "item_id", "own_logps")
    return every.join(own, ["query_id", "item_id"], "left").withColumn("labelled", F.coalesce("labelled", F.lit(False)))


def match_prefixes(pairs: DataFrame, query_sids: DataFrame, item_sids: DataFrame, *, ss: Sequence[float]) -> DataFrame:
    """Pairs -> depth, ss, beam_rank, mass_1..3 and the two flags.

    `pairs` holds query_id and item_hash, one row a pair; the columns it has besides travel along. `mass_l` is the
    probability, under the generator, of the item's own prefix of length l where some beam matches it, else 0: beams
    that share a prefix share its probability, so it is not summed. Depth 0 with a flag unset means "no SID", with both
    set "no match".
    """
    beams = beams_per_query(query_sids)
    items = item_sids.select("item_hash", F.col("sid").alias("_sid"))
    joined = pairs.join(items, "item_hash", "left").join(beams, "query_id", "left")
    item = F.col("_sid")

    def agrees(beam: Column, depth: int) -> Column:
        shift = shift_for(depth)
        return F.shiftright(beam["sid"], shift) == F.shiftright(item, shift)

    def first(depth: int, field: str) -> Column:
        """Field of the first beam that shares the prefix of that depth, NULL where none does."""
        return F.get(F.filter("beams", lambda beam: agrees(beam, depth)), F.lit(0))[field]

    reached = [first(depth, "rank") for depth in range(1, LEVELS + 1)]
    depth = F.lit(0)
    for level, rank in enumerate(reached, start=1):
        depth = F.when(rank.isNotNull(), level).otherwise(depth)
    scores = F.array(*[F.lit(float(score)) for score in ss])
    matched = joined.withColumns(
        {
            "depth": depth,
            "beam_rank": F.coalesce(*reversed(reached)),
            **{f"mass_{d}": F.coalesce(first(d, f"p{d}"), F.lit(0.0)) for d in range(1, LEVELS + 1)},
            "has_query_sid": F.col("beams").isNotNull(),
            "has_item_sid": item.isNotNull(),
        }
    )
    return matched.withColumn("ss", F.get(scores, F.col("depth"))).drop("_sid", "beams")


def soft_ss(own_logps: Column, ss: Sequence[float]) -> Column:
    """The ss map's expectation under the generator: ss_0 + sum over d of (ss_d - ss_{d-1}) * P(own prefix of d)."""
    total = F.lit(float(ss[0]))
    for depth in range(1, LEVELS + 1):
        mass = F.exp(F.aggregate(F.slice(own_logps, 1, depth), F.lit(0.0), lambda a, x: a + x))
        total = total + F.lit(float(ss[depth]) - float(ss[depth - 1])) * mass
    return F.when(own_logps.isNotNull(), total)
