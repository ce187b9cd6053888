"""Places at which a job can be stopped, reached from outside the product: its own calls are wrapped, and for the JVM
Delta's log store is replaced by one that obeys (`FaultyLogStore.java`).

A point is (what, where). `what` is a table, or a file under the home as a pattern. `where` for a table: `before` any
file, `create` (the table is there, empty), `files` (data written, not committed), `commit` (landed), `lost` (landed,
but the caller gets an error). For a file, which is always put in place by a rename: `draft` before it, `placed` after.
"""

import time
from fnmatch import fnmatch
from pathlib import Path

import deltalake
from deltalake.exceptions import CommitFailedError

from jobs import storage
from jobs.storage import Target
from tests.faults.state import on_disk

TABLE_POINTS = ("before", "files", "commit", "lost")


def kill(workers, engine, home, job, release, point, reached):
    """Have a worker run a job, and kill it at a point; in this process it is seen that it was there."""
    what, where = point
    version, lost = on_disk(home.root, what) if where in TABLE_POINTS else (None, None)
    worker = workers.take(engine)
    worker.order("job", home=str(home.root), name=job, release=release, fault=point, reached=str(reached))
    if where == "lost":
        assert "the reply was lost" in worker.answer()["says"]
        workers.give_back(engine, worker) if engine == "JVM" else worker.kill()
    else:
        worker.kill_at(reached)
    if where in TABLE_POINTS:
        then, dead = on_disk(home.root, what)
        # A table that was not there is made first, by a commit of its own (test_twins stops after that).
        assert then - max(version, 0) == (where in ("commit", "lost"))
        assert bool(dead - lost) == (where == "files"), "a point is where it says it is"


def stop(reached):
    """Say that the point is reached, and wait there to be killed."""
    Path(reached).touch()
    time.sleep(3600)


def arm(what, where, reached, spark=None):
    """From now on this process stops at the point, or fails there."""
    if where in ("draft", "placed"):
        _arm_rename(what, where, reached)
    elif where == "create":
        _wrap(storage, "create", lambda _, table, *rest: table.name == what, after=lambda: stop(reached))
    elif where == "before":
        _wrap(Target, "_replace_spark", lambda target, *_: target.table.name == what, before=lambda: stop(reached))
        _arm_delta_rs(what, where, reached)
    else:
        _arm_delta_rs(what, where, reached)
        if spark is not None:
            java = spark.sparkContext._jvm.java.lang.System
            java.setProperty("faults.reached", str(reached))
            java.setProperty("faults.at", f"{what} {where}")


def disarm(spark):
    """The JVM's half; what was wrapped in Python stays until the process ends."""
    spark.sparkContext._jvm.java.lang.System.setProperty("faults.at", "none none")


def _wrap(owner, name, matches, *, before=None, after=None):
    real = getattr(owner, name)

    def wrapped(*args, **kwargs):
        hit = matches(*args)
        if hit and before:
            before()
        result = real(*args, **kwargs)
        if hit and after:
            after()
        return result

    setattr(owner, name, wrapped)


def _arm_rename(pattern, where, reached):
    at = {"before" if where == "draft" else "after": lambda: stop(reached)}
    _wrap(Path, "replace", lambda _, target: fnmatch(str(target), f"*/{pattern}"), **at)


def _arm_delta_rs(table, where, reached):
    real = deltalake.write_deltalake

    def write(held, rows, **how):
        if Path(held.table_uri).name != table:
            return real(held, rows, **how)
        if where == "before":
            stop(reached)
        if where == "files":
            _write_files_only(real, held, rows, how)
            stop(reached)
        real(held, rows, **how)
        if where == "commit":
            stop(reached)
        raise OSError("the reply was lost")

    deltalake.write_deltalake = write


def _write_files_only(real, held, rows, how):
    """delta-rs writes its files, finds the next commit taken, and gives up; then that commit is taken away again.

    What is left on disk is what a kill between the two leaves. The commit in the way holds nothing: a reader that sees
    it sees the same rows.
    """
    taken = Path(held.table_uri.removeprefix("file://")) / "_delta_log" / f"{held.version() + 1:020d}.json"
    taken.write_text('{"commitInfo": {"operation": "IN THE WAY"}}\n')
    try:
        real(held, rows, **how)
    except CommitFailedError:
        taken.unlink()
        return
    raise AssertionError("delta-rs committed over a commit in its way")
