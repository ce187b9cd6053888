"""Vectors of many texts: a first night is many commits."""

import pytest

from jobs import embed_items, embedding
from jobs.plan import make_plan
from tests.marketplace import copy_home

pytestmark = pytest.mark.slow


def test_a_first_night_goes_on_after_its_last_commit(marketplace, tmp_path, spark, monkeypatch):
    home = copy_home(marketplace, tmp_path / "home", spark)
    plan = make_plan(home)
    texts = set(home.store.read_arrow("catalog")["text_hash"].to_pylist())
    monkeypatch.setattr(embedding, "TEXTS_A_COMMIT", len(texts) // 2)
    real = embedding.encode_texts

    def killed_in_the_second(*arguments, **named):
        if home.store.exists("item_embeddings"):
            raise KeyboardInterrupt
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "encode_texts", killed_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            embed_items.run(home, plan)
    first = home.store.read_arrow("item_embeddings")
    assert len(first) == len(texts) // 2
    embed_items.run(home, plan)
    whole = home.store.read_arrow("item_embeddings")["text_hash"].to_pylist()
    assert len(whole) == len(set(whole)) and set(whole) == texts
    encoded = [commit.metadata["counts"]["encoded"] for commit in home.store.commits("item_embeddings")]
    assert sum(encoded) == len(texts) and max(encoded) == len(texts) // 2
