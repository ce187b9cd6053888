"""Contract of `pairs`."""

from schemas.contract import Between, Column, Holds, OneOf, Table

TABLE = Table(
    name="pairs",
    doc="Query-item pairs with at least one action in the lookback window: the training corpus.",
    columns=(
        Column("as_of_date", "DATE", "Last day of the window."),
        Column("query_id", "BIGINT", "Query, by hash."),
        Column("item_hash", "BIGINT", "Item, by hash."),
        Column("impressions", "BIGINT", "Times shown."),
        Column("clicks", "BIGINT", "Result pages on which it was clicked."),
        Column("carts", "BIGINT", "Result pages from which it went to the cart."),
        Column("purchases", "BIGINT", "Result pages from which it was bought."),
        Column(
            "expected_clicks",
            "BIGINT",
            "Sum over impressions of the click rate of their position that day, in millionths.",
        ),
        Column("orphan_actions", "BIGINT", "Actions counted without an impression on their day."),
        Column(
            "weight",
            "DOUBLE",
            "Position-debiased strength: smoothed clicks over expected clicks, purchases counted more.",
        ),
        Column("split", "STRING", "The query's split."),
    ),
    key=("as_of_date", "query_id", "item_hash"),
    partition=("as_of_date",),
    checks=(
        Between("weight", 0),
        Holds("clicks + carts + purchases > 0", "a pair has at least one action"),
        OneOf("split", ("train", "valid", "test")),
    ),
)
