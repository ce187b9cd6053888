"""Contract of `label_scores`."""

from schemas.contract import Column, Holds, Table

TABLE = Table(
    name="label_scores",
    doc="The generator's log-probability of a judged item's own SID: teacher-forced, judged pairs only.",
    columns=(
        Column("release", "STRING", "Release the row belongs to, `YYYY-MM-DD-` and 8 hex digits."),
        Column("query_id", "BIGINT", "Judged query, by hash."),
        Column("item_id", "STRING", "Judged item."),
        Column("own_logps", "ARRAY<FLOAT>", "Log-probability of each of the item's codes given those before it."),
    ),
    key=("release", "query_id", "item_id"),
    partition=("release",),
    checks=(Holds("size(own_logps) = 3", "one a level"),),
)
