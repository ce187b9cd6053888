"""Oversized clusters: a SID with too many items is split into groups, and the group joins the third index (CQ-SID).

    groups(c) = min(ceil(c / 50), 100) for a SID of c > 50 items,    k3' = group * K3 + k3

so the prefix hierarchy stays. CQ-SID (arXiv 2605.14434) splits at random; here an item's group is its 64-bit id hash
modulo the number of groups, and that number is counted once, when the codebook is made, and kept in its artifact: no
item moves later, and a new one finds its group without a look at the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.sids import BITS, LEVELS, MAX_CODE

FULL = 5000
"""Items that a SID holds at most within the paper's limits, 100 groups of 50; larger ones are reported."""


class Groups(NamedTuple):
    """Which SIDs are split, and into how many groups. Frozen with the codebook."""

    sids: NDArray[np.int64]
    """(G,) packed, as the quantizer gives them; ascending."""
    counts: NDArray[np.int32]
    """(G,) at least 2."""


NONE = Groups(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32))
"""No SID is split."""


class Counted(NamedTuple):
    """What counting came to."""

    groups: Groups
    report: dict[str, int]
    """split (SIDs that were), groups (of them), largest (items of a SID), full (SIDs of more than `FULL` items)."""


def count_groups(sids: NDArray[np.int64], *, over: int, most: int) -> Counted:
    """Split the SIDs of (N,) items that hold more than `over` of them, into at most `most` groups each.

    Args:
        sids: packed SID of every item the codebook is made for.
        over: items of a group, on average at most; 0 splits nothing.
        most: groups of a SID.

    Raises:
        ValueError: a negative `over`, or `most` outside 1..1024.
    """
    if over < 0 or not 1 <= most <= 1024:
        raise ValueError(f"Groups need over >= 0 and most in 1..1024, not over={over} and most={most}.")
    distinct, items = np.unique(sids, return_counts=True)
    counts = np.minimum(-(-items // over), most) if over else np.ones_like(items)
    split = counts > 1
    report = {
        "split": int(split.sum()),
        "groups": int(counts[split].sum()),
        "largest": int(items.max(initial=0)),
        "full": int((items > FULL).sum()),
    }
    return Counted(Groups(distinct[split], counts[split].astype(np.int32)), report)


def with_groups(
    sids: NDArray[np.int64], item_hashes: NDArray[np.int64], groups: Groups, *, third: int
) -> NDArray[np.int64]:
    """Packed SIDs (N,) of the quantizer -> those with each item's group in the third index.

    Args:
        sids: (N,), third index below `third`.
        item_hashes: (N,) signed 64-bit hash of each item's id.
        groups: of the codebook that gave the SIDs.
        third: K3, codes at level 3.
    """
    if not len(groups.sids):
        return sids
    place = np.searchsorted(groups.sids, sids).clip(max=len(groups.sids) - 1)
    counts = np.where(groups.sids[place] == sids, groups.counts[place], 1)
    # The third index is the lowest, so a group moves the packed number by whole multiples of K3.
    return sids + item_hashes % counts * third


def check_groups(groups: Groups, codebook_sizes: tuple[int, ...]) -> None:
    """Refuse groups that are not of such a codebook. Raises ValueError."""
    sids, counts = groups
    sound = len(sids) == len(counts) and bool((np.diff(sids) > 0).all()) and bool((counts >= 2).all())
    if sound and len(sids):
        codes = np.stack([sids >> BITS * (LEVELS - level) & MAX_CODE for level in range(1, LEVELS + 1)], axis=1)
        highest = int(counts.max()) * codebook_sizes[-1] - 1
        sound = bool((sids >= 0).all()) and bool((codes < np.array(codebook_sizes)).all()) and highest <= MAX_CODE
    if not sound:
        raise ValueError(f"The groups of split SIDs do not fit codebooks of {codebook_sizes}.")
