"""Which category owns which level-1 code (DSIRM: one code per primary category)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def map_categories(categories: Sequence[str | None], *, room: int) -> list[str]:
    """The mapped categories in order of their code: the `room` largest by items, ties by name.

    Args:
        categories: (I,) category of every item, None where unknown.
        room: codes at level 1 that may be mapped.
    """
    sizes = Counter(name for name in categories if name is not None)
    return sorted(sizes, key=lambda name: (-sizes[name], name))[:room]
