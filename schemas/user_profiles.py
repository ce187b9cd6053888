"""Contract of `user_profiles`."""

from schemas.contract import Column, Table

TABLE = Table(
    name="user_profiles",
    doc="Recently clicked items of related categories per user; SIDs are looked up when read.",
    columns=(
        Column("as_of_date", "DATE", "Nothing after this day is in it."),
        Column("user", "STRING", "Pseudonym."),
        Column("category", "STRING", "Category the clicks belong to."),
        Column("items", "ARRAY<STRING>", "Item ids, latest first."),
    ),
    key=("user", "as_of_date", "category"),
    partition=("as_of_date",),
)
