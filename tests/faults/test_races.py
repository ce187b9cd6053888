"""Processes that write at the same moment: JVM and JVM, JVM and delta-rs, delta-rs and delta-rs."""

import random
import time
from pathlib import Path

import pytest

from jobs import releases
from jobs.storage import Store
from tests.faults.state import on_disk
from tests.jobs.test_releases import A, B, C, row

pytestmark = pytest.mark.slow
SEED = 20260131
ONE, TWO = "2026-01-01", "2026-01-02"
ENGINES = [("JVM", "JVM"), ("JVM", "delta-rs"), ("delta-rs", "delta-rs")]
ROUNDS = [2, pytest.param(20, marks=pytest.mark.faults)]
each_pair = pytest.mark.parametrize("engines", ENGINES, ids="-".join)
many = pytest.mark.parametrize("rounds", ROUNDS)


@pytest.fixture(scope="module")
def racers(workers):
    """Two processes of each engine, for all races."""
    pool = {kind: [workers.take(kind, ahead=number == 0) for number in range(2)] for kind in ("JVM", "delta-rs")}
    yield lambda *kinds: [pool[kind][number] for number, kind in enumerate(kinds)]
    for kind, held in pool.items():
        for worker in held:
            workers.give_back(kind, worker)


@pytest.fixture
def jitter():
    """Milliseconds that one of two starts later than the other; the same in every run."""
    draw = random.Random(SEED)
    return lambda: draw.choice([0, 0, 5, 20, 60]) / 1000


def at_once(pair, orders, jitter):
    """Both orders, at one moment give or take -> both answers."""
    at = time.time() + 0.2
    for worker, (do, what) in zip(pair, orders, strict=True):
        worker.order(do, **what, at=at + jitter())
    return [worker.answer() for worker in pair]


def held(base):
    return sorted((str(r["event_date"]), r["query_id"]) for r in Store(base).read_arrow("query_days").to_pylist())


def replace_at_once(pair, base, days, numbers, jitter):
    for worker, day in zip(pair, days, strict=True):
        assert worker.call("take", base=base, partition=day) == {"value": None}
    return at_once(pair, [("replace", {"row": [number, "shoes", 1]}) for number in numbers], jitter)


@each_pair
@many
def test_of_two_processes_at_one_partition_one_commits_and_one_fails(engines, rounds, racers, jitter, tmp_path, tried):
    """The first race of each round is for the first rows of a table that is not there yet."""
    for number in range(rounds):
        base = str(tmp_path / f"home-{number}" / "tables")
        for turn in (0, 1):
            answers = replace_at_once(racers(*engines), base, [ONE, ONE], [10 * turn, 10 * turn + 1], jitter)
            failed = [answer["error"] for answer in answers if "error" in answer]
            assert failed == ["ConcurrentWrite"], (SEED, number, answers)
            assert held(base) == [(ONE, 10 * turn + ("error" in answers[0]))]
            version, dead = on_disk(tmp_path / f"home-{number}", "query_days")
            assert (version, dead) == (turn + 1, set()), "nothing of the second, not even a file"
    said = "one committed, the other failed as ConcurrentWrite and left nothing"
    tried(" and ".join(engines), "one partition, also the first of a table", "two runs at once", said, 2 * rounds)


@each_pair
@many
def test_different_partitions_both_commit(engines, rounds, racers, jitter, tmp_path, tried):
    for number in range(rounds):
        base = str(tmp_path / f"home-{number}" / "tables")
        for turn in (0, 1):
            answers = replace_at_once(racers(*engines), base, [ONE, TWO], [turn, turn + 5], jitter)
            assert answers == [{"value": None}] * 2, (SEED, number)
            assert held(base) == [(ONE, turn), (TWO, turn + 5)]
    where = "different partitions, also the first of a table"
    tried(" and ".join(engines), where, "two runs at once", "both committed, no row lost", 2 * rounds)


@pytest.mark.parametrize(
    "engines", [pytest.param(ENGINES[0], marks=pytest.mark.faults), ENGINES[1]], ids=["JVM-JVM", "JVM-delta-rs"]
)
def test_the_lock_closes_the_gap_between_the_look_and_the_rename(engines, racers, tmp_path, tried):
    """The JVM's log store looks whether a commit is there, then renames. With time between the two, rows are lost
    unless a lock keeps the writers apart; that they are lost without it shows that this test can fail.
    """
    pair, base, number = racers(*engines), str(tmp_path / "tables"), 0
    replace_at_once(pair, base, [ONE, TWO], [0, 0], lambda: 0)
    lost = {True: 0, False: 0}
    try:
        for locked in (True, True, False, False, False):
            number += 1
            reached = tmp_path / f"reached-{number}"
            for worker, kind in zip(pair, engines, strict=True):
                worker.call("lock", on=locked)
                if kind == "JVM":
                    worker.call("dawdle", table="query_days", reached=f"{reached}-{worker.process.pid}")
            lost[locked] += one_in_the_gap_of_the_other(pair, base, number, reached)
            assert lost[True] == 0
            if lost[False]:
                break
    finally:
        for worker, kind in zip(pair, engines, strict=True):
            worker.call("lock", on=True)
            if kind == "JVM":
                worker.call("hurry")
    assert lost[False] > 0
    said = "no commit lost under the lock; without it (to see that the test can fail) one is"
    where = "the log store's look and its rename, five seconds apart"
    tried(" and ".join(engines), where, "two runs at once", said, 2)


def one_in_the_gap_of_the_other(pair, base, number, reached):
    """The second starts when the first has looked -> how many of what was committed is not there."""
    for worker, day in zip(pair, (ONE, TWO), strict=True):
        worker.call("take", base=base, partition=day)
    pair[0].order("replace", row=[number, "shoes", 1], at=0)
    while not Path(f"{reached}-{pair[0].process.pid}").exists():
        time.sleep(0.005)
    pair[1].order("replace", row=[number, "shoes", 1], at=0)
    answers = [worker.answer() for worker in pair]
    committed = {(day, number) for day, answer in zip((ONE, TWO), answers, strict=True) if "value" in answer}
    assert committed, answers
    return len(committed - set(held(base)))


@many
def test_publish_against_rollback_the_sequence_decides(rounds, racers, jitter, tmp_path, tried):
    for number in range(rounds):
        base = str(tmp_path / f"home-{number}" / "tables")
        store = Store(base)
        for name in (A, B):
            releases.publish(store, row(name), seen=len(releases.history(store)))
        fresh = {key: value for key, value in row(C).items() if key not in ("event_time", "created_time")}
        orders = [
            ("publish", {"base": base, "row": {**fresh, "as_of_date": str(fresh["as_of_date"])}, "seen": 2}),
            ("roll_back", {"base": base, "release": B}),
        ]
        answers = at_once(racers("delta-rs", "delta-rs"), orders, jitter)
        rows = releases.history(store)
        assert [r["sequence"] for r in rows] == list(range(1, len(rows) + 1)), (SEED, number)
        publishing, rolling_back = (answer.get("error") for answer in answers)
        # Overtaken at the same moment, or before it looked: then its plan is of another history, and no retry helps.
        assert publishing in (None, "ConcurrentWrite", "DataError")
        assert rolling_back in (None, "ConcurrentWrite")
        assert len(rows) == 2 + sum("value" in answer for answer in answers) >= 3
        if "error" in answers[0]:  # the rollback came first: what was to be published was audited against B
            assert rows[-1]["current"] == A
        elif "error" in answers[1]:
            assert rows[-1]["current"] == C
        else:  # it saw that C serves, and went back to B
            assert rows[-1]["current"] == B
        assert releases.current(store)["release"] == rows[-1]["current"]
    said = "no sequence twice or left out; the highest decides, the loser fails"
    tried("delta-rs and delta-rs", "releases", "publish against rollback", said, rounds)


def test_a_killed_holder_lets_go_of_the_lock(workers, racers, tmp_path, tried):
    base, reached = str(tmp_path / "tables"), tmp_path / "reached"
    holder, (waiting, _) = workers.take("delta-rs", ahead=False), racers("delta-rs", "delta-rs")
    waiting.call("take", base=base, partition=ONE)
    holder.order("hold_lock", base=base, table="query_days", reached=str(reached))
    while not reached.exists():
        time.sleep(0.01)
    waiting.order("replace", row=[1, "shoes", 1], at=0)
    time.sleep(0.5)
    assert held(base) == [], "it waits"
    holder.kill()
    assert waiting.answer() == {"value": None}
    assert held(base) == [(ONE, 1)]
    tried("delta-rs", "a table's lock", "its holder is killed", "the next writer goes on at once")
