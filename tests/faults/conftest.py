"""One night taken apart, made once: a copy of the home before each of its jobs, and what each leaves behind."""

import datetime as dt
import os
from pathlib import Path
from typing import NamedTuple

import pyspark
import pytest

from jobs import nightly
from jobs.home import Home
from tests.conftest import SPARK
from tests.faults.processes import Workers, compile_log_store
from tests.faults.report import Row, write
from tests.faults.state import published, state
from tests.faults.worker import run_job
from tests.marketplace import EVERY_JOB, LAST_DAY, SHORT_LIVED, change_catalogue, copy_home, late_click, open_home

JOBS = ("plan", "aggregate_day", *nightly.CHAIN)


class Chain(NamedTuple):
    """A second night, a refit, after late clicks and a changed catalogue: every job of it has something to do."""

    release: str
    before: dict[str, Path]
    """Job -> home as the job finds it."""
    after: dict[str, dict[str, str]]
    """Job -> state of the home when it has run once, undisturbed."""
    published: dict[str, dict[str, str]]
    """Release -> what its readers see."""


@pytest.fixture(scope="session")
def chain(market, tmp_path_factory, spark):
    folder = tmp_path_factory.mktemp("chain")
    home = open_home(copy_home(market, folder / "night").root, spark, EVERY_JOB)
    change_sources(home)
    before, after, known, release = {}, {}, {}, ""
    for job in JOBS:
        before[job] = copy_home(home, folder / f"before-{job}").root
        release = run_job(home, job, release)
        after[job] = state(home.root, known)
    return Chain(release, before, after, published(home.root))


def change_sources(home):
    """A click on each day, for queries that nobody typed before, and an item with another text."""
    for number, day in enumerate((LAST_DAY, LAST_DAY - dt.timedelta(days=1))):
        late_click(home, day, event=f"late-{number}", query=f"a lamp of glass {number}")
    item = min(home.store.read_arrow("catalog", columns=["item_id"])["item_id"].to_pylist())
    change_catalogue(home, text={item: "a lamp of green glass"})


@pytest.fixture(scope="session")
def faulty_spark(spark, tmp_path_factory):
    """Properties of a worker's session whose log store obeys."""
    jars = spark.conf.get("spark.jars").split(",")
    classpath = ":".join([*(jar.removeprefix("file:") for jar in jars), f"{Path(pyspark.__file__).parent}/jars/*"])
    obeys = compile_log_store(tmp_path_factory.mktemp("classes"), classpath)
    warehouse = tmp_path_factory.mktemp("worker-warehouse")
    short = {"spark.driver.memory": "1g", "spark.driver.extraJavaOptions": SHORT_LIVED}
    return {**SPARK, **obeys, **short, "spark.sql.warehouse.dir": str(warehouse)}


@pytest.fixture(scope="package")
def workers(faulty_spark, tmp_path_factory):
    """Processes to command and to kill; gone before the other tests run, for their memory is wanted."""
    made = Workers(tmp_path_factory.mktemp("workers"), faulty_spark)
    yield made
    made.close()


@pytest.fixture
def tried(request):
    """Notes a fault that the product stood. Only what passes is told, so nothing is claimed that failed."""

    def note(*row):
        request.node.user_properties.append(("fault", row))

    return note


FOUND = []


def pytest_runtest_logreport(report):
    """Gathers what passed; of several processes, the first hears of every test."""
    if report.when == "call" and report.passed:
        FOUND.extend(Row(*row) for name, row in report.user_properties if name == "fault")


def pytest_sessionfinish():
    """The table goes where FAULTS_TABLE says, at the end: a changed file would be another code revision to the jobs."""
    place = None if "PYTEST_XDIST_WORKER" in os.environ else os.environ.get("FAULTS_TABLE")
    if place and FOUND:
        write(Path(place), FOUND)


@pytest.fixture
def scenario(tmp_path, chain):
    """A home of its own as a job finds it, and where the job says that it reached its point."""

    def open_scenario(job):
        return Home(copy_home(Home(chain.before[job]), tmp_path / "home").root), tmp_path / "reached"

    return open_scenario
