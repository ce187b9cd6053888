"""Contract of `query_users`."""

from schemas.contract import Column, Table

TABLE = Table(
    name="query_users",
    doc="One day's users per query, counted without saying who they are. Kept where `privacy.min_query_users` asks.",
    columns=(
        Column("event_date", "DATE", "Day of the log."),
        Column("query_id", "BIGINT", "Query, by hash."),
        Column(
            "user_bits",
            "BIGINT",
            "Its users as a set of 64 bits: each sets the one that a hash of user and query chooses. The OR over days "
            "has at most as many bits as there are users. 0: only searches without a user.",
        ),
    ),
    key=("event_date", "query_id"),
    partition=("event_date",),
)
