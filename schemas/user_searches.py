"""Contract of `user_searches`."""

from schemas.contract import Between, Column, Holds, Table

TABLE = Table(
    name="user_searches",
    doc="One day's items that a user was shown or acted on for a query. Kept where the generator learns who asks "
    "(`generator.stages`); never part of a release.",
    columns=(
        Column("event_date", "DATE", "Day of the log."),
        Column("user", "STRING", "Pseudonym, as in click_log; searches without a user are not kept."),
        Column("query_id", "BIGINT", "Query, by hash."),
        Column("item_hash", "BIGINT", "Item, by hash."),
        Column("impressions", "BIGINT", "Times shown."),
        Column("clicks", "BIGINT", "Times clicked."),
        Column("purchases", "BIGINT", "Times bought."),
        Column("last_action", "TIMESTAMP", "Last click or purchase, UTC; NULL where only shown.", nullable=True),
    ),
    key=("event_date", "user", "query_id", "item_hash"),
    partition=("event_date",),
    checks=(
        Between("impressions", 0),
        Between("clicks", 0),
        Between("purchases", 0),
        Holds("(clicks + purchases > 0) = (last_action IS NOT NULL)", "an action has a time"),
    ),
)
