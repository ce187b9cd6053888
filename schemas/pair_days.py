"""Contract of `pair_days`."""

from schemas.contract import Between, Column, Table

TABLE = Table(
    name="pair_days",
    doc="One day's counts of a query-item pair: the part of the corpus that a night has to compute.",
    columns=(
        Column("event_date", "DATE", "Day of the log."),
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
    ),
    key=("event_date", "query_id", "item_hash"),
    partition=("event_date",),
    checks=(
        Between("impressions", 0),
        Between("clicks", 0),
        Between("expected_clicks", 0),
    ),
)
