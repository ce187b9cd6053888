"""Contract of `queries`."""

from schemas.contract import Between, Column, OneOf, Table

TABLE = Table(
    name="queries",
    doc="Queries of the lookback window that ends at the as-of date.",
    columns=(
        Column("as_of_date", "DATE", "Last day of the window."),
        Column("query_id", "BIGINT", "xxhash64 (seed 42) of the normalised text."),
        Column("query", "STRING", "Normalised text."),
        Column("traffic", "BIGINT", "Searches in the window."),
        Column("band", "STRING", "head, torso or tail by cumulative traffic."),
        Column(
            "split",
            "STRING",
            "By a hash of the query: learned from (train), chooses checkpoints (valid), never seen (test).",
        ),
    ),
    key=("query_id", "as_of_date"),
    partition=("as_of_date",),
    checks=(
        Between("traffic", 1),
        OneOf("band", ("head", "torso", "tail")),
        OneOf("split", ("train", "valid", "test")),
    ),
)
