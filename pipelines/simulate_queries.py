"""Distinct simulated queries: an intent drawn from an item, and the words somebody types for it.

An intent is a category and up to three facets of one item, so that it can be met. The text names some of the facets, in
the catalogue's words or in others (synonyms, abbreviations), and now and then with a typo.
"""

from __future__ import annotations

import json

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.columns import with_normalised_query
from pipelines.draws import draw, pick
from pipelines.simulate_synonyms import NICKNAMES, OTHER_WORDS

CANDIDATES = 3.0  # drawn per query wanted; many have the same text, and those become the queries of the head
# Items of large categories are asked for less often each: traffic of a category grows as its size to the power 0.7.
DAMPING = -0.3
FACETS_AT_LEAST = (0.88, 0.50, 0.16)  # share of intents with at least one, two and three facets
BRAND_FIRST = 0.55  # below 1: a brand is among the facets more often than another key


def _other_words(phrase: Column, chance: Column) -> Column:
    """Another phrase for the whole phrase where one is known, else the phrase itself."""
    # One literal to the optimiser, where a map of columns would be hundreds.
    known = F.from_json(F.lit(json.dumps(OTHER_WORDS)), "map<string,array<string>>")
    others = F.try_element_at(known, phrase)
    return F.coalesce(F.get(others, F.floor(chance * F.size(others)).cast("int")), phrase)


def nickname(seed: int, category: Column) -> Column:
    """What shoppers call a category among themselves: two everyday words that mean something else in every text."""
    halves = (
        F.get(F.array(*map(F.lit, words)), pick(seed, f"nickname {place}", len(words), category))
        for place, words in enumerate(NICKNAMES)
    )
    return F.concat_ws(" ", *halves)


def _with_typo(text: Column, chance: Column, kind: Column) -> Column:
    """The text with one slip somewhere after its first letter: a letter lost, doubled, or swapped with the next."""
    at = (F.floor(chance * (F.length(text) - 3)) + 2).cast("int")
    before, letter = F.substr(text, F.lit(1), at - 1), F.substr(text, at, F.lit(1))
    after, following = F.substr(text, at + 1), F.substr(text, at + 1, F.lit(1))
    return (
        F.when((F.length(text) < 6) | (letter == " ") | (following == " "), text)
        .when(kind == 0, F.concat(before, after))
        .when(kind == 1, F.concat(before, letter, letter, after))
        .otherwise(F.concat(before, following, letter, F.substr(text, at + 2)))
    )


def _candidates(facets: DataFrame, wanted: int, seed: int) -> DataFrame:
    """About three intents per wanted query, each with its text; a candidate is an item and a number."""
    # Weights in whole thousandths: their sum does not depend on the order of rows.
    weight = F.floor(F.pow(F.col("category_items").cast("double"), F.lit(DAMPING)) * 1000).cast("bigint") + 1
    weighted = facets.withColumn("_weight", weight)
    total = weighted.agg(F.sum("_weight").alias("_total"))
    share = F.col("_weight") / F.col("_total") * (CANDIDATES * wanted)
    count = F.floor(share + draw(seed, "candidates", F.col("item_id"))).cast("int")
    drawn = weighted.join(F.broadcast(total), F.lit(True)).where(count > 0)
    own = drawn.select("*", F.explode(F.sequence(F.lit(1), count)).alias("_n"))
    keys = (F.col("item_id"), F.col("_n"))
    lucky = draw(seed, "facets", *keys)
    many = sum((F.when(lucky < share_, 1).otherwise(0) for share_ in FACETS_AT_LEAST), F.lit(0))
    ordered = F.array_sort(
        F.transform(
            "facets",
            lambda f: F.struct(
                (draw(seed, "facet", *keys, f["key"]) * F.when(f["key"] == "brand", BRAND_FIRST).otherwise(1.0)).alias(
                    "o"
                ),
                f["key"].alias("key"),
                f["term"].alias("term"),
            ),
        )
    )
    return own.select(
        "item_id",
        "_n",
        "category",
        "noun",
        F.transform(F.slice(ordered, 1, many), lambda f: F.struct(f["key"], f["term"])).alias("intent"),
    )


def simulate_queries(
    facets: DataFrame,
    *,
    queries: int,
    held_out: int,
    judged_queries: DataFrame,
    seed: int,
    synonym_share: float,
    typo_share: float,
    nickname_share: float = 0.0,
) -> DataFrame:
    """Distinct queries over a catalogue's facets, none of them a judged one.

    Args:
        facets: of `pipelines.facets.item_facets`.
        queries: how many with traffic; a small catalogue may give fewer.
        held_out: how many beside them that no shopper ever types.
        judged_queries: column query; a query that equals one of them once normalised is left out.
        seed: of all draws.
        synonym_share: chance that a phrase is replaced by another word for it, where one is known.
        typo_share: chance of a typo.
        nickname_share: chance that the category is called by its `nickname`.

    Returns:
        query (normalised text), category, intent (array of key and term: what the shopper is after, part of it maybe
        unsaid), rank (1 = most traffic; NULL for held-out queries), synonym, typo and nickname (whether the text has
        one).
    """
    keys = (F.col("item_id"), F.col("_n"))
    asked = _candidates(facets, queries + held_out, seed)
    # An unnamed facet stays part of the intent; a single one is always named.
    named = F.filter("intent", lambda f: (F.size("intent") == 1) | (draw(seed, "named", *keys, f["key"]) < 0.8))

    def say(phrase: Column, *which: Column) -> Column:
        other = _other_words(phrase, draw(seed, "which word", *keys, *which))
        return F.when(draw(seed, "synonym", *keys, *which) < synonym_share, other).otherwise(phrase)

    said = F.transform("named", lambda f: say(f["term"], f["key"]))
    noun = F.array("_noun")
    nicknamed = draw(seed, "nickname", *keys) < nickname_share
    order = draw(seed, "order", *keys)
    # Two named facets may do without the noun; a few people put it first.
    words = (
        F.when((order < 0.08) & (F.size("named") >= 2) & ~F.col("nickname"), F.col("_terms"))
        .when(order < 0.25, F.concat(noun, "_terms"))
        .otherwise(F.concat("_terms", noun))
    )
    # The category's nickname is another thing than a synonym: no text knows it.
    noun_said = F.when(nicknamed, nickname(seed, F.col("category"))).otherwise(say(F.col("noun"), F.lit("noun")))
    known = F.when(F.col("nickname"), F.col("_noun")).otherwise(F.col("noun"))
    plain = F.array_join(F.concat(F.transform("named", lambda f: f["term"]), F.array(known)), " ")
    slip = F.when(
        draw(seed, "typo", *keys) < typo_share,
        _with_typo(F.col("_said"), draw(seed, "typo at", *keys), pick(seed, "typo kind", 3, *keys)),
    ).otherwise(F.col("_said"))
    texts = (
        asked.withColumn("named", named)
        .withColumns({"_terms": said, "_noun": noun_said, "nickname": nicknamed})
        .withColumn("_said", F.array_join(words, " "))
        # Never NULL, and no filter on it below: Spark would push that down, into one huge copy of the whole expression.
        .withColumn("query", F.coalesce(F.trim(F.regexp_replace(slip, " +", " ")), F.lit("")))
        .select(
            "query",
            F.struct(
                F.size("intent").alias("asked"),
                F.xxhash64(F.lit(seed), *keys).alias("order"),
                "item_id",
                "_n",
                "category",
                "intent",
                (F.size(F.array_except(F.split("_said", " "), F.split(plain, " "))) > 0).alias("synonym"),
                (F.col("query") != F.col("_said")).alias("typo"),
                "nickname",
            ).alias("first"),
        )
    )
    # One intent a text: the one that leaves least unsaid. How often a text was drawn is its popularity.
    distinct = texts.groupBy("query").agg(F.count("*").alias("_times"), F.min("first").alias("first"))
    judged = with_normalised_query(judged_queries.select("query").where("query IS NOT NULL").distinct()).distinct()
    fresh = distinct.join(judged, "query", "left_anti")
    by_traffic = Window.orderBy(F.col("_times").desc(), F.xxhash64(F.lit(seed), F.col("query")), F.col("query"))
    placed = fresh.withColumn("_place", F.row_number().over(by_traffic))
    kept = placed.where((F.col("_place") <= queries + held_out) & (F.length("query") > 1))
    by_lot = Window.orderBy(F.xxhash64(F.lit(seed), F.lit("held out"), F.col("query")), F.col("query"))
    lots = kept.withColumn("_held_out", F.row_number().over(by_lot) <= held_out)
    ranks = Window.partitionBy("_held_out").orderBy("_place")
    return lots.select(
        "query",
        "first.category",
        "first.intent",
        F.when(~F.col("_held_out"), F.row_number().over(ranks)).alias("rank"),
        "first.synonym",
        "first.typo",
        "first.nickname",
    )
