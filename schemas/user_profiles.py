"""Contract of `user_profiles`."""

from schemas.contract import Column, Holds, Table

TABLE = Table(
    name="user_profiles",
    doc="What each user clicked or bought in the window, by category; SIDs are looked up when read.",
    columns=(
        Column("as_of_date", "DATE", "Nothing after this day is in it."),
        Column("user", "STRING", "Pseudonym."),
        Column("category", "STRING", "Category the clicks belong to; empty for items without one."),
        Column("items", "ARRAY<STRING>", "Item ids, latest first; an item once a day."),
        Column(
            "days",
            "ARRAY<INT>",
            "Day of each click, counted from 1970-01-01, so that the profile can be read as it was: a query of day d "
            "knows the clicks of days before d.",
        ),
    ),
    key=("user", "as_of_date", "category"),
    partition=("as_of_date",),
    checks=(Holds("size(items) = size(days)", "every item has its day"),),
)
