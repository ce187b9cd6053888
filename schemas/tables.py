"""Every table of the product, in the order data flows through them."""

from schemas import (
    catalog,
    click_log,
    codebooks,
    item_embeddings,
    item_sids,
    label_scores,
    pair_days,
    pairs,
    prefix_match_features,
    quarantine,
    queries,
    query_days,
    query_embeddings,
    query_sids,
    ranker_metrics,
    recall_lists,
    releases,
    relevance_labels,
    sid_coverage,
    sid_items,
    user_profiles,
    users,
)
from schemas.contract import Table

TABLES: dict[str, Table] = {
    module.TABLE.name: module.TABLE
    for module in (
        click_log,
        catalog,
        users,
        relevance_labels,
        query_days,
        queries,
        pair_days,
        pairs,
        quarantine,
        item_embeddings,
        query_embeddings,
        codebooks,
        item_sids,
        query_sids,
        sid_items,
        label_scores,
        prefix_match_features,
        sid_coverage,
        user_profiles,
        recall_lists,
        ranker_metrics,
        releases,
    )
}
