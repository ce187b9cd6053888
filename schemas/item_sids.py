"""Contract of `item_sids`."""

from schemas.contract import Between, Column, OneOf, Table
from schemas.query_sids import SID_PACKS_CODES

TABLE = Table(
    name="item_sids",
    doc="Semantic IDs of items.",
    columns=(
        Column("release", "STRING", "Release the row belongs to, `YYYY-MM-DD-` and 8 hex digits."),
        Column("item_id", "STRING", "Item."),
        Column("item_hash", "BIGINT", "Item, by hash."),
        Column("codes", "ARRAY<INT>", "The three codes."),
        Column("sid", "BIGINT", "Packed: c1 << 40 | c2 << 20 | c3."),
        Column("residual_norm", "FLOAT", "Length of what three levels leave unexplained, latent units."),
        Column("level1_by", "STRING", "How the first code was chosen."),
        Column("codebook_version", "STRING", "Quantizer that gave the codes."),
        Column("event_time", "TIMESTAMP", "End of the as-of day, UTC: what the values were known at."),
        Column("created_time", "TIMESTAMP", "Logical time of the run that wrote the row, UTC."),
    ),
    key=("release", "item_id"),
    partition=("release",),
    checks=(
        Between("sid", 0, 1_152_921_504_606_846_975),
        SID_PACKS_CODES,
        Between("residual_norm", 0),
        OneOf("level1_by", ("category", "nearest", "reserved")),
    ),
)
