"""One piece of the recall study's work, in a process of its own: learn a chain or ask a channel, keep what it found.

Results are artifacts named by what they were computed from, so nothing is computed twice and a study that was cut short
goes on where it was; what learns goes on from its own checkpoints.
"""

from __future__ import annotations

import resource
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.files import in_turn, is_whole

if TYPE_CHECKING:
    from dsirm_models.recall_chain import RecallSettings
    from dsirm_models.recall_found import ChannelFound

CHANNELS = ("random", "popularity", "bm25", "dense")
MOST_ITEMS = 1000
"""Items of a channel's list."""


class Task(NamedTuple):
    """One variant under one seed."""

    variant: str
    """Of `VARIANTS`, `personalised` (which is `sft`), of `ARMS`, or of `CHANNELS`."""
    seed: int | None
    """None for a channel, which has none."""
    data: Path
    settings: RecallSettings
    out: Path
    """Folder of its artifacts; `found`, the last of them, says that it is done."""
    base: Path | None = None
    """CQ-SID's chain of the seed, where it goes on from that."""
    start: Path | None = None
    """The personal chain of the seed, where it goes on from that."""

    @property
    def found(self) -> Path:
        """What it found."""
        return self.out / "found"


def learn(task: Task) -> None:
    """Learn one chain and keep what it finds, unless it is there; after another process that learns it now."""
    with in_turn(task.out.with_name(f"{task.out.name}.lock"), f"another run that learns {task.variant}"):
        if not is_whole(task.found):
            _learn(task)


def _learn(task: Task) -> None:
    import torch

    from dsirm_models import recall_chain
    from dsirm_models.recall_data import RecallData
    from dsirm_models.recall_found import ChannelFound, deep_rows, found_by_channel

    # One thread a process: the study runs as many processes as there are cores.
    torch.set_num_threads(1)
    clock = _Clock()
    data = RecallData.load(task.data)
    clock.done("read")
    scratch = task.out.with_name(f"{task.out.name}.checkpoints")
    how: dict[str, Any] = {"seed": task.seed, "scratch": scratch, "done": clock.done}
    if task.variant in recall_chain.VARIANTS:
        found = recall_chain.learn_queries(data, task.variant, task.settings, out=task.out, **how)
    elif task.variant == "personalised":
        assert task.base
        personal = recall_chain.learn_users(data, task.settings, base=task.base, out=task.out, **how)
        _keep(personal.nameless, task.out / "nameless", clock)
        found = personal.personalised
    elif task.variant in recall_chain.ARMS:
        assert task.base and task.start
        start = task.start / "generator"
        found = recall_chain.align(data, task.variant, task.settings, base=task.base, start=start, **how)
    else:
        deep = data.later.take(deep_rows(data.later, task.settings.deep_requests))
        deeply = found_by_channel(task.variant, data, deep, items=MOST_ITEMS)
        clock.done("lists")
        found = ChannelFound(None, deeply, {})
    _keep(found, task.found, clock)
    shutil.rmtree(scratch, ignore_errors=True)


def _keep(found: ChannelFound, directory: Path, clock: _Clock) -> None:
    # ru_maxrss is in KiB on Linux; of the whole process, so of the largest piece of work that it has done.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found._replace(facts={**found.facts, "seconds": dict(clock.seconds), "peak MiB": peak}).save(directory)


class _Clock:
    """Seconds of each stage, told when it ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.monotonic()

    def done(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = round(now - self.last, 1)
        self.last = now
