"""What the generator's jobs share: queries as the backend takes them, and the SIDs that exist in a release."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.arrays import Vectors, find, load_vectors
from jobs.errors import DataError
from jobs.home import Home
from jobs.plan import Plan
from jobs.storage import Store


class QueryInputs(NamedTuple):
    """Queries by ascending id, as vectors (embedded backend) and as texts (causal LM)."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    texts: list[str]

    def take(self, rows: NDArray[np.int64], backend: str) -> Any:
        """The rows as that backend reads them."""
        return self.vectors[rows] if backend == "embedded" else [self.texts[row] for row in rows]


def query_inputs(home: Home, plan: Plan, queries: pa.Table) -> QueryInputs:
    """query_id, query (any order, repeats allowed) -> what a generator reads."""
    ids, first = np.unique(queries["query_id"].to_numpy(), return_index=True)
    vectors: Vectors = load_vectors(home, plan, "query_embeddings")
    rows = vectors.find(ids)
    if (rows < 0).any():
        raise DataError(f"{int((rows < 0).sum())} queries have no vector: run embed-queries first.")
    return QueryInputs(ids, vectors.rows[rows], queries["query"].take(pa.array(first)).to_pylist())


def release_sids(store: Store, release: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """item_hash ascending, the SID of each, and every distinct SID of the release ascending."""
    read = store.read_arrow("item_sids", {"release": release}, columns=["item_hash", "sid"]).sort_by("item_hash")
    if not read.num_rows:
        raise DataError(f"Release {release} has no item SIDs: run assign-item-sids first.")
    sids = read["sid"].to_numpy()
    return read["item_hash"].to_numpy(), sids, np.unique(sids)


def sid_of(hashes: NDArray[np.int64], sids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The SID of each wanted item, -1 where it has none."""
    rows = find(hashes, wanted)
    return np.where(rows < 0, -1, sids[rows])


def codebook_sizes(store: Store, codebook_version: str) -> tuple[int, ...]:
    """Codes per level of a codebook."""
    levels = store.read_arrow("codebooks", {"codebook_version": codebook_version}, columns=["level"])[
        "level"
    ].to_numpy()
    return tuple(int(count) for count in np.bincount(levels)[1:])


def device() -> str:
    """Where models run: the GPU where there is one, else one CPU thread, which these small models do not outgrow.

    One thread also keeps a resumed CPU run equal to an uninterrupted one on any machine.
    """
    import torch

    torch.set_num_threads(1)
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_checked(home: Home, plan: Plan, queries: QueryInputs) -> Any:
    """The plan's generator. Raises DataError where it learned another codebook's SIDs, or vectors of another width."""
    from dsirm_models.embedded_generator import EmbeddedGenerator
    from dsirm_models.generators import load_generator

    generator = load_generator(home.artifact("generator", plan.generator_version), device=device())
    learned = generator.meta["codebook_version"]
    if learned != plan.codebook_version:
        raise DataError(
            f"{plan.generator_version} learned the SIDs of {learned}; the release uses {plan.codebook_version}. "
            "They only make sense together: run `dsirm nightly --refit`."
        )
    width = queries.vectors.shape[1]
    if isinstance(generator, EmbeddedGenerator) and width != generator.embedding_dim:
        raise DataError(
            f"query_embeddings holds vectors of width {width}, but {plan.generator_version} learned from vectors of "
            f"width {generator.embedding_dim}: delete that table and run embed-queries again."
        )
    return generator
