"""Figures: how they are measured, what is kept of them, and the table that shows them."""

from __future__ import annotations

import datetime as dt
import gc
import json
import multiprocessing
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from jobs.files import write_json
from jobs.revision import code_revision

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One comparison. `ratio` is ours over the peer's; `limit` is the most of a time, the least of a rate."""

    name: str
    ours: float
    peer: float | None
    """None where the limit is absolute (memory, an exponent) and `ratio` is `ours` itself."""
    peer_name: str
    unit: str
    limit: float | None
    """None where nothing was promised: the figure is there to be known."""
    higher_is_better: bool = False
    memory_gb: float | None = None
    """Most memory (PSS of all processes) that ours took."""
    peer_memory_gb: float | None = None
    disk_gb: float | None = None
    """Most disk that ours took, tables and spills."""
    note: str = ""

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours if self.peer is None else self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the limit holds; None without one."""
        if self.limit is None:
            return None
        return self.ratio >= self.limit if self.higher_is_better else self.ratio <= self.limit

    def row(self) -> dict[str, Any]:
        """As the result files have it."""
        return asdict(self) | {"ratio": self.ratio, "met": self.met}


class Usage(NamedTuple):
    """What a stretch of work took."""

    seconds: float
    memory_gb: float
    disk_gb: float


@contextmanager
def watched(*folders: Path) -> Iterator[list[Usage]]:
    """Time, and the peaks of memory (this process and all below it) and of disk (`folders`), looked at twice a second.

    The list holds the one `Usage` when the block has ended.
    """
    found: list[Usage] = []
    peaks, over = [0.0, 0.0], threading.Event()

    def look() -> None:
        while True:
            peaks[0] = max(peaks[0], _memory())
            peaks[1] = max(peaks[1], sum(map(_size, folders)))
            if over.wait(0.5):
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    begun = time.perf_counter()
    try:
        yield found
    finally:
        seconds = time.perf_counter() - begun
        over.set()
        watcher.join()
        found.append(Usage(seconds, peaks[0] / 1e9, peaks[1] / 1e9))


def apart(work: Callable[..., None], *args: object, folders: Sequence[Path] = ()) -> Usage:
    """Run `work` in a process of its own, so that nothing else is counted, and say what it took.

    Raises:
        RuntimeError: it failed; its own words are above.

    """
    process = multiprocessing.get_context("spawn").Process(target=work, args=args)
    with watched(*folders) as used:
        process.start()
        process.join()
    if process.exitcode:
        raise RuntimeError(f"{work.__name__} ended with {process.exitcode}.")
    return used[0]


def _memory() -> float:
    total = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended while we looked
    return total


def _size(folder: Path) -> float:
    total = 0.0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def alternating(ours: Callable[[], object], peer: Callable[[], object], *, rounds: int = 7) -> tuple[float, float]:
    """Median seconds of both, in turns, so that a machine that slows down slows both. A first round is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for at, work in enumerate((ours, peer)):
            gc.collect()
            begun = time.perf_counter()
            work()
            if round_:
                times[at].append(time.perf_counter() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


@contextmanager
def one_thread() -> Iterator[None]:
    """Both sides on one thread, as a Spark task has it: on a few cores a second one adds noise and little else."""
    import faiss
    import torch

    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


def machine() -> dict[str, Any]:
    """The machine, in figures that matter here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {"cpu": model, "cores": cores, "memory_gb": round(psutil.virtual_memory().total / 1e9, 1), "gpu": _gpu()}


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def save(name: str, size: str, figures: Sequence[Figure], facts: Mapping[str, Any] | None = None) -> Path:
    """Write `results/NAME.json` (`NAME-full.json` of the full size) and renew the table of all results."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'-full' if size == 'full' else ''}.json"
    body = {
        "benchmark": name,
        "size": size,
        "machine": machine(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "revision": code_revision(),
        "facts": dict(facts or {}),
        "figures": [figure.row() for figure in figures],
    }
    write_json(path, body)
    (RESULTS / "README.md").write_text(table(sorted(RESULTS.glob("*.json"))), encoding="utf-8")
    return path


def table(files: Sequence[Path]) -> str:
    """All results as one Markdown table."""
    lines = [
        "# Benchmarks, as last run",
        "",
        "Written by `make bench` and `make bench-full`. Each figure is a ratio taken in one run on one machine.",
        "",
        "| benchmark | figure | ours | peer | unit | ratio | limit | met | memory GB | disk GB | revision | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for path in files:
        body = json.loads(path.read_text(encoding="utf-8"))
        for row in body["figures"]:
            sign = "≥" if row["higher_is_better"] else "≤"
            limit = "" if row["limit"] is None else f"{sign} {row['limit']:g}"
            met = {True: "yes", False: "**no**", None: ""}[row["met"]]
            peer = row["peer_name"] if row["peer"] is None else f"{row['peer']:.4g} ({row['peer_name']})"
            ratio = "" if row["peer"] is None else f"{row['ratio']:.2f}"
            memory, disk = ("" if row[key] is None else f"{row[key]:.2f}" for key in ("memory_gb", "disk_gb"))
            lines.append(
                f"| {path.stem} | {row['name']} | {row['ours']:.4g} | {peer} | {row['unit']} | {ratio} "
                f"| {limit} | {met} | {memory} | {disk} | {body['revision']} | {body['date']} |"
            )
            if row["note"]:
                notes.append(f"- {path.stem}, {row['name']}: {row['note']}")
    return "\n".join([*lines, "", *notes]) + "\n"
