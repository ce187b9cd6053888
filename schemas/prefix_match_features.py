"""Contract of `prefix_match_features`."""

from schemas.contract import Between, Column, Holds, Table

TABLE = Table(
    name="prefix_match_features",
    doc="How far the SIDs of a query and an item agree: features for the offline ranker.",
    columns=(
        Column("release", "STRING", "Release the row belongs to, `YYYY-MM-DD-` and 8 hex digits."),
        Column("query_id", "BIGINT", "Query, by hash."),
        Column("item_id", "STRING", "Item."),
        Column("depth", "INT", "Longest common prefix of the item's SID and any of the query's, 0 to 3."),
        Column("ss", "DOUBLE", "Score of the depth by the configured map."),
        Column("beam_rank", "INT", "Rank of the first beam that reaches the depth; NULL at depth 0.", nullable=True),
        Column(
            "mass_1",
            "DOUBLE",
            "Probability under the generator of the item's prefix of length 1, where a beam matches it; else 0.",
        ),
        Column("mass_2", "DOUBLE", "The same for length 2."),
        Column("mass_3", "DOUBLE", "The same for length 3."),
        Column("has_query_sid", "BOOLEAN", "False: the query has no SID, so depth 0 means nothing."),
        Column("has_item_sid", "BOOLEAN", "False: the item has no SID."),
        Column("labelled", "BOOLEAN", "True where the pair has a judgment."),
        Column(
            "own_logps",
            "ARRAY<FLOAT>",
            "Labelled pairs: log-probability of the item's own codes; else NULL.",
            nullable=True,
        ),
        Column(
            "soft_ss",
            "DOUBLE",
            "Labelled pairs: the ss map's expectation under the generator; else NULL.",
            nullable=True,
        ),
        Column("event_time", "TIMESTAMP", "End of the as-of day, UTC: what the values were known at."),
        Column("created_time", "TIMESTAMP", "Logical time of the run that wrote the row, UTC."),
    ),
    key=("release", "query_id", "item_id"),
    partition=("release",),
    checks=(
        Between("depth", 0, 3),
        Between("ss", 0, 1),
        Between("mass_1", 0, 1.0001),
        Between("mass_2", 0, 1.0001),
        Between("mass_3", 0, 1.0001),
        Holds("(depth = 0) = (beam_rank IS NULL)", "a match names its beam"),
    ),
)
