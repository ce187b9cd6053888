"""Candidate results of each simulated query: the best items of a lexical engine, and those of a semantic source.

Both look items up in an inverted index by their rarest tokens: words of the text, or the category and facets that the
query's author had in mind. Postings of common tokens are cut by a hash, as an engine cuts its candidates.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.draws import draw, pick
from pipelines.facets import plain

KEPT = 40  # results kept of each source
POSTINGS = 250  # items a token leads to, in expectation, at most
RAREST = 2  # tokens of a query that are looked up; all of them count for the score
HIDDEN_KINDS = 4
LINE_SHARE = 0.85  # share of a category's items of one brand that are of one hidden kind
NO_FACETS = "array<struct<key:string,term:string>>"


def words(text: Column) -> Column:
    """Distinct lower-case words of a text."""
    return F.array_distinct(F.split(plain(text), " "))


def hashes(parts: Column) -> Column:
    """64-bit hashes of an array of strings."""
    return F.transform(parts, lambda part: F.xxhash64(part))


def category_token(category: Column) -> Column:
    """What stands for a category in the semantic index."""
    return F.concat(F.lit("category "), category)


def facet_tokens(category: Column, facets: Column) -> Column:
    """What stands for facets in the semantic index: those of one category only."""
    return F.transform(facets, lambda f: F.concat_ws("|", category, f["key"], f["term"]))


def best_results(queries: DataFrame, items: DataFrame, seed: int, purpose: str) -> DataFrame:
    """Best items of each query by the rarity of the tokens they share.

    Args:
        queries: query, tokens (array<bigint>).
        items: tokens (array<bigint>), item (struct with item_id).
        seed: of the cut of long posting lists and of ties.
        purpose: name of the index, so that two indexes cut differently.

    Returns:
        query, results (array of item, best first, at most 40).
    """
    token = F.col("token")
    postings = items.select(F.explode("tokens").alias("token"), "tokens", "item")
    frequency = postings.groupBy("token").agg(F.count("*").alias("n"))
    asked = (
        queries.select("query", F.explode("tokens").alias("token"))
        .join(frequency, "token")
        .groupBy("query")
        .agg(F.slice(F.array_sort(F.collect_list(F.struct("n", "token"))), 1, 12).alias("known"))
    )
    # ln(1 + 10^6 / n): a weight that needs no count of items.
    weight = F.transform(
        "known", lambda t: F.struct(t["token"].alias("token"), F.log1p(F.lit(1e6) / t["n"]).alias("weight"))
    )
    # In a step of its own: a generator beside it would cost the struct its field names.
    weighed = (
        asked.withColumn("weights", weight)
        .select("query", "weights", "known", F.posexplode(F.slice("known", 1, RAREST)).alias("place", "looked_up"))
        .select("query", "weights", "place", F.col("looked_up.token").alias("token"), F.col("known")[0].alias("rarest"))
    )

    def survives(of: Column, n: Column, item_id: Column) -> Column:
        return draw(seed, purpose, of, item_id) * n < POSTINGS

    cut = postings.join(frequency, "token").where(survives(token, F.col("n"), F.col("item.item_id"))).drop("n")
    found = cut.join(weighed, "token").where(
        # An item that the rarest token led to is not taken again by the second.
        (F.col("place") == 0)
        | ~F.array_contains("tokens", F.col("rarest.token"))
        | ~survives(F.col("rarest.token"), F.col("rarest.n"), F.col("item.item_id"))
    )
    score = F.aggregate(
        "weights",
        F.lit(0.0),
        lambda total, t: total + F.when(F.array_contains("tokens", t["token"]), t["weight"]).otherwise(0.0),
    )
    tie = F.xxhash64(F.lit(seed), F.lit(purpose), F.col("query"), F.col("item.item_id"))
    scored = found.select("query", F.round(score, 6).alias("score"), tie.alias("tie"), "item")
    order = Window.partitionBy("query").orderBy(F.col("score").desc(), "tie", "item.item_id")
    top = scored.withColumn("place", F.row_number().over(order)).where(F.col("place") <= KEPT)
    ranked = F.array_sort(F.collect_list(F.struct("place", "item")))
    return top.groupBy("query").agg(F.transform(ranked, lambda r: r["item"]).alias("results"))


def hidden_kind(seed: int, category: Column, brand: Column, item_id: Column) -> Column:
    """A trait of an item that no text tells, 0..3: mostly one per brand and category, so that a log can teach it."""
    line = pick(seed, "hidden line", HIDDEN_KINDS, category, brand)
    own = pick(seed, "hidden item", HIDDEN_KINDS, item_id)
    return F.when(draw(seed, "hidden", item_id) < LINE_SHARE, line).otherwise(own)


def indexed_items(catalog: DataFrame, facets: DataFrame, seed: int) -> DataFrame:
    """Items with the tokens of both indexes and what the click model needs.

    Returns:
        words, meanings (array<bigint>), and item: item_id, category and brand (hashes), facets (array<bigint>),
        price_band (1..5 against the category's mean price), hidden (0..3).
    """
    priced = catalog.select(
        "item_id", "category", "text", F.floor(F.coalesce("price", F.lit(0.0)) * 100).cast("bigint").alias("cents")
    )
    mean = (
        priced.where("cents > 0")
        .groupBy("category")
        .agg(F.sum("cents").alias("cents_sum"), F.count("*").alias("cents_n"))
    )
    ratio = F.col("cents") * F.col("cents_n") / F.col("cents_sum")
    band = F.when(ratio < 0.3, 1).when(ratio < 0.65, 2).when(ratio < 1.1, 3).when(ratio < 1.8, 4).when(ratio >= 1.8, 5)
    joined = (
        priced.join(mean, "category", "left")
        .select("item_id", "text", F.coalesce(F.when(F.col("cents") > 0, band), F.lit(3)).alias("price_band"))
        .join(facets.select("item_id", "category", "brand", "facets"), "item_id", "left")
    )
    tokens = facet_tokens(F.col("category"), F.coalesce(F.col("facets"), F.array().cast(NO_FACETS)))
    meanings = F.when(F.col("category").isNotNull(), F.concat(F.array(category_token(F.col("category"))), tokens))
    return joined.select(
        hashes(words(F.col("text"))).alias("words"),
        F.coalesce(hashes(meanings), F.array().cast("array<bigint>")).alias("meanings"),
        F.struct(
            "item_id",
            F.xxhash64(F.coalesce("category", F.lit(""))).alias("category"),
            F.xxhash64(F.coalesce("brand", F.lit(""))).alias("brand"),
            hashes(tokens).alias("facets"),
            "price_band",
            hidden_kind(
                seed, F.coalesce("category", F.lit("")), F.coalesce("brand", F.lit("")), F.col("item_id")
            ).alias("hidden"),
        ).alias("item"),
    )


def grade_of(item: Column, category: Column, facets: Column, hidden: Column) -> Column:
    """The true grade of an item for an intent, 0..3.

    0 another category; 1 the category alone; 2 at least half of the facets asked for; 3 all of them. Where the shopper
    also goes by the hidden trait (`hidden` not NULL), an item of another kind gets 1 at most.
    """
    met = F.size(F.array_intersect(item["facets"], facets))
    asked = F.size(facets)
    by_facets = F.when(met == asked, 3).when(2 * met >= asked, 2).otherwise(1)
    allowed = F.when(hidden.isNotNull() & (item["hidden"] != hidden), F.least(by_facets, F.lit(1))).otherwise(by_facets)
    return F.when(item["category"] == category, allowed).otherwise(0)


def simulate_results(
    queries: DataFrame, catalog: DataFrame, facets: DataFrame, *, seed: int, unseen_share: float
) -> DataFrame:
    """Graded candidate results of each query (query, rank, category, intent, nickname).

    Of what shoppers go by and no text tells, the queries that hold a nickname are one half, and the hidden trait the
    other: `unseen_share` of the queries are one or the other, but for those that name a brand, which know no trait.

    Returns:
        query, rank, lexical and semantic: arrays, best first, of item_id, grade (0..3), brand (hash), price_band.
    """
    # Both are read by two indexes, several times each.
    items = indexed_items(catalog, facets, seed).localCheckpoint()
    intent_tokens = facet_tokens(F.col("category"), F.col("intent"))
    # A brand asked for decides the hidden trait of most items, so such shoppers do not go by it.
    names_brand = F.exists("intent", lambda f: f["key"] == "brand")
    # Half of the share, taken from the queries without a nickname.
    chance = unseen_share / (2 - unseen_share)
    unseen = (draw(seed, "unseen", F.col("query")) < chance) & ~names_brand & ~F.col("nickname")
    first = F.coalesce(F.get(F.col("intent"), F.lit(0))["term"], F.lit(""))
    meant = queries.select(
        "query",
        "rank",
        hashes(words(F.col("query"))).alias("words"),
        hashes(F.concat(F.array(category_token(F.col("category"))), intent_tokens)).alias("meanings"),
        # Names of their own: inside a lambda Spark would take an alias of this select for the column of its name.
        F.xxhash64("category").alias("category_hash"),
        hashes(intent_tokens).alias("facet_hashes"),
        F.when(unseen, pick(seed, "hidden wish", HIDDEN_KINDS, F.col("category"), first)).alias("hidden"),
    ).localCheckpoint()
    both = meant
    for source, tokens in (("lexical", "words"), ("semantic", "meanings")):
        results = best_results(
            meant.select("query", F.col(tokens).alias("tokens")),
            items.select(F.col(tokens).alias("tokens"), "item"),
            seed,
            source,
        )
        both = both.join(results.withColumnRenamed("results", f"_{source}"), "query", "left")

    def graded(source: str) -> Column:
        return F.coalesce(
            F.transform(
                f"_{source}",
                lambda i: F.struct(
                    i["item_id"].alias("item_id"),
                    grade_of(i, F.col("category_hash"), F.col("facet_hashes"), F.col("hidden")).alias("grade"),
                    i["brand"].alias("brand"),
                    i["price_band"].alias("price_band"),
                ),
            ),
            F.array().cast("array<struct<item_id:string,grade:int,brand:bigint,price_band:int>>"),
        )

    return both.select("query", "rank", graded("lexical").alias("lexical"), graded("semantic").alias("semantic"))
