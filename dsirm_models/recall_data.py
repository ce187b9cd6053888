"""One marketplace as the recall study sees it: what was known up to a day, and what people did on the days after.

Arrays alone, kept as an artifact, so that workers read it by path. Nothing after the as-of day is in anything that is
learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dsirm_models.artifacts import read_artifact, write_artifact
from dsirm_models.study_data import fingerprint_of

KIND = "recall-data"
BANDS = ("head", "torso", "tail", "unseen")
"""By the traffic up to the as-of day; `unseen`: none."""
_PARTS = ("train", "later")
_PLAIN = ("query_texts", "item_texts", "attribute_counts", "provenance")


class Requests(NamedTuple):
    """R requests, a query of a user on a day, with E entries, an item that a request showed."""

    query: NDArray[np.int32]
    """(R,) row of the query."""
    attributes: NDArray[np.int8]
    """(R, A) place of the user's gender, age band and purchase power among the known ones, -1 where unknown."""
    latest: NDArray[np.int32]
    """(R, N) rows of the items clicked on days before, in categories related to the query, latest first in each
    category; -1: no more. See `histories.latest_before`."""
    entry_request: NDArray[np.int32]
    """(E,) ascending."""
    entry_item: NDArray[np.int32]
    shown: NDArray[np.int32]
    """(E,) times."""
    clicked: NDArray[np.int32]
    bought: NDArray[np.int32]

    def take(self, rows: NDArray[np.int64]) -> Requests:
        """Some of the requests, `rows` ascending, with their entries."""
        place = np.full(len(self.query), -1, dtype=np.int32)
        place[rows] = np.arange(len(rows))
        kept = place[self.entry_request] >= 0
        return Requests(
            self.query[rows],
            self.attributes[rows],
            self.latest[rows],
            place[self.entry_request[kept]],
            *(column[kept] for column in self[4:]),
        )


class RecallData(NamedTuple):
    """Q queries, I items and N clicked pairs up to the as-of day; requests of the days up to it and after it."""

    query_embeddings: NDArray[np.float32]
    """(Q, D) of the frozen encoder: queries of the window, and of the days after."""
    query_texts: list[str]
    query_band: NDArray[np.int8]
    """(Q,) place in `BANDS`."""
    query_split: NDArray[np.int8]
    """(Q,) as `StudyData.pair_split`. `TEST` queries, and those that came later, are in nothing that is learned."""
    item_embeddings: NDArray[np.float32]
    """(I, D)."""
    item_texts: list[str]
    item_hash: NDArray[np.int64]
    """(I,) ascending."""
    item_category: NDArray[np.int32]
    """(I,) numbered from the largest category, -1 where unknown."""
    item_stocked: NDArray[np.bool_]
    item_new: NDArray[np.bool_]
    """(I,) came after the training: in no pair, no training request and no history, and the quantizer never saw it."""
    item_efficiency: NDArray[np.int64]
    """(I,) smoothed click rate in the window, in millionths."""
    item_clicks: NDArray[np.int64]
    """(I,) clicks in the window, of all users and queries; none of new items."""
    pair_query: NDArray[np.int32]
    """(N,)"""
    pair_item: NDArray[np.int32]
    pair_weight: NDArray[np.float32]
    """(N,) above 0."""
    pair_acted: NDArray[np.bool_]
    """(N,) clicked or bought; else only put into a cart."""
    attribute_counts: list[int]
    """A, values known of each attribute of users."""
    train: Requests
    """Of the window: those that led to a click or purchase, of queries that are learned from."""
    later: Requests
    """Of the days after, those that led to a click or purchase."""
    provenance: Mapping[str, Any]
    """What it was computed from."""

    def save(self, directory: Path) -> None:
        """Write it, whole or not at all."""
        body = self._asdict()
        for part in _PARTS:
            body |= {f"{part}.{name}": value for name, value in body.pop(part)._asdict().items()}
        # Writeable, as torch wants them: a column that Arrow holds is copied.
        tensors = {
            name: torch.from_numpy(np.require(v, requirements=["C", "W"]))
            for name, v in body.items()
            if name not in _PLAIN
        }
        write_artifact(directory, kind=KIND, tensors=tensors, config={name: body[name] for name in _PLAIN})

    @classmethod
    def load(cls, directory: Path) -> RecallData:
        """Read what `save` wrote. Raises ArtifactError where it is missing, half-written or damaged."""
        tensors, config = read_artifact(directory, kind=KIND)
        columns: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        for part in _PARTS:
            columns[part] = Requests(*(columns.pop(f"{part}.{name}") for name in Requests._fields))
        return cls(**config, **columns)

    def fingerprint(self) -> str:
        """16 hex digits of all but the provenance."""
        return fingerprint_of(
            (name, part)
            for name, value in self._replace(provenance={})._asdict().items()
            for part in (value if isinstance(value, Requests) else (value,))
        )
