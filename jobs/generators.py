"""What the generator's jobs share: queries as the backend takes them, and the SIDs that exist in a release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.arrays import Vectors, find, load_vectors
from jobs.errors import DataError
from jobs.home import Home
from jobs.plan import Plan
from jobs.storage import Store
from schemas.sids import LEVELS, without_group

if TYPE_CHECKING:
    from dsirm_models.beam import Beams


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


def release_sids(
    store: Store, release: str, codebook_version: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """item_hash ascending, the SID of each, and every distinct SID of the release ascending, as a generator emits them:
    without the groups of split clusters.
    """
    read = store.read_arrow("item_sids", {"release": release}, columns=["item_hash", "sid"], memo=release)
    read = read.sort_by("item_hash")
    if not read.num_rows:
        raise DataError(f"Release {release} has no item SIDs: run assign-item-sids first.")
    sids = without_group(read["sid"].to_numpy(), codebook_sizes(store, codebook_version)[-1])
    return read["item_hash"].to_numpy(), sids, np.unique(sids)


def sid_of(hashes: NDArray[np.int64], sids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The SID of each wanted item, -1 where it has none."""
    rows = find(hashes, wanted)
    return np.where(rows < 0, -1, sids[rows])


def codebook_sizes(store: Store, codebook_version: str) -> tuple[int, ...]:
    """Codes per level of a codebook. Raises DataError where the table does not hold it."""
    levels = store.read_arrow("codebooks", {"codebook_version": codebook_version}, columns=["level"])[
        "level"
    ].to_numpy()
    if not len(levels):
        raise DataError(f"codebooks does not hold {codebook_version}: run train-quantizer first.")
    return tuple(int(count) for count in np.bincount(levels)[1:])


def device() -> str:
    """Where models run: the GPU where there is one, else one CPU thread, which these small models do not outgrow.

    One thread also keeps a resumed CPU run equal to an uninterrupted one on any machine.
    """
    import torch

    torch.set_num_threads(1)
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_checked(home: Home, plan: Plan, queries: QueryInputs) -> Any:
    """The plan's generator, as `load_for` gives it."""
    return load_for(home, plan.generator_version, plan.codebook_version, queries)


def load_for(home: Home, version: str, codebook_version: str, queries: QueryInputs) -> Any:
    """A generator. Raises DataError where it learned another codebook's SIDs, or vectors of another width."""
    from dsirm_models.embedded_generator import EmbeddedGenerator
    from dsirm_models.generators import load_generator

    generator = load_generator(home.artifact("generator", version), device=device())
    check_codebook(version, generator.meta, codebook_version, otherwise="run `dsirm nightly --refit`")
    width = queries.vectors.shape[1]
    if isinstance(generator, EmbeddedGenerator) and width != generator.embedding_dim:
        raise DataError(
            f"query_embeddings holds vectors of width {width}, but {version} learned from vectors of "
            f"width {generator.embedding_dim}: delete that table and run embed-queries again."
        )
    return generator


def check_codebook(name: object, meta: dict[str, Any], codebook_version: str, *, otherwise: str) -> None:
    """Raises DataError, with what to do, where a generator's `meta` says that it learned another codebook's SIDs."""
    learned = meta["codebook_version"]
    if learned != codebook_version:
        raise DataError(
            f"{name} learned the SIDs of {learned}; the release uses {codebook_version}. "
            f"They only make sense together: {otherwise}."
        )


def beam_rows(found: Beams) -> tuple[NDArray[np.int64], dict[str, pa.Array]]:
    """The beams of B inputs as rows, absent ones left out: the input (0..B-1) of each, and the columns rank, codes,
    sid, logps, complete as the tables of SIDs have them.
    """
    row, beam = np.nonzero(found.sids >= 0)
    offsets = np.arange(0, (len(row) + 1) * LEVELS, LEVELS, dtype=np.int32)
    columns = {
        "rank": pa.array((beam + 1).astype(np.int32)),
        "codes": pa.ListArray.from_arrays(offsets, pa.array(found.codes[row, beam].reshape(-1), pa.int32())),
        "sid": pa.array(found.sids[row, beam]),
        "logps": pa.ListArray.from_arrays(offsets, pa.array(found.logps[row, beam].reshape(-1), pa.float32())),
        "complete": pa.array(found.complete[row]),
    }
    return row, columns


def of_release(plan: Plan, rows: pa.Table) -> pa.Table:
    """Rows with the columns that are the same for all of a release: its name, its generator, its times."""
    constants = {
        "release": pa.scalar(plan.release),
        "generator_version": pa.scalar(plan.generator_version),
        **{name: pa.scalar(time, pa.timestamp("us", tz="UTC")) for name, time in plan.times.items()},
    }
    for name, value in constants.items():
        rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
    return rows
