"""Prefixes of query and item SIDs -> features for the offline ranker (`match_prefixes`).

Packed SIDs compare by shifting (see `schemas.sids`), and a query's beams stand side by side in columns, so a match is
native arithmetic that Spark compiles: no Python UDF, no function over arrays, no explosion of pairs by beams. DSIRM,
section on prefix matching: the deepest match among the K beams decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from schemas.sids import LEVELS, MAX_CODE, shift_for

DEPTHS = range(1, LEVELS + 1)
FEATURES = ["depth", "beam_rank", *(f"mass_{depth}" for depth in DEPTHS)]


def beams_per_query(query_sids: DataFrame, beams: int) -> DataFrame:
    """query_id, and for each rank b of 1..beams: sid_b and pb_1..pb_3, where pb_l = P(prefix of length l), cumulative.

    All NULL for a rank that the query has no beam of.
    """
    masses = [prefix_probability(F.col("logps"), depth).alias(f"p{depth}") for depth in DEPTHS]
    values = query_sids.select("query_id", "rank", "sid", *masses)

    def of_rank(rank: int, name: str, alias: str) -> Column:
        return F.max(F.when(F.col("rank") == rank, F.col(name))).alias(alias)

    columns = [
        of_rank(rank, name, alias)
        for rank in range(1, beams + 1)
        for name, alias in [("sid", f"sid_{rank}"), *((f"p{depth}", f"p{rank}_{depth}") for depth in DEPTHS)]
    ]
    return values.groupBy("query_id").agg(*columns)


def to_match(pairs: DataFrame, judged: DataFrame, catalog: DataFrame, scores: DataFrame) -> DataFrame:
    """Pairs of the corpus and judged pairs -> query_id, item_hash, item_id, labelled, own_logps: each pair once.

    A judged pair whose item has left the catalogue is kept: it has no SID, and its features say so.
    """
    key = ["query_id", "item_hash"]
    judgments = judged.distinct().withColumns({"item_hash": F.xxhash64("item_id"), "labelled": F.lit(True)})
    judgments = judgments.withColumnRenamed("item_id", "_judged")
    # Judgments are few and corpora large. A full join would shuffle every pair; to be told of those that are judged,
    # pairs need not move, and the rest of the judgments is found among themselves.
    corpus = pairs.select(key)
    rest = judgments.join(corpus.join(judgments, key, "left_semi"), key, "left_anti")
    every = corpus.join(judgments, key, "left").unionByName(rest)
    named = every.join(catalog.select("item_hash", "item_id"), "item_hash", "left")
    return (
        named.withColumn("item_id", F.coalesce("_judged", "item_id"))
        .where(F.col("item_id").isNotNull())
        .join(scores.select("query_id", "item_id", "own_logps"), ["query_id", "item_id"], "left")
        .select(*key, "item_id", F.coalesce("labelled", F.lit(False)).alias("labelled"), "own_logps")
    )


def match_prefixes(
    pairs: DataFrame, query_sids: DataFrame, item_sids: DataFrame, *, ss: Sequence[float], beams: int
) -> DataFrame:
    """Pairs -> depth, ss, beam_rank, mass_1..3 and the two flags.

    `pairs` holds query_id and item_hash, one row a pair; the columns it has besides travel along. Beams of a rank above
    `beams` are not looked at. `mass_l` is the probability, under the generator, of the item's own prefix of length l
    where some beam matches it, else 0: beams that share a prefix share its probability, so it is not summed. Depth 0
    with a flag unset means "no SID", with both set "no match".
    """
    of_query = beams_per_query(query_sids, beams).withColumn("_of_query", F.lit(True))
    items = item_sids.select("item_hash", F.col("sid").alias("_sid"))
    joined = pairs.join(items, "item_hash", "left").join(of_query, "query_id", "left")
    item = F.col("_sid")
    ranks = range(1, beams + 1)

    def first(depth: int, value: Callable[[int], Column]) -> Column:
        """The value of the first beam that shares the prefix of that depth, NULL where none does."""
        shift = shift_for(depth)
        own = F.shiftright(item, shift)
        return F.coalesce(*[F.when(F.shiftright(f"sid_{rank}", shift) == own, value(rank)) for rank in ranks])

    def mass(depth: int) -> Column:
        return F.coalesce(first(depth, lambda rank: F.col(f"p{rank}_{depth}")), F.lit(0.0))

    reached = [first(depth, F.lit) for depth in DEPTHS]
    depth = F.lit(0)
    for level, rank in enumerate(reached, start=1):
        depth = F.when(rank.isNotNull(), level).otherwise(depth)

    scores = F.array(*[F.lit(float(score)) for score in ss])
    return joined.select(
        *[f"`{name}`" for name in pairs.columns],
        depth.alias("depth"),
        F.coalesce(*reversed(reached)).alias("beam_rank"),
        *[mass(d).alias(f"mass_{d}") for d in DEPTHS],
        F.col("_of_query").isNotNull().alias("has_query_sid"),
        item.isNotNull().alias("has_item_sid"),
    ).withColumn("ss", F.get(scores, F.col("depth")))


def without_group(sid: Column, third: int) -> Column:
    """A packed SID without the group of a split cluster, as generators emit it. See `schemas.sids.without_group`."""
    code = sid.bitwiseAND(F.lit(MAX_CODE).cast("bigint"))
    return sid - code + code % third


def soft_ss(own_logps: Column, ss: Sequence[float]) -> Column:
    """The ss map's expectation under the generator: ss_0 + sum over d of (ss_d - ss_{d-1}) * P(own prefix of d)."""
    total = F.lit(float(ss[0]))
    for depth in DEPTHS:
        total = total + F.lit(float(ss[depth]) - float(ss[depth - 1])) * prefix_probability(own_logps, depth)
    return F.when(own_logps.isNotNull(), total)


def prefix_probability(logps: Column, depth: int) -> Column:
    """Probability of the prefix of that length, from the log-probabilities per level."""
    steps = [F.get(logps, F.lit(at)).cast("double") for at in range(depth)]
    return F.exp(sum(steps[1:], start=steps[0]))
