"""The chain with its tables on an object store: an S3 on loopback, both engines, credentials from the environment.

Fetches Hadoop's S3 client (640 MB, once) and installs the server into an environment of its own: `make test-faults`.
"""

import io
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from jobs.errors import ConcurrentWrite
from jobs.home import Home
from schemas.tables import TABLES
from tests.conftest import ROOT, SPARK
from tests.marketplace import SETTINGS, SHORT_LIVED, rows, versions

pytestmark = [pytest.mark.slow, pytest.mark.faults]
BUCKET = "dsirm-tests"
# The chain as `dsirm` runs it, in one process: its logging, its session, its jobs.
CHAIN = """
import sys
from pathlib import Path
from jobs import nightly
from jobs.cli_errors import configure_logging
from jobs.home import Home
from tests.marketplace import fill
configure_logging()
home = Home(Path(sys.argv[1]))
fill(home)
print(nightly.run(home).release)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an S3 on loopback, from the locked packages, in an environment beside the product's."""
    place = Path(sys.prefix) / "object-store"
    lock = ROOT / "requirements" / "object-store.lock"
    stamp = place / "ready"
    if not stamp.is_file() or stamp.read_text() != lock.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        subprocess.run([place / "bin" / "python", *install, "-r", lock], check=True)
        stamp.write_text(lock.read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    command = [place / "bin" / "moto_server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=log, stderr=log) as process:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=5)
                break
            except urllib.error.URLError:
                time.sleep(0.5)
        yield address
        process.terminate()


@pytest.fixture(scope="module")
def keys():
    """Credentials that nobody may see again."""
    return {"AWS_ACCESS_KEY_ID": "AKIA" + secrets.token_hex(8).upper(), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}


@pytest.fixture(scope="module")
def environment(server, keys):
    """What whoever runs the product sets."""
    delta_rs = {"AWS_ENDPOINT_URL": server, "AWS_ALLOW_HTTP": "true", "AWS_CONDITIONAL_PUT": "etag"}
    return {**keys, **delta_rs, "AWS_REGION": "us-east-1", "DSIRM_LOG_LEVEL": "DEBUG"}


@pytest.fixture(autouse=True)
def _credentials(environment, monkeypatch):
    for name, value in environment.items():
        if not name.startswith("DSIRM_"):
            monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def night(server, environment, tmp_path_factory):
    """A home whose tables are on S3 after its first night, the release, and all that was said on the way."""
    root = tmp_path_factory.mktemp("remote") / "home"
    root.mkdir()
    # As the night on a disk has it: vectors differ in their last bits with how Spark cuts the batches.
    same = {**SPARK, "spark.driver.extraJavaOptions": SHORT_LIVED}
    spark = "\n".join(f'"{name}" = "{value}"' for name, value in same.items())
    (root / "dsirm.toml").write_text(f"""{SETTINGS}
[storage]
tables = "s3a://{BUCKET}/tables"

[storage.spark]
{spark}
"spark.jars.packages" = "org.apache.hadoop:hadoop-aws:3.4.2"
"spark.hadoop.fs.s3a.endpoint" = "{server}"
"spark.hadoop.fs.s3a.endpoint.region" = "us-east-1"
"spark.hadoop.fs.s3a.path.style.access" = "true"
"spark.hadoop.fs.s3a.connection.ssl.enabled" = "false"
""")
    done = run([sys.executable, "-c", CHAIN, str(root)], environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return root, done.stdout.split()[-1], done.stdout + done.stderr


def run(command, environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DSIRM_", "AWS_"))}
    return subprocess.run(command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, timeout=1800)


def dsirm(root, environment, *arguments):
    return run([sys.executable, "-m", "jobs.cli", *arguments, "--home", str(root)], environment)


def test_a_night_on_s3_publishes_what_a_night_on_a_disk_does(night, market, first):
    root, release, _ = night
    home = Home(root)
    assert not (root / "tables").exists()
    assert release == first, "the same inputs and settings, wherever the tables are"
    for name in ("catalog", "pairs", "queries", "item_sids", "sid_items", "query_sids", "prefix_match_features"):
        assert rows(home, name) == rows(market, name), name
    assert home.store.last_commit("releases").metadata["run"]


def test_the_same_night_again_changes_nothing_and_needs_no_spark(night, environment):
    root, release, _ = night
    before = versions(Home(root))
    done = dsirm(root, environment, "nightly", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["release"] == release
    assert versions(Home(root)) == before


def test_of_two_runs_of_one_partition_the_second_fails_and_of_many_releases_one_comes_next(night):
    store = Home(night[0]).store
    part = {"source": "people"}
    row = {"query": "q", "query_id": 1, "item_id": "i", "rater": "r", "source": "people", "grade": 1, "fold": None}
    labels = pa.Table.from_pylist([row], TABLES["relevance_labels"].arrow_schema())
    mine, theirs = store.target("relevance_labels", part), store.target("relevance_labels", part)
    theirs.replace(labels, job="theirs")
    with pytest.raises(ConcurrentWrite):
        mine.replace(labels, job="mine")
    latest = store.read_arrow("releases").to_pylist()[-1]
    barrier, ended = threading.Barrier(6), []

    def append():
        barrier.wait()
        try:
            store.append_release({**latest, "sequence": latest["sequence"] + 1})
            ended.append("written")
        except ConcurrentWrite:
            ended.append("refused")

    threads = [threading.Thread(target=append) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["refused"] * 5 + ["written"]


def test_without_any_lock_the_store_itself_lets_no_commit_of_delta_rs_be_lost(night):
    path = f"s3a://{BUCKET}/race"
    deltalake.write_deltalake(path, pa.table({"n": [0]}))
    threads = [
        threading.Thread(target=lambda n=n: deltalake.write_deltalake(path, pa.table({"n": [n]}), mode="append"))
        for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(deltalake.DeltaTable(path).to_pyarrow_table()["n"].to_pylist()) == list(range(9))


def test_credentials_are_in_no_log_no_table_and_no_file_of_the_home(night, server, keys):
    root, _, said = night
    store = fs.S3FileSystem(endpoint_override=server, scheme="http")
    objects = [info.path for info in store.get_file_info(fs.FileSelector(BUCKET, recursive=True)) if info.is_file]
    assert any("_delta_log" in path for path in objects)
    bodies = {path: store.open_input_file(path).read() for path in objects}
    bodies |= {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    rows = {path: repr(pq.read_table(io.BytesIO(bodies[path])).to_pylist()) for path in objects if ".parquet" in path}
    assert any("click_log" in path for path in rows), "compressed: what they hold is looked at too"
    for key in keys.values():
        assert key not in said
        assert [path for path, body in bodies.items() if key.encode() in body] == []
        assert [path for path, read in rows.items() if key in read] == []


@pytest.mark.parametrize("wrong", ["the address", "the bucket"])
def test_an_error_of_the_store_is_one_message_without_credentials(night, environment, keys, wrong):
    root = night[0]
    changed = (
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_RETRIES": "0"}
        if wrong == "the address"
        else {"DSIRM_STORAGE__TABLES": f"s3a://no-such-bucket-{keys['AWS_SECRET_ACCESS_KEY']}/tables"}
    )
    done = dsirm(root, {**environment, **changed}, "status")
    assert done.returncode == 1
    assert re.search(r"^Error: The storage refused", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert not [key for key in keys.values() if key in done.stdout + done.stderr]
