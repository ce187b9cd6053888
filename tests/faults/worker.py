"""A process of its own that does what it is told, line by line: `python -m tests.faults.worker [--spark CLASSES]`.

Orders and answers are JSON. It imports what jobs need and starts its JVM first, so that an order takes as long as the
job does. Whoever started it kills it, children and all.
"""

import datetime as dt
import importlib
import json
import os
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa

from jobs import forget, import_source, maintain, releases
from jobs.home import Home
from jobs.plan import load_plan, make_plan
from jobs.storage import Store
from schemas.tables import TABLES
from tests.faults import points
from tests.marketplace import with_session

SESSION = None
TARGET = None
LOCK = Store._lock
BY_HAND = {
    "import": lambda home: import_source.ubi(home, home.root / "late.ndjson"),
    "forget": lambda home: forget.run(home, known_as=(home.root / "person.txt").read_text()),
    "maintain": maintain.run,
}


def open_home(root):
    return with_session(Home(Path(root)), SESSION)


def run_job(home, job, release):
    """A job as the chain runs it, or somebody by hand. `plan` is one too, of a refit; it returns the release."""
    home.store.reads.clear()
    if job in BY_HAND:
        BY_HAND[job](home)
        return release
    if job == "plan":
        return make_plan(home, refit=True).release
    plan = load_plan(home, release)
    module = importlib.import_module(f"jobs.{job}")
    if job == "aggregate_day":
        module.run(home, [dt.date.fromisoformat(day) for day in plan.days])
    else:
        module.run(home, plan)
    return release


def job(home, name, release, fault=None, reached=None):
    if fault:
        points.arm(*fault, reached, SESSION)
    try:
        return run_job(open_home(home), name, release)
    finally:
        if SESSION is not None:
            points.disarm(SESSION)


def take(base, partition):
    """Note a day of `query_days`, as a run does at its start."""
    global TARGET
    TARGET = Store(base).target("query_days", {"event_date": dt.date.fromisoformat(partition)})


def replace(row, at):
    """Replace the day that was taken, at a moment (seconds since the epoch) that others were told too."""
    (part,) = TARGET.partitions
    columns = TARGET.table.names
    rows = pa.table({name: [value] for name, value in zip(columns, [part["event_date"], *row], strict=True)})
    made = rows if SESSION is None else SESSION.createDataFrame(rows)
    _wait(at)
    TARGET.replace(made, job="race")


def publish(base, row, seen, at):
    _wait(at)
    day = dt.date.fromisoformat(row["as_of_date"])
    times = dict.fromkeys(("event_time", "created_time"), releases.day_end(day))
    return releases.publish(Store(base), {**row, "as_of_date": day, **times}, seen=seen)


def roll_back(base, release, at):
    _wait(at)
    return releases.roll_back(Store(base), release)


def tidy(home, times, hours):
    """Join small files and delete dead ones, of every table, again and again."""
    store = Home(Path(home)).store
    for _ in range(times):
        for name in TABLES:
            if store.exists(name):
                store.compact(name)
                store.vacuum(name, hours=hours)


def dawdle(table, reached):
    """From now on the JVM looks whether a commit of this table is there, says so, waits, then writes it."""
    points.arm(table, "gap", reached, SESSION)


def hurry():
    """No longer."""
    points.disarm(SESSION)


def lock(on):
    """Off: as it would be without the lock, to see that a test can fail."""
    Store._lock = LOCK if on else lambda *_: nullcontext()


def hold_lock(base, table, reached):
    """Hold the lock of a table until killed."""
    with Store(base)._lock(table):
        points.stop(reached)


def _wait(at):
    time.sleep(max(0.0, at - time.time()))


def main():
    global SESSION
    # Answers have a channel of their own: libraries print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # A worker that nobody commands any more ends: its parent was killed.
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        from jobs.session import start_session

        SESSION = start_session(json.loads(sys.argv[2]), app="faults")
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            value = globals()[order.pop("do")](**order)
            answer = {"value": value}
        except BaseException as error:
            answer = {"error": type(error).__name__, "says": str(error)[:2000]}
        print(json.dumps(answer), file=answers, flush=True)
    if SESSION is not None:
        SESSION.stop()


def _end_with(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, 9)


if __name__ == "__main__":
    main()
