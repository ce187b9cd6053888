"""Frames that several results of a job are made of, computed once and kept on disk until the job ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

FEW = 100_000
"""Rows that any executor can hold."""


@contextmanager
def staging() -> Iterator[Callable[[DataFrame], DataFrame]]:
    """Gives a function that computes a frame and returns it kept; at the end nothing is kept any more."""
    staged: list[DataFrame] = []

    def stage(frame: DataFrame) -> DataFrame:
        kept = frame.persist(StorageLevel.DISK_ONLY)
        staged.append(kept)
        # Counted at once: what is kept then knows its size, and joins with the small ones move no large one.
        if kept.count() > FEW:
            return kept
        # What is kept shows its whole plan in those above it, stage upon stage: a small day's time went into writing
        # such plans down. A checkpoint has none. It does not know its size either, hence the hint.
        return F.broadcast(kept.localCheckpoint(storageLevel=StorageLevel.DISK_ONLY))

    try:
        yield stage
    finally:
        for frame in staged:
            frame.unpersist()
