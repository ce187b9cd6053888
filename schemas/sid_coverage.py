"""Contract of `sid_coverage`."""

from schemas.contract import Between, Column, Holds, Table

TABLE = Table(
    name="sid_coverage",
    doc="How well SIDs cover a slice of the marketplace, and how evenly codes are used.",
    columns=(
        Column("release", "STRING", "Release the row belongs to, `YYYY-MM-DD-` and 8 hex digits."),
        Column("slice", "STRING", "`all`, `level=1`..`level=3`, `category=NAME` or `band=NAME`."),
        Column("items", "BIGINT", "Items of the slice.", nullable=True),
        Column("items_covered", "BIGINT", "Of these, with a SID.", nullable=True),
        Column("queries", "BIGINT", "Queries of the slice.", nullable=True),
        Column("queries_covered", "BIGINT", "Of these, with a SID.", nullable=True),
        Column("traffic", "BIGINT", "Searches of the slice in the window.", nullable=True),
        Column("traffic_covered", "BIGINT", "Of these, searches whose query has a SID.", nullable=True),
        Column("utilisation", "DOUBLE", "Level slices: share of codes used by at least one item.", nullable=True),
        Column("entropy", "DOUBLE", "Level slices: entropy of code usage, bits.", nullable=True),
        Column("gini", "DOUBLE", "Inequality of prefix sizes: 0 even, 1 one takes all.", nullable=True),
        Column("bucket_p50", "DOUBLE", "Median items behind a prefix (level slices) or SID.", nullable=True),
        Column("bucket_p99", "DOUBLE", "99th percentile of the same.", nullable=True),
        Column(
            "churn",
            "DOUBLE",
            "Level slices: share of items whose prefix moved since the release before.",
            nullable=True,
        ),
        Column("bucket_max", "BIGINT", "Items behind the largest prefix or SID.", nullable=True),
        Column(
            "queries_withheld",
            "BIGINT",
            "Slice all: queries of too few users to be published (`privacy.min_query_users`), beside `queries`.",
            nullable=True,
        ),
        Column("traffic_withheld", "BIGINT", "Slice all: their searches, beside `traffic`.", nullable=True),
    ),
    key=("release", "slice"),
    partition=("release",),
    checks=(
        Between("utilisation", 0, 1),
        Between("gini", 0, 1),
        Between("churn", 0, 1),
        *(
            Holds(f"coalesce({what}_covered <= {what}, true)", f"{what} covered are part of all")
            for what in ("items", "queries", "traffic")
        ),
    ),
)
