"""Contract of `codebooks`."""

from schemas.contract import Between, Column, Table

TABLE = Table(
    name="codebooks",
    doc="The quantizer's code vectors.",
    columns=(
        Column("codebook_version", "STRING", "Quantizer artifact the codes belong to."),
        Column("level", "INT", "1 to 3."),
        Column("code", "INT", "Index within the level."),
        Column("vector", "ARRAY<FLOAT>", "Code vector in the latent space."),
        Column("usage", "BIGINT", "Training items whose SID holds the code at its level."),
        Column(
            "category",
            "STRING",
            "Category mapped to the code; NULL at levels 2-3 and for reserved codes.",
            nullable=True,
        ),
    ),
    key=("codebook_version", "level", "code"),
    partition=("codebook_version",),
    checks=(
        Between("level", 1, 3),
        Between("code", 0, 1_048_575),
        Between("usage", 0),
    ),
)
