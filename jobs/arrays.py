"""Tables as arrays, for the jobs that never start Spark: vectors by hash, and where a hash is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs import planned
from jobs.errors import DataError
from jobs.home import Home
from jobs.partitions import Partition
from jobs.plan import Plan
from schemas.contract import ContractError


class Vectors(NamedTuple):
    """Vectors in ascending order of their hash."""

    hashes: NDArray[np.int64]
    """(N,) ascending, distinct."""
    rows: NDArray[np.float32]
    """(N, D)."""

    def find(self, hashes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each hash, -1 where there is none."""
        return find(self.hashes, hashes)


def find(ascending: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted value stands in an ascending array, -1 where it does not occur."""
    if not len(ascending):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    found: NDArray[np.int64] = np.where(ascending[place] == wanted, place, -1)
    return found


def numbered(values: Sequence[str | None], names: Sequence[str]) -> NDArray[np.int64]:
    """The place of each value among distinct names, -1 where it is not one of them."""
    place = {name: at for at, name in enumerate(names)}
    return np.array([-1 if value is None else place.get(value, -1) for value in values], dtype=np.int64)


def matrix(vectors: pa.ChunkedArray, table: str, place: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """A column of N equally long lists -> (N, D) float32; the i-th list becomes row `place[i]`, if that is given.

    Raises:
        ContractError: naming `table`, where widths differ or a value is NaN, infinite or NULL.
    """
    refused = ContractError(
        f"{table} holds NaN or vectors of different widths: delete that table and run the job that fills it again."
    )
    lengths = pc.fill_null(pc.list_value_length(vectors), -1).to_numpy()
    width = int(lengths[0]) if len(lengths) else 0
    if width < 0 or (lengths != width).any():
        raise refused
    rows = np.empty((len(vectors), width), dtype=np.float32)
    done = 0
    # Each chunk straight to its place: joined first and put into order afterwards, vectors would be held three times.
    for chunk in vectors.chunks:
        flat = chunk.flatten().to_numpy(zero_copy_only=False)
        if not np.isfinite(flat).all():
            raise refused
        where = slice(done, done + len(chunk))
        rows[where if place is None else place[where]] = flat.reshape(len(chunk), width)
        done += len(chunk)
    return rows


def load_vectors(home: Home, plan: Plan, table: str) -> Vectors:
    """All vectors of the plan's encoder in an embeddings table."""
    part: Partition = {"encoder_version": plan.encoder_version}
    read = home.store.read_arrow(table, part, columns=["text_hash", "embedding"])
    if not read.num_rows:
        raise DataError(f"{table} holds no vectors of {plan.encoder_version}: run embed-items and embed-queries first.")
    hashes = read["text_hash"].to_numpy()
    order = np.argsort(hashes, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return Vectors(hashes[order], matrix(read["embedding"], table, place))


class Items(NamedTuple):
    """The catalogue beside its vectors, by ascending item hash."""

    hashes: NDArray[np.int64]
    """(I,) ascending."""
    ids: list[str]
    categories: list[str | None]
    vectors: NDArray[np.float32]
    """(I, D)."""
    texts: list[str]


def load_items(home: Home, plan: Plan) -> Items:
    """Every catalogue item that has a vector."""
    columns = ["item_id", "item_hash", "category", "text_hash", "text"]
    catalog = planned.read_arrow(home, plan, "catalog", columns).sort_by("item_hash")
    vectors = load_vectors(home, plan, "item_embeddings")
    rows = vectors.find(catalog["text_hash"].to_numpy())
    if (rows < 0).any():
        raise DataError(f"{int((rows < 0).sum())} catalogue items have no vector: run embed-items first.")
    return Items(
        catalog["item_hash"].to_numpy(),
        catalog["item_id"].to_pylist(),
        catalog["category"].to_pylist(),
        vectors.rows[rows],
        catalog["text"].to_pylist(),
    )
