"""Contract of `query_days`."""

from schemas.contract import Between, Column, Table

TABLE = Table(
    name="query_days",
    doc="One day's searches per query: carries the query's text once, so that the window never reads the log again.",
    columns=(
        Column("event_date", "DATE", "Day of the log."),
        Column("query_id", "BIGINT", "xxhash64 (seed 42) of the normalised text."),
        Column("query", "STRING", "Normalised text."),
        Column("searches", "BIGINT", "Distinct searches that day, robots left out."),
    ),
    key=("event_date", "query_id"),
    partition=("event_date",),
    checks=(Between("searches", 1),),
)
