"""Contract of `sid_items`."""

from schemas.contract import Between, Column, Holds, Table

TABLE = Table(
    name="sid_items",
    doc="The items behind a SID, in order.",
    columns=(
        Column("release", "STRING", "Release the row belongs to, `YYYY-MM-DD-` and 8 hex digits."),
        Column("sid", "BIGINT", "Packed: c1 << 40 | c2 << 20 | c3."),
        Column("items", "ARRAY<STRING>", "Item ids: most clicked in the window first, then by id."),
        Column("size", "INT", "How many."),
    ),
    key=("release", "sid"),
    partition=("release",),
    checks=(
        Between("size", 1),
        Holds("size(items) = size", "size counts items"),
    ),
)
