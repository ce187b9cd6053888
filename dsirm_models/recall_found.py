"""Where a recall channel has what people wanted: the requests of the days after, each with its list.

Every request is looked at with few beams (`wide`), some of them with many (`deep`). What is kept is small: for each
entry the beam and the place that hold it, for each request how many items are behind its beams.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dsirm_models.artifacts import read_artifact, write_artifact
from dsirm_models.beam import beam_search
from dsirm_models.embedded_generator import EmbeddedGenerator
from dsirm_models.recall_channels import bm25_lists, dense_lists, popular_lists, random_lists
from dsirm_models.recall_data import RecallData, Requests
from dsirm_models.recall_metrics import Clusters, Found, Targets, found_by_sids, found_in_lists
from dsirm_models.sid_index import SidIndex

KIND = "recall-found"
DEEP_SEED, RANDOM_SEED = 5, 13
_SCALES = ("wide", "deep")


class ChannelFound(NamedTuple):
    """What one channel found; `Found.items` has a row a request."""

    wide: Found | None
    """Of all requests; None: the channel was only asked deeply."""
    deep: Found | None
    """Of `deep_rows` of the requests."""
    facts: Mapping[str, Any]
    """JSON values to read beside the rates."""

    def save(self, directory: Path) -> None:
        """Write it, whole or not at all."""
        found = {name: part for name, part in zip(_SCALES, self[:2], strict=True) if part is not None}
        tensors = {
            f"{name}.{column}": torch.from_numpy(np.ascontiguousarray(value, dtype=np.int32))
            for name, part in found.items()
            for column, value in part._asdict().items()
        }
        write_artifact(directory, kind=KIND, tensors=tensors, config={"facts": dict(self.facts)})

    @classmethod
    def load(cls, directory: Path) -> ChannelFound:
        """Read what `save` wrote. Raises ArtifactError where it is missing, half-written or damaged."""
        tensors, config = read_artifact(directory, kind=KIND)

        def part(name: str) -> Found | None:
            if f"{name}.beam" not in tensors:
                return None
            return Found(*(tensors[f"{name}.{column}"].numpy() for column in Found._fields))

        return cls(part("wide"), part("deep"), config["facts"])


def deep_rows(later: Requests, count: int) -> NDArray[np.int64]:
    """The requests that are looked at with many beams: `count` of them drawn by lot, ascending."""
    drawn = np.random.default_rng(DEEP_SEED).permutation(len(later.query))[:count]
    return np.sort(drawn).astype(np.int64)


def found_by_query(
    generator: EmbeddedGenerator,
    index: SidIndex,
    clusters: Clusters,
    data: RecallData,
    requests: Requests,
    *,
    beams: int,
) -> Found:
    """What a generator that reads queries alone finds: one list a distinct query."""
    asked, row = np.unique(requests.query, return_inverse=True)
    sids = beam_search(generator, index, data.query_embeddings[asked], beams).sids
    targets = _targets(requests, row)
    found = found_by_sids(sids, clusters, targets)
    return found._replace(items=found.items[row])


def found_by_request(
    generator: EmbeddedGenerator,
    index: SidIndex,
    clusters: Clusters,
    vectors: NDArray[np.float32],
    requests: Requests,
    *,
    beams: int,
) -> Found:
    """What a generator that reads who asks finds, `vectors` (R, D + C): a list for every request."""
    sids = beam_search(generator, index, vectors, beams).sids
    return found_by_sids(sids, clusters, _targets(requests, np.arange(len(vectors))))


def found_by_channel(name: str, data: RecallData, requests: Requests, *, items: int) -> Found:
    """What a channel that a shop has anyway finds within `items` items, one list a query: keyword search (`bm25`),
    nearest neighbours (`dense`), the most clicked items (`popularity`) or any (`random`).
    """
    rows = np.flatnonzero(data.item_stocked)
    asked, row = np.unique(requests.query, return_inverse=True)
    if name == "bm25":
        lists = bm25_lists(rows, data.item_texts, [data.query_texts[query] for query in asked], items=items)
    elif name == "popularity":
        lists = popular_lists(rows, data.item_clicks, requests=len(asked), items=items)
    elif name == "random":
        lists = random_lists(rows, requests=len(asked), items=items, seed=RANDOM_SEED)
    else:
        lists = dense_lists(rows, data.item_embeddings, data.query_embeddings[asked], items=items)
    targets = _targets(requests, row)
    found = found_in_lists(lists, targets)
    return found._replace(items=found.items[row])


def _targets(requests: Requests, row: NDArray[np.int64]) -> Targets:
    """The entries as targets of lists, `row` (R,) being the list of each request."""
    return Targets(row[requests.entry_request], *(column.astype(np.int64) for column in requests[4:6]))
