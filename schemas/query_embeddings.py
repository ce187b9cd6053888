"""Contract of `query_embeddings`."""

from schemas.contract import Column, Holds, Table

TABLE = Table(
    name="query_embeddings",
    doc="One vector per distinct query text.",
    columns=(
        Column("encoder_version", "STRING", "Encoder, its weights, numeric path and token limit."),
        Column("first_seen", "DATE", "As-of date of the run that encoded it."),
        Column("text_hash", "BIGINT", "xxhash64 (seed 42) of the normalised query."),
        Column("embedding", "ARRAY<FLOAT>", "Unit vector."),
    ),
    key=("encoder_version", "text_hash"),
    partition=("encoder_version", "first_seen"),
    checks=(Holds("size(embedding) > 0 AND NOT exists(embedding, x -> isnan(x))", "a vector has numbers only"),),
)
