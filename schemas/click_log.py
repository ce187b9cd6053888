"""Contract of `click_log`."""

from schemas.contract import Between, Column, OneOf, Table

TABLE = Table(
    name="click_log",
    doc="One row per impression or action. `event_date` is the date of `event_time` in the configured zone.",
    columns=(
        Column("event_id", "STRING", "Identity of the event; deliveries of one event twice share it."),
        Column("event_date", "DATE", "Date of the event time in the configured zone."),
        Column("event_time", "TIMESTAMP", "When it happened, UTC."),
        Column(
            "search_id",
            "STRING",
            "The search whose result page this belongs to; NULL for an action outside any search.",
            nullable=True,
        ),
        Column("session_id", "STRING", "Visit of one user; NULL where the log has none.", nullable=True),
        Column(
            "user",
            "STRING",
            "Pseudonym: keyed hash of the user id, made at import; NULL for anonymous events.",
            nullable=True,
        ),
        Column(
            "query",
            "STRING",
            "Query as typed; may be NULL on actions, which then take that of their search.",
            nullable=True,
        ),
        Column("item_id", "STRING", "Item shown or acted on."),
        Column("position", "INT", "Rank on the result page from 1; NULL on actions.", nullable=True),
        Column("action", "STRING", "What happened."),
    ),
    key=("event_id",),
    partition=("event_date",),
    checks=(
        Between("position", 1, 100_000),
        OneOf("action", ("impression", "click", "cart", "purchase")),
    ),
)
