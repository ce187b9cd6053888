"""Contract of `releases`."""

from schemas.contract import Between, Column, OneOf, Table

TABLE = Table(
    name="releases",
    doc="The history of what was published. The row of the highest sequence says what is current.",
    columns=(
        Column("sequence", "BIGINT", "1, 2, 3, ..."),
        Column("release", "STRING", "Release the row is about."),
        Column("state", "STRING", "What happened to it."),
        Column("current", "STRING", "Release that serves after this row; NULL where none does.", nullable=True),
        Column("as_of_date", "DATE", "Last day of the log in the release."),
        Column("encoder_version", "STRING", "Encoder of the release."),
        Column("codebook_version", "STRING", "Quantizer of the release."),
        Column("generator_version", "STRING", "Generator of the release."),
        Column("inputs", "MAP<STRING, STRING>", "Source partition -> content fingerprint."),
        Column("code_revision", "STRING", "Source revision that published it."),
        Column("config_hash", "STRING", "Hash of the settings."),
        Column("metrics", "MAP<STRING, DOUBLE>", "Figures the gates looked at."),
        Column("event_time", "TIMESTAMP", "End of the as-of day, UTC: what the values were known at."),
        Column("created_time", "TIMESTAMP", "Logical time of the run that wrote the row, UTC."),
    ),
    key=("sequence",),
    checks=(
        Between("sequence", 1),
        OneOf("state", ("published", "rolled_back", "pinned", "removed")),
    ),
)
