"""Contract of `ranker_metrics`."""

from schemas.contract import Between, Column, Table

TABLE = Table(
    name="ranker_metrics",
    doc="What the offline ranker reaches on judged queries it was not trained on.",
    columns=(
        Column("release", "STRING", "Release the row belongs to, `YYYY-MM-DD-` and 8 hex digits."),
        Column("variant", "STRING", "Feature set."),
        Column("seed", "INT", "Seed of the fit; -1 for the mean over seeds with its interval."),
        Column("slice", "STRING", "`all` or a slice of queries."),
        Column("base", "STRING", "Features every variant has."),
        Column("auc", "DOUBLE", "AUC per fold, averaged; relevant = grade 2 or more.", nullable=True),
        Column("auc_query", "DOUBLE", "AUC per query, averaged over queries with both classes.", nullable=True),
        Column("precision", "DOUBLE", "At the threshold of best F1 in the training folds.", nullable=True),
        Column("recall", "DOUBLE", "At the same threshold.", nullable=True),
        Column("ndcg10", "DOUBLE", "nDCG at 10.", nullable=True),
        Column("difference", "DOUBLE", "AUC minus that of variant `none`.", nullable=True),
        Column(
            "low",
            "DOUBLE",
            "2.5th percentile of the difference, paired bootstrap over queries and seeds.",
            nullable=True,
        ),
        Column("high", "DOUBLE", "97.5th percentile of the same.", nullable=True),
        Column("queries", "BIGINT", "Judged queries in the slice."),
        Column("pairs", "BIGINT", "Judged pairs in the slice."),
    ),
    key=("release", "variant", "seed", "slice"),
    partition=("release",),
    checks=(Between("auc", 0, 1),),
)
