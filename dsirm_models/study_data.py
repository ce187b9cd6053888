"""One judged data set as the study sees it: arrays alone, kept as an artifact, so that workers read it by path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dsirm_models.artifacts import read_artifact, write_artifact

KIND = "study-data"
TRAIN, VALID, TEST = 0, 1, 2
"""Values of `pair_split`."""
_TEXTS = ("query_texts", "item_texts")
_PLAIN = ("name", "seed", "dense_names", "attribute_names", "slices", "provenance", *_TEXTS)


class StudyData(NamedTuple):
    """Q queries, I items, N clicked pairs and P judged pairs. Grades reach the ranker alone."""

    name: str
    """`icecat`, `marketplace-20`, ..."""
    seed: int | None
    """Seed of the world; None for real data, where every seed of the study sees this one."""
    query_embeddings: NDArray[np.float32]
    """(Q, D) of the frozen encoder: queries of the log and judged ones."""
    item_embeddings: NDArray[np.float32]
    """(I, D)."""
    query_texts: list[str]
    item_texts: list[str]
    item_category: NDArray[np.int32]
    """(I,) numbered from the largest category, -1 where unknown."""
    item_attributes: NDArray[np.int32]
    """(I, A) value numbers, -1 where the item lacks the attribute: what purity is measured against."""
    attribute_names: list[str]
    pair_query: NDArray[np.int32]
    """(N,) row of `query_embeddings`."""
    pair_item: NDArray[np.int32]
    pair_weight: NDArray[np.float32]
    """(N,) above 0."""
    pair_clicks: NDArray[np.int64]
    pair_split: NDArray[np.int8]
    """(N,) 0 train, 1 chooses checkpoints, 2 never seen in training."""
    judged_query: NDArray[np.int32]
    """(P,)"""
    judged_item: NDArray[np.int32]
    grades: NDArray[np.int64]
    """(P,) 0..3."""
    dense: NDArray[np.float32]
    """(P, F) features without SIDs."""
    dense_names: list[str]
    slices: Mapping[str, list[str]]
    """By name the label of each judged pair."""
    provenance: Mapping[str, Any]
    """What it was computed from: table versions, settings, code."""

    def save(self, directory: Path) -> None:
        """Write it, whole or not at all."""
        body = self._asdict()
        tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in body.items() if name not in _PLAIN}
        write_artifact(directory, kind=KIND, tensors=tensors, config={name: body[name] for name in _PLAIN})

    @classmethod
    def load(cls, directory: Path) -> StudyData:
        """Read what `save` wrote. Raises ArtifactError where it is missing, half-written or damaged."""
        tensors, config = read_artifact(directory, kind=KIND)
        columns: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        return cls(**config, **columns)

    def unjudged(self) -> StudyData:
        """All that a chain may know: no grade, nothing of the ranker's."""
        nothing = np.empty(0, dtype=np.int64)
        return self._replace(grades=nothing, dense=self.dense[:0], dense_names=[], slices={})

    def fingerprint(self) -> str:
        """16 hex digits of all but the provenance."""
        return fingerprint_of((name, value) for name, value in self._asdict().items() if name != "provenance")


def fingerprint_of(parts: Iterable[tuple[str, Any]]) -> str:
    """16 hex digits of named arrays and plain values, in their order."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in parts:
        digest.update(name.encode())
        if isinstance(value, np.ndarray):
            digest.update(str((value.shape, value.dtype)).encode() + np.ascontiguousarray(value).tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def smaller_log(data: StudyData, share: float, *, seed: int) -> StudyData:
    """The same data with each click of the log kept with probability `share`: what a log of that size would know.

    A pair's weight falls with its clicks; a pair that keeps none is gone. Queries, items and judgments stay.
    """
    kept = np.random.default_rng([seed, 7]).binomial(data.pair_clicks, share)
    some = np.flatnonzero(kept)
    weight = data.pair_weight[some] * (kept[some] / data.pair_clicks[some])
    return data._replace(
        name=f"{data.name}@{round(100 * share)}%",
        pair_query=data.pair_query[some],
        pair_item=data.pair_item[some],
        pair_weight=weight.astype(np.float32),
        pair_clicks=kept[some],
        pair_split=data.pair_split[some],
    )
