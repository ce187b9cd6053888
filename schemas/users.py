"""Contract of `users`."""

from schemas.contract import Between, Column, Table

TABLE = Table(
    name="users",
    doc="What the recall system knows of a user, by pseudonym.",
    columns=(
        Column("user", "STRING", "Pseudonym, as in click_log."),
        Column("gender", "STRING", "Self-declared; NULL where unknown.", nullable=True),
        Column("age_band", "STRING", "For example 25-34; NULL where unknown.", nullable=True),
        Column("purchase_power", "INT", "Band from 1 (low) to 5 (high); NULL where unknown.", nullable=True),
    ),
    key=("user",),
    checks=(Between("purchase_power", 1, 5),),
)
