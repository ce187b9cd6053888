"""Contract of `relevance_labels`."""

from schemas.contract import Between, Column, OneOf, Table

TABLE = Table(
    name="relevance_labels",
    doc="Graded judgments. Read by import, train_ranker and evaluate alone; texts also by what scores them.",
    columns=(
        Column("query", "STRING", "Normalised query text."),
        Column("query_id", "BIGINT", "xxhash64 (seed 42) of query."),
        Column("item_id", "STRING", "Judged item."),
        Column("rater", "STRING", "`final` for the one grade that counts, else who gave it."),
        Column("source", "STRING", "Where the grade comes from."),
        Column("grade", "INT", "0 irrelevant, 1 related, 2 relevant, 3 perfect."),
        Column(
            "fold",
            "STRING",
            "`train` or `test` where the publisher of the labels splits them, else NULL.",
            nullable=True,
        ),
    ),
    key=("query", "item_id", "rater", "source"),
    partition=("source",),
    checks=(
        Between("grade", 0, 3),
        OneOf("source", ("people", "llm", "simulation")),
    ),
)
