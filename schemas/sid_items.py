"""Contract of `sid_items`."""

from schemas.contract import Between, Column, Holds, Table

TABLE = Table(
    name="sid_items",
    doc="The items behind a SID, in order.",
    columns=(
        Column("release", "STRING", "Release the row belongs to, `YYYY-MM-DD-` and 8 hex digits."),
        Column("sid", "BIGINT", "Packed: c1 << 40 | c2 << 20 | c3."),
        Column("items", "ARRAY<STRING>", "Item ids: highest efficiency first, then by lowest hash."),
        Column("size", "INT", "How many."),
        Column(
            "efficiency",
            "ARRAY<BIGINT>",
            "Smoothed click rate of each item in the window, in millionths; NULL in releases made before it was kept.",
            nullable=True,
        ),
    ),
    key=("release", "sid"),
    partition=("release",),
    checks=(
        Between("size", 1),
        Holds("size(items) = size", "size counts items"),
        Holds("size(efficiency) = size", "an efficiency for each item"),
    ),
)
