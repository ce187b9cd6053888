"""The quantizer's training data: what is asked of it, how it lies on the device, and in which order it is visited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsirm_models.quantizer_model import QuantizerConfig

_CHUNK = 1 << 22
_RUN = 8
"""Pairs behind each kept sum: fewer take more memory, more take longer per draw. Divides `_CHUNK`."""


class PairData(NamedTuple):
    """N query-item pairs over Q queries and I items, embeddings (width D) of one frozen encoder."""

    query_embeddings: NDArray[np.float32]
    """(Q, D)."""
    item_embeddings: NDArray[np.float32]
    """(I, D)."""
    query_index: NDArray[np.int32]
    """(N,) row of `query_embeddings`; -1 for an item without a query."""
    item_index: NDArray[np.int32]
    """(N,) row of `item_embeddings`."""
    weight: NDArray[np.float32]
    """(N,) above 0; see `QuantizerConfig.pair_weights`."""
    item_level1: NDArray[np.int32]
    """(I,) level-1 code of the item's mapped category, -1 without one."""
    train: NDArray[np.bool_]
    """(N,) False = held out, used only to choose the checkpoint."""


class Batch(NamedTuple):
    """B pairs on the device."""

    query: Tensor
    """(B, D) float32; an arbitrary row where `has_query` is False."""
    item: Tensor
    """(B, D) float32."""
    query_id: Tensor
    """(B,) int64."""
    item_id: Tensor
    """(B,) int64."""
    level1: Tensor
    """(B,) int64, -1 = no mapped category."""
    weight: Tensor
    """(B,) float32."""
    has_query: Tensor | None
    """(B,) bool; None if every pair of the data has a query."""


def check_data(data: PairData, config: QuantizerConfig) -> None:
    """Refuse data that cannot be trained on. Raises ValueError naming every problem at once."""
    problems = []
    pairs = len(data.query_index)
    for name, values in (("query_embeddings", data.query_embeddings), ("item_embeddings", data.item_embeddings)):
        if values.ndim != 2 or values.dtype != np.float32:
            problems.append(f"{name} must be (rows, width) float32, not {values.shape} {values.dtype}")
        elif not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            problems.append(f"{name} holds NaN or infinite values in {len(bad)} rows, first row {bad[0]}")
    if data.query_embeddings.shape[1:] != data.item_embeddings.shape[1:]:
        problems.append(
            f"query and item embeddings differ in width, {data.query_embeddings.shape[1:]} and "
            f"{data.item_embeddings.shape[1:]}: they are of different encoders"
        )
    for name in ("item_index", "weight", "train"):
        if getattr(data, name).shape != (pairs,):
            problems.append(f"{name} has shape {getattr(data, name).shape}, query_index has {pairs} pairs")
    if data.item_level1.shape != (len(data.item_embeddings),):
        problems.append(f"item_level1 has shape {data.item_level1.shape} for {len(data.item_embeddings)} items")
    for name, index, least, size in (
        ("query_index", data.query_index, -1, len(data.query_embeddings)),
        ("item_index", data.item_index, 0, len(data.item_embeddings)),
        ("item_level1", data.item_level1, -1, config.mapped_categories if config.category_level1 else None),
    ):
        if size is not None and len(index) and not (least <= index.min() and index.max() < size):
            problems.append(f"{name} runs from {index.min()} to {index.max()}, allowed is {least}..{size - 1}")
    if not (np.isfinite(data.weight).all() and (data.weight > 0).all()):
        problems.append("weight must be finite and above 0")
    if data.train.dtype != np.bool_:
        problems.append(f"train must be bool, not {data.train.dtype}")
    elif not data.train.any():
        problems.append("no pair is marked for training")
    if problems:
        raise ValueError("The quantizer cannot be trained on this data: " + "; ".join(problems) + ".")


def with_lone_items(data: PairData) -> PairData:
    """The pairs, and every item that is in none of them as a training row without a query (CQ-SID).

    Such a row weighs what the middle training pair does, so that weighted draws visit an item nobody searched for as
    often as an ordinary pair. The paper does not say how its 16.4M items are mixed with its 21.1M pairs.
    """
    lone = np.setdiff1d(np.arange(len(data.item_embeddings), dtype=np.int32), data.item_index)
    middle = np.median(data.weight[data.train])
    return data._replace(
        query_index=np.concatenate([data.query_index, np.full(len(lone), -1, dtype=np.int32)]),
        item_index=np.concatenate([data.item_index, lone]),
        weight=np.concatenate([data.weight, np.full(len(lone), middle, dtype=np.float32)]),
        train=np.concatenate([data.train, np.ones(len(lone), dtype=np.bool_)]),
    )


class Resident:
    """All pairs on one device, gathered by integer rows batch by batch."""

    def __init__(self, data: PairData, config: QuantizerConfig, device: torch.device) -> None:
        self.query = torch.from_numpy(data.query_embeddings).to(device)
        self.item = torch.from_numpy(data.item_embeddings).to(device)
        self.query_id = torch.from_numpy(data.query_index).to(device)
        self.item_id = torch.from_numpy(data.item_index).to(device)
        self.weight = torch.from_numpy(data.weight.astype(np.float32, copy=False)).to(device)
        self.level1 = torch.from_numpy(data.item_level1).to(device)
        self.every_pair_has_query = bool((data.query_index >= 0).all())
        if not len(self.query):  # items alone: gathering still needs a row to point at
            self.query = torch.zeros(1, self.item.shape[1], device=device)
        self.device = device
        self.seed = config.seed
        self.train = data.train

    def sample(self, rows: int) -> NDArray[np.int32]:
        """At most `rows` training pairs, without repetition, drawn from the seed."""
        pairs = training_rows(self.train)
        np.random.default_rng([self.seed, 3]).shuffle(pairs)
        return pairs[:rows].copy()

    def batch(self, rows: NDArray[np.int32]) -> Batch:
        """Gather pairs by their positions (B,)."""
        index = torch.from_numpy(rows).to(self.device, non_blocking=True)
        query_id = self.query_id.index_select(0, index).long()
        item_id = self.item_id.index_select(0, index).long()
        return Batch(
            query=self.query.index_select(0, query_id.clamp_min(0)),
            item=self.item.index_select(0, item_id),
            query_id=query_id,
            item_id=item_id,
            level1=self.level1.index_select(0, item_id).long(),
            weight=self.weight.index_select(0, index),
            has_query=None if self.every_pair_has_query else query_id >= 0,
        )


def training_rows(train: NDArray[np.bool_]) -> NDArray[np.int32]:
    """(N,) bool -> positions of the training pairs, ascending; four bytes each, for there may be 80 million of them."""
    rows = np.empty(np.count_nonzero(train), dtype=np.int32)
    filled = 0
    for start in range(0, len(train), _CHUNK):
        found = np.flatnonzero(train[start : start + _CHUNK])
        rows[filled : filled + len(found)] = found + start
        filled += len(found)
    return rows


def batch_order(data: PairData, config: QuantizerConfig, *, start: int) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """(step, pair positions (B,)) for steps start..max_steps-1, a pure function of data, seed and step.

    Every epoch is a fresh permutation of the training pairs, or with `pair_weights="sample"` as many draws with
    replacement in proportion to the weights; what does not fill a batch is left out until the next epoch. Fewer pairs
    than a batch make a batch of all of them.
    """
    count = int(np.count_nonzero(data.train))
    size = min(config.batch_size, count)
    per_epoch = count // size
    draws = WeightedDraws(data.weight, data.train) if config.pair_weights == "sample" else None
    epoch, order, rng = -1, np.empty(0, dtype=np.int32), np.random.default_rng()
    for step in range(start, config.max_steps):
        place = step % per_epoch * size
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            source = np.random.PCG64([config.seed, 0, epoch])
            rng = np.random.Generator(source)
            if draws is None:
                del order  # before the next one is made: two would cost as much as all indices of the queries
                order = training_rows(data.train)
                rng.shuffle(order)
            else:
                source.advance(place)
        yield step, order[place : place + size].copy() if draws is None else draws.at(rng.random(size))


class WeightedDraws:
    """Pairs of the training side in proportion to their weights, found without an array over all pairs.

    Of the running sum of weights only every `_RUN`-th value is kept; the few between are added up again for each draw.
    """

    def __init__(self, weight: NDArray[np.float32], train: NDArray[np.bool_]) -> None:
        """(N,) weights above 0, and which of the pairs may be drawn: at least one."""
        self._weight, self._train = weight, train
        self._last = len(train) - 1 - int(np.argmax(train[::-1]))
        ends, total = [], 0.0
        for start in range(0, len(weight), _CHUNK):
            sums = self._weights(slice(start, start + _CHUNK))
            sums[0] += total
            np.cumsum(sums, out=sums)
            total = float(sums[-1])
            ends.append(sums[np.minimum(np.arange(_RUN - 1, len(sums) + _RUN - 1, _RUN), len(sums) - 1)])
        self._ends = np.concatenate(ends)

    def at(self, shares: NDArray[np.float64]) -> NDArray[np.int32]:
        """(B,) in [0, 1) -> (B,) the pair at each share of the summed weights."""
        wanted = shares * self._ends[-1]
        run = np.minimum(np.searchsorted(self._ends, wanted, side="right"), len(self._ends) - 1)
        running = np.where(run > 0, self._ends[run - 1], 0.0)
        place = run * _RUN
        for _ in range(_RUN):  # one that is found stays where it is: its sum is above what was wanted, and only grows
            running += self._weights(np.minimum(place, self._last))
            place += running <= wanted
        # A share so near to 1 that its product is the whole sum would lie behind the last pair.
        found: NDArray[np.int32] = np.minimum(place, self._last).astype(np.int32)
        return found

    def _weights(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float64]:
        return self._weight[rows].astype(np.float64) * self._train[rows]
