"""What every test may ask for: one Spark session a run, a fresh home, the shared data; and Hypothesis' profiles."""

import os
from pathlib import Path

# Before torch or Spark is imported anywhere: threads that spin, or more of them than cores, starve the JVM.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "PYARROW_IGNORE_TIMEZONE": "1",
}

import pytest
from hypothesis import settings

from jobs import nightly, releases
from jobs.files import in_turn
from jobs.home import Home
from tests.marketplace import LONG_LIVED, copy_home, fill, open_home, with_session

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("DSIRM_SHARED", ROOT.parent / "shared"))
SPARK = {
    "spark.master": "local[2]",
    "spark.driver.memory": "2g",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.adaptive.coalescePartitions.initialPartitionNum": "2",
    "spark.databricks.delta.snapshotPartitions": "2",
    # Hundreds of homes a run: the state of all their tables, kept for an hour, fills the heap until the JVM dies.
    "spark.databricks.delta.delta.log.cacheSize": "32",
    "spark.driver.extraJavaOptions": LONG_LIVED,
}

CQSID_NIGHT = {f"tests/jobs/test_{name}.py" for name in ("cqsid", "readers", "recall", "recall_growth")}
"""Files that read one night of CQ-SID."""

settings.register_profile("default", deadline=None, max_examples=60, derandomize=True)
# Other inputs every night, also where an environment says CI; a failure prints what makes it come again.
settings.register_profile("nightly", deadline=None, max_examples=1_000, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_xdist_make_scheduler(config, log):
    """Of two processes, one gets all that shares a dear fixture: a file, all faults, what reads CQ-SID's night."""
    from xdist.scheduler import LoadScopeScheduling

    class BySharedFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.partition("::")[0]
            if path in CQSID_NIGHT:
                return "cqsid"
            if not path.startswith("tests/faults/"):
                return path
            # Few faults share one preparation; of the long list each process prepares its own and takes what is next.
            return "faults" if "FAULTS_TABLE" not in os.environ else nodeid if "test_kill_points" in path else path

    return BySharedFixture(config, log)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in [name for name in os.environ if name.startswith("DSIRM_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """The one Spark session of the run, with Delta's own jars."""
    from jobs.session import start_session

    warehouse = tmp_path_factory.mktemp("warehouse")
    # The first start on a machine fetches jars: two of them at once find each other's halves.
    with in_turn(_shared_folder(tmp_path_factory) / "spark.lock", "another process that starts Spark"):
        session = start_session({**SPARK, "spark.sql.warehouse.dir": str(warehouse)}, app="dsirm-tests")
    yield session
    session.stop()


@pytest.fixture
def home(tmp_path, spark):
    """An empty home on the shared session."""
    return with_session(Home(tmp_path), spark)


def _shared_folder(tmp_path_factory):
    """One for all processes of a run."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made-once"


def made_once(tmp_path_factory, name, make):
    """A folder that the first process of a run to ask makes, and the others wait for."""
    folder = _shared_folder(tmp_path_factory)
    with in_turn(folder / f"{name}.lock", f"another process that makes {name}"):
        if not (whole := folder / f"{name}.whole").exists():
            make(folder / name)
            whole.touch()
    return folder / name


@pytest.fixture(scope="session")
def marketplace(tmp_path_factory, spark):
    """A tiny marketplace with a log and true grades, made once: copy it (`copy_home`), never write into it."""

    def make(root):
        fill(open_home(root, spark))

    return with_session(Home(made_once(tmp_path_factory, "marketplace", make)), spark)


@pytest.fixture(scope="session")
def market(marketplace, tmp_path_factory, spark):
    """That marketplace after its first night: copy it to change what is in it."""

    def make(root):
        nightly.run(copy_home(marketplace, root, spark))

    return with_session(Home(made_once(tmp_path_factory, "market", make)), spark)


@pytest.fixture(scope="session")
def first(market):
    """The release that the first night published."""
    return releases.current(market.store)["release"]


@pytest.fixture(scope="session")
def shared_data():
    """The folder of the data handed to the project, outside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"the tests on real data: {SHARED / 'data'} is not there (set DSIRM_SHARED to the folder it is in)")
    return SHARED
