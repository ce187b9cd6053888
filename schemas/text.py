"""The one definition of query normalisation, and the 64-bit hash that stands for a text."""

from __future__ import annotations

import unicodedata

import xxhash

HASH_SEED = 42  # Spark's `xxhash64` seeds with 42; both must give the same number for the same text.
MAX_QUERY_CHARS = 256


def normalise_query(text: str) -> str:
    """Query as typed -> query as counted: NFKC, lower case, runs of white space to one blank, none at the ends.

    White space and control characters alike separate words, so that no invisible character tells two queries apart.
    The result may be empty; it is idempotent: normalising twice changes nothing.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    spaced = "".join(" " if ch.isspace() or unicodedata.category(ch) in ("Cc", "Cf") else ch for ch in folded)
    # Removing format characters can bring combining marks next to new bases, and lower-casing can undo a composition.
    return unicodedata.normalize("NFKC", " ".join(spaced.split()))


def has_words(text: str) -> bool:
    """Whether a normalised query holds at least one letter or digit (emoji or punctuation alone mean nothing here)."""
    return any(unicodedata.category(ch)[0] in "LN" for ch in text)


def text_hash(text: str) -> int:
    """Signed xxhash64 of the UTF-8 bytes, equal to Spark's `xxhash64` of a string column."""
    unsigned = xxhash.xxh64_intdigest(text.encode("utf-8"), seed=HASH_SEED)
    return unsigned - (1 << 64) if unsigned >= 1 << 63 else unsigned
