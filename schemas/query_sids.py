"""Contract of `query_sids`."""

from schemas.contract import Between, Column, Holds, Table

SHARDS = 16

SID_PACKS_CODES = Holds(
    "size(codes) = 3 AND sid = codes[0] * 1099511627776L + codes[1] * 1048576L + codes[2]", "sid packs codes"
)
THREE_LOGPS = Holds("size(logps) = 3 AND forall(logps, x -> x <= 1e-4)", "three log-probabilities")
TABLE = Table(
    name="query_sids",
    doc="Semantic IDs predicted for queries, best first.",
    columns=(
        Column("release", "STRING", "Release the row belongs to, `YYYY-MM-DD-` and 8 hex digits."),
        Column("shard", "INT", "pmod(query_id, 16)."),
        Column("query_id", "BIGINT", "Query, by hash."),
        Column("rank", "INT", "Beam rank from 1."),
        Column("codes", "ARRAY<INT>", "The three codes."),
        Column("sid", "BIGINT", "Packed: c1 << 40 | c2 << 20 | c3."),
        Column("logps", "ARRAY<FLOAT>", "Log-probability of each code given those before it, over codes that exist."),
        Column("complete", "BOOLEAN", "False where the query yielded fewer beams than asked for."),
        Column("generator_version", "STRING", "Generator that predicted it."),
        Column("event_time", "TIMESTAMP", "End of the as-of day, UTC: what the values were known at."),
        Column("created_time", "TIMESTAMP", "Logical time of the run that wrote the row, UTC."),
    ),
    key=("release", "query_id", "rank"),
    partition=("release", "shard"),
    checks=(
        Between("shard", 0, 15),
        Between("rank", 1),
        Between("sid", 0, 1_152_921_504_606_846_975),
        SID_PACKS_CODES,
        THREE_LOGPS,
    ),
)
