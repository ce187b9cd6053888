"""Which category owns which level-1 code (DSIRM: one code per primary category)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def map_categories(categories: Sequence[str | None], *, room: int, keep: Sequence[str] = ()) -> list[str]:
    """The mapped categories in order of their code.

    The `room` largest categories by items (ties by name) get codes 0, 1, ...; those in `keep`, an earlier map, hold
    their codes for good, since a code's meaning must not change, and only the room left is given to others.

    Args:
        categories: (I,) category of every item, None where unknown.
        room: codes at level 1 that may be mapped.
        keep: the earlier map.

    Raises:
        ValueError: the earlier map has no room.

    """
    if len(keep) > room:
        raise ValueError(f"{len(keep)} categories are mapped already, and only {room} codes may be.")
    sizes = Counter(name for name in categories if name is not None)
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))
    held = set(keep)
    return [*keep, *(name for name in largest if name not in held)][:room]
