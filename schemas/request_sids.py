"""Contract of `request_sids`."""

from schemas.contract import Between, Column, Holds, Table
from schemas.query_sids import SID_PACKS_CODES, THREE_LOGPS

TABLE = Table(
    name="request_sids",
    doc="Semantic IDs predicted for a user and a query, best first: the requests searched most (`recall.requests`).",
    columns=(
        Column("release", "STRING", "Release the row belongs to, `YYYY-MM-DD-` and 8 hex digits."),
        Column("query_id", "BIGINT", "Query, by hash; one of `queries`."),
        Column("user", "STRING", "Pseudonym of one of whom something is known."),
        Column("rank", "INT", "Beam rank from 1."),
        Column("codes", "ARRAY<INT>", "The three codes."),
        Column("sid", "BIGINT", "Packed: c1 << 40 | c2 << 20 | c3."),
        Column("logps", "ARRAY<FLOAT>", "Log-probability of each code given those before it, over codes that exist."),
        Column("complete", "BOOLEAN", "False where the request yielded fewer beams than asked for."),
        Column("generator_version", "STRING", "Generator that predicted it."),
        Column("event_time", "TIMESTAMP", "End of the as-of day, UTC: clicks up to it were read."),
        Column("created_time", "TIMESTAMP", "Logical time of the run that wrote the row, UTC."),
    ),
    key=("release", "query_id", "user", "rank"),
    partition=("release",),
    checks=(
        Between("rank", 1),
        Between("sid", 0, 1_152_921_504_606_846_975),
        Holds("user <> ''", "a user is named"),
        SID_PACKS_CODES,
        THREE_LOGPS,
    ),
)
