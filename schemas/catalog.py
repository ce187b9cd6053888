"""Contract of `catalog`."""

from schemas.contract import Between, Column, Holds, Table

TABLE = Table(
    name="catalog",
    doc="The catalogue as of its last import. An import is a full snapshot: an item absent from it is deleted.",
    columns=(
        Column("item_id", "STRING", "Id from outside."),
        Column("item_hash", "BIGINT", "xxhash64 (seed 42) of item_id; what joins and tensors use."),
        Column("title", "STRING", "Title, never empty."),
        Column("brand", "STRING", "Brand; NULL where unknown.", nullable=True),
        Column("category", "STRING", "Primary category: the last step of the path; NULL where unknown.", nullable=True),
        Column("category_path", "ARRAY<STRING>", "Category steps from the root; empty where unknown."),
        Column("attributes", "MAP<STRING, STRING>", "Attribute name -> value as text."),
        Column("price", "DOUBLE", "Price in the shop's currency; NULL where unknown.", nullable=True),
        Column("in_stock", "BOOLEAN", "Whether it can be bought now."),
        Column(
            "image_embedding", "ARRAY<FLOAT>", "Image vector, any fixed width; NULL where there is none.", nullable=True
        ),
        Column("text", "STRING", "The text that is encoded: title, brand and category."),
        Column("text_hash", "BIGINT", "xxhash64 (seed 42) of text; joins to item_embeddings."),
        Column(
            "updated_at", "TIMESTAMP", "When the shop last changed the item, UTC; NULL where unknown.", nullable=True
        ),
    ),
    key=("item_id",),
    checks=(
        Between("price", 0),
        Holds("length(trim(title)) > 0", "title is not blank"),
    ),
)
