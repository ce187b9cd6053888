"""Contract of `recall_lists`."""

from schemas.contract import Between, Column, Table

TABLE = Table(
    name="recall_lists",
    doc="Items recalled for a query, or for a user and a query.",
    columns=(
        Column("release", "STRING", "Release the row belongs to, `YYYY-MM-DD-` and 8 hex digits."),
        Column("query_id", "BIGINT", "Query, by hash."),
        Column("user", "STRING", "Pseudonym; empty for lists that fit everybody."),
        Column("rank", "INT", "From 1."),
        Column("item_id", "STRING", "Item."),
        Column("sid", "BIGINT", "SID it came through, as generators emit it: without the group of a split cluster."),
        Column("beam_rank", "INT", "Beam it came through, from 1."),
        Column("score", "DOUBLE", "Probability of that SID; items of one SID are in the order of `sid_items`."),
        Column("event_time", "TIMESTAMP", "End of the as-of day, UTC: what the values were known at."),
        Column("created_time", "TIMESTAMP", "Logical time of the run that wrote the row, UTC."),
    ),
    key=("release", "query_id", "user", "rank"),
    partition=("release",),
    checks=(
        Between("rank", 1, 1000),
        Between("beam_rank", 1),
        Between("sid", 0, 1_152_921_504_606_846_975),
        Between("score", 0, 1),
    ),
)
