"""The SIDs that exist in one release, as sorted packed keys: what constrained decoding may produce, and nothing else.

A trie held in flat arrays. Level l keeps its distinct prefixes in ascending order, and because they are sorted the
children of a prefix are one run of the next level's array: a prefix is its position ("node"), its children are a range.
No Python object exists per prefix, so 20M SIDs take at most 400 MB and looking children up is arithmetic on tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.sids import BITS, LEVELS, MAX_CODE, shift_for


class Children(NamedTuple):
    """The valid next codes of a batch of prefixes, as a ragged list of N entries in ascending order per prefix."""

    row: Tensor
    """(N,) int64: position of the prefix in the flattened batch."""
    code: Tensor
    """(N,) int64: the child's code at its level."""


class SidIndex:
    """Distinct SIDs of a release with child ranges per prefix. Immutable; the arrays live on one torch device.

    A node of depth d (0..3) is a position among the distinct prefixes of d codes in ascending order; depth 0 has the
    one node 0, the root. Nodes compare as their prefixes do, so the lowest node is the lowest packed prefix.
    """

    def __init__(self, sids: NDArray[np.int64]) -> None:
        """Build from packed SIDs (N,) int64 in any order, duplicates allowed.

        Raises:
            ValueError: no SID at all, another shape or type, or a number that is not a packed SID.
        """
        if sids.ndim != 1 or sids.dtype != np.int64:
            raise ValueError(f"SIDs are one row of int64, not {sids.dtype} of shape {sids.shape}.")
        if len(sids) == 0:
            raise ValueError("No SID exists: an index over nothing would let nothing be decoded.")
        keys = _distinct(np.sort(sids))
        if keys[0] < 0 or keys[-1] >> BITS * LEVELS:
            raise ValueError(f"Not packed SIDs: {keys[0]} to {keys[-1]} reaches outside 0..2^{BITS * LEVELS}-1.")
        per_level = [keys]
        for _ in range(LEVELS - 1):
            per_level.insert(0, _distinct(per_level[0] >> BITS))
        self._keys = [torch.from_numpy(level) for level in per_level]
        # int32 positions hold 2^31 SIDs and halve the table.
        starts = [np.array([0, len(per_level[0])], dtype=np.int32)]
        for parents, level in pairwise(per_level):
            first = np.searchsorted(level, parents << BITS)
            starts.append(np.append(first, len(level)).astype(np.int32))
        self._starts = [torch.from_numpy(level) for level in starts]
        self.largest_codes: tuple[int, ...] = tuple(int((level & MAX_CODE).max()) for level in per_level)
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self._keys[-1])

    @property
    def device(self) -> torch.device:
        """Where the arrays live."""
        return self._keys[0].device

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        return sum(array.nbytes for array in (*self._keys, *self._starts))

    def to(self, device: torch.device | str) -> SidIndex:
        """The same index on another device; itself if it is there already. Move once, before decoding in a loop."""
        device = torch.device(device)
        if device.type == self.device.type and device.index in (None, self.device.index):
            return self
        moved = object.__new__(SidIndex)
        moved._keys = [array.to(device) for array in self._keys]
        moved._starts = [array.to(device) for array in self._starts]
        moved.largest_codes = self.largest_codes
        moved._fingerprint = self._fingerprint
        return moved

    def size(self, depth: int) -> int:
        """How many distinct prefixes of `depth` codes exist (1 for depth 0)."""
        return len(self._keys[depth - 1]) if depth else 1

    def prefixes(self, nodes: Tensor, depth: int) -> Tensor:
        """Nodes of depth 1..3, any shape -> their packed prefixes (c1, c1<<20|c2, c1<<40|c2<<20|c3), int64."""
        return self._keys[depth - 1][nodes]

    def codes(self, nodes: Tensor, depth: int) -> Tensor:
        """Nodes of depth 1..3, any shape -> the last code of each prefix, int64."""
        return self._keys[depth - 1][nodes] & MAX_CODE

    def find(self, prefixes: Tensor, depth: int) -> Tensor:
        """Packed prefixes of depth 1..3, any shape int64 -> their nodes, -1 for a prefix that does not exist."""
        keys = self._keys[depth - 1]
        nodes = torch.searchsorted(keys, prefixes).clamp_(max=len(keys) - 1)
        return nodes.masked_fill_(keys[nodes] != prefixes, -1)

    def find_sids(self, sids: Tensor) -> list[Tensor]:
        """Packed SIDs, any shape int64 -> per depth 1..3 the node of their prefix, -1 where that does not exist."""
        return [self.find(sids >> shift_for(depth), depth) for depth in range(1, LEVELS + 1)]

    def contains(self, sids: Tensor) -> Tensor:
        """Packed SIDs, any shape int64 -> bool of that shape: does the SID exist?"""
        return self.find(sids, LEVELS) >= 0

    def child_node(self, nodes: Tensor, codes: Tensor, depth: int) -> Tensor:
        """Nodes of depth 0..2 and one code each (same shape) -> the child's node of depth + 1, -1 if none."""
        prefix = self.prefixes(nodes, depth) << BITS if depth else torch.zeros_like(codes)
        return self.find(prefix | codes, depth + 1)

    def children(self, nodes: Tensor, depth: int) -> Children:
        """The children of nodes (N,) of depth 0..2; a node of -1 (an absent prefix) has none."""
        starts = self._starts[depth]
        known = nodes.clamp(min=0)
        first = starts[known].long()
        count = (starts[known + 1].long() - first).masked_fill_(nodes < 0, 0)
        total = int(count.sum())
        row = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), count, output_size=total)
        # Position within its run = position in the list minus where the run begins in the list.
        shift = first - (count.cumsum(0) - count)
        position = torch.arange(total, device=nodes.device) + shift[row]
        return Children(row, self._keys[depth][position] & MAX_CODE)

    def child_mask(self, nodes: Tensor, depth: int, width: int) -> Tensor:
        """Nodes of depth 0..2, any shape (...) -> bool (..., width): True where the code is a valid next one.

        `width` is the number of codes at the child level, at least the largest that exists there plus one.
        """
        flat = nodes.reshape(-1)
        mask = torch.zeros(len(flat) * width, dtype=torch.bool, device=nodes.device)
        row, code = self.children(flat, depth)
        mask[row * width + code] = True
        return mask.view(*nodes.shape, width)

    def check_codebook_sizes(self, codebook_sizes: Sequence[int]) -> None:
        """Refuse a generator that cannot name every SID of this index.

        Raises:
            ValueError: another number of levels, or a code at or over its level's size.
        """
        if len(codebook_sizes) != LEVELS or any(
            code >= size for code, size in zip(self.largest_codes, codebook_sizes, strict=False)
        ):
            raise ValueError(
                f"The SIDs of this release reach codes {self.largest_codes}, but the generator knows codebooks of "
                f"{tuple(codebook_sizes)}: it was trained for another codebook."
            )

    def fingerprint(self) -> str:
        """Hex sha256 over the distinct SIDs, ascending, little-endian: the same set of SIDs, the same string."""
        if self._fingerprint is None:
            keys = self._keys[-1].cpu().numpy().astype("<i8", copy=False)
            self._fingerprint = hashlib.sha256(keys.tobytes()).hexdigest()
        return self._fingerprint


def _distinct(ascending: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop repeats from an ascending array (N,), N >= 1."""
    keep = np.empty(len(ascending), dtype=np.bool_)
    keep[0] = True
    np.not_equal(ascending[1:], ascending[:-1], out=keep[1:])
    return ascending[keep]
