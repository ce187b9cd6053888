"""Runs that meet: the same job twice at once, a job and maintenance, a job whose Python alone is killed."""

import time

import deltalake
import psutil
import pytest

from jobs.home import Home
from tests.faults.state import Reader, differences, on_disk, rows_digest, state
from tests.faults.worker import run_job
from tests.marketplace import copy_home, with_session

pytestmark = pytest.mark.slow


def order(worker, home, job, chain, **fault):
    worker.order("job", home=str(home.root), name=job, release=chain.release, **fault)


def test_a_training_that_meets_another_of_its_version_does_nothing(chain, scenario, workers, tried):
    home, reached = scenario("finetune_generator")
    first, second = workers.take("delta-rs"), workers.take("delta-rs")
    fault = ("artifacts/generator/.*/manifest.json", "draft")
    order(first, home, "finetune_generator", chain, fault=fault, reached=str(reached))
    while not reached.exists():
        time.sleep(0.01)
    found = state(home.root)
    order(second, home, "finetune_generator", chain)
    answer = second.answer()
    assert (answer["error"], "is training the generator" in answer["says"]) == ("ConcurrentWrite", True)
    assert differences(state(home.root), found) == []
    first.kill()
    order(second, home, "finetune_generator", chain)
    assert second.answer()["value"]
    assert differences(state(home.root), chain.after["finetune_generator"]) == []
    workers.give_back("delta-rs", second)
    said = "the second fails as ConcurrentWrite; after the first was killed it goes on from its checkpoint"
    tried("delta-rs", "finetune_generator", "two trainings of one version at once", said)


@pytest.mark.faults
def test_of_two_runs_of_one_job_on_the_jvm_one_ends_and_one_fails(chain, scenario, workers, tried, spark):
    home, _ = scenario("assign_item_sids")
    pair = [workers.take("JVM"), workers.take("JVM")]
    with Reader(home.root, chain.published) as reader:
        for worker in pair:
            order(worker, home, "assign_item_sids", chain)
        answers = [worker.answer() for worker in pair]
    assert sorted(answer.get("error", "") for answer in answers) == ["", "ConcurrentWrite"]
    assert differences(state(home.root), chain.after["assign_item_sids"]) == []
    assert reader.wrong == []
    for worker in pair:
        workers.give_back("JVM", worker)
    tried("JVM and JVM", "assign_item_sids", "the same job twice at once", "one ended, the other failed")


@pytest.mark.parametrize("hours", [1, pytest.param(0, marks=pytest.mark.faults)])
def test_a_job_a_long_reader_and_maintenance_at_once(hours, chain, scenario, workers, tried, spark):
    """Hours 0 is what `forget` deletes with: files that the job has open may go, and then it has to say so."""
    home, _ = scenario("assign_item_sids")
    writer, tidier = workers.take("JVM"), workers.take("delta-rs")
    before = deltalake.DeltaTable(home.store.path("item_sids"))
    long_reader = before.to_pyarrow_dataset()
    digest = rows_digest(long_reader.to_table())
    with Reader(home.root, chain.published) as reader:
        tidier.order("tidy", home=str(home.root), times=6, hours=hours)
        order(writer, home, "assign_item_sids", chain)
        assert tidier.answer() == {"value": None}
        answer = writer.answer()
    assert reader.wrong == [] or hours == 0
    if hours:
        assert answer == {"value": chain.release}
        assert rows_digest(long_reader.to_table()) == digest, "what a reader opened stays"
    with_session(home, spark)
    anew = set()
    if not hours:
        # The sources' versions that the plan noted may be gone for good: planned anew, it notes those that are there.
        assert run_job(home, "plan", chain.release) == chain.release
        anew = {str(home.plan_file(chain.release).relative_to(home.root))}
    run_job(home, "assign_item_sids", chain.release)
    assert set(differences(state(home.root), chain.after["assign_item_sids"])) <= anew
    workers.give_back("JVM", writer)
    workers.give_back("delta-rs", tidier)
    where = f"compact and vacuum ({hours} h) of every table, again and again"
    said = (
        "the job ended, an old reader read on"
        if hours
        else "nothing wrong written: the job ended, or failed and ran again"
    )
    tried("JVM and delta-rs", "assign_item_sids", where, said, 6)


@pytest.mark.faults
def test_when_python_alone_is_killed_its_jvm_ends_too_and_commits_nothing(chain, scenario, workers, tried, spark):
    """As the kernel does when memory is short. The lock is free from then on, so the JVM must not go on."""
    home, reached = scenario("assign_item_sids")
    worker = workers.take("JVM")
    version, _ = on_disk(home.root, "item_sids")
    order(worker, home, "assign_item_sids", chain, fault=("item_sids", "files"), reached=str(reached))
    while not reached.exists():
        time.sleep(0.01)
    children = psutil.Process(worker.process.pid).children(recursive=True)
    worker.process.kill()
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert (alive, len(gone) > 0) == ([], True)
    assert on_disk(home.root, "item_sids")[0] == version
    with_session(home, spark)
    run_job(home, "assign_item_sids", chain.release)
    assert differences(state(home.root), chain.after["assign_item_sids"]) == []
    tried("JVM", "assign_item_sids", "Python alone is killed", "its JVM ends too; as one undisturbed run")


@pytest.mark.faults
def test_killed_between_making_a_table_and_its_first_rows(marketplace, market, tmp_path, workers, spark, tried):
    home, reached = Home(copy_home(marketplace, tmp_path / "home").root), tmp_path / "reached"
    with_session(home, spark)
    release = run_job(home, "plan", "")
    worker = workers.take("JVM")
    fault = ("query_days", "create")
    worker.order("job", home=str(home.root), name="aggregate_day", release=release, fault=fault, reached=str(reached))
    worker.kill_at(reached)
    assert home.store.exists("query_days")
    assert home.store.count("query_days") == 0
    run_job(home, "aggregate_day", release)
    for name in ("query_days", "pair_days"):
        assert rows_digest(home.store.read_arrow(name)) == rows_digest(market.store.read_arrow(name))
    tried("JVM", "aggregate_day (query_days)", "killed after a table is made, before its first rows", "as one run")
