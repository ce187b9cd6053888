"""Contract of `quarantine`."""

from schemas.contract import Column, Table

TABLE = Table(
    name="quarantine",
    doc="What was refused, from which table, why, and the row itself.",
    columns=(
        Column("run_date", "DATE", "Day the job ran for."),
        Column("job", "STRING", "Job that refused the row."),
        Column("source", "STRING", "Table or file the row was for."),
        Column("reason", "STRING", "Why, in words."),
        Column("row", "STRING", "The row as JSON; NULL where only the row's existence is known.", nullable=True),
    ),
    partition=("run_date", "job"),
)
