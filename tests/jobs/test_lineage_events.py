"""OpenLineage events: what a backend is told of a job, and that it can never stop one."""

import http.server
import json
import logging
import os
import threading

import pyarrow as pa
import pytest

from jobs import lineage_events, nightly
from jobs.cli_options import run
from jobs.errors import DataError
from jobs.home import Home
from jobs.lineage_events import job_run
from schemas.tables import TABLES
from tests.marketplace import copy_home


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """A process of its own: no client of another test, no variables from outside or set by a client."""
    monkeypatch.setattr(lineage_events, "_client", [])
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        monkeypatch.delenv(name)
    yield
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE__")]:
        os.environ.pop(name)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Events go to a file: call it to read them."""
    path = tmp_path / "events.jsonl"
    for key, value in {"TYPE": "file", "LOG_FILE_PATH": str(path), "APPEND": "true"}.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{key}", value)
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]


def write(home, name="users", user="ann"):
    rows = pa.table({"user": [user], "gender": [None], "age_band": [None], "purchase_power": [3]})
    home.store.target(name).replace(rows, job="test")


def datasets(event, side):
    return {d["name"].rpartition("/")[2]: d["facets"]["version"]["datasetVersion"] for d in event[side]}


def test_a_job_tells_what_it_read_and_wrote_at_which_version(home, told):
    write(home)
    with job_run(home, "outer"):
        home.store.read_arrow("users")
        with job_run(home, "inner"):
            write(home)
    start, inner_start, inner, outer = told()
    assert [(e["job"]["name"], e["eventType"]) for e in (start, inner_start, inner, outer)] == [
        ("outer", "START"), ("inner", "START"), ("inner", "COMPLETE"), ("outer", "COMPLETE"),
    ]  # fmt: skip
    assert datasets(inner, "outputs") == {"users": "2"}
    assert inner["inputs"] == [] == outer["outputs"], "a job answers for itself, not for those within it"
    assert datasets(outer, "inputs") == {"users": "1"}
    assert inner["run"]["facets"]["parent"]["run"]["runId"] == start["run"]["runId"] == outer["run"]["runId"]
    assert "parent" not in outer["run"]["facets"]
    tags = {tag["key"]: tag["value"] for tag in inner["run"]["facets"]["tags"]["tags"]}
    commit = home.store.last_commit("users").metadata
    assert all(tags[key] == commit[key] for key in ("run", "code_revision", "config_hash"))
    (dataset,) = inner["outputs"]
    assert (dataset["namespace"], dataset["name"]) == ("file", home.store.path("users"))
    assert [field["name"] for field in dataset["facets"]["schema"]["fields"]] == TABLES["users"].names


def test_a_job_that_fails_says_so_in_our_words_only(home, told):
    with pytest.raises(DataError), job_run(home, "job"):
        raise DataError("No catalogue yet.")
    with pytest.raises(ValueError, match="0x36"), job_run(home, "job"):
        raise ValueError("a plan with the key 0x36")
    messages = [e["run"]["facets"]["errorMessage"]["message"] for e in told() if e["eventType"] == "FAIL"]
    assert messages == ["No catalogue yet.", "ValueError"]


@pytest.mark.parametrize("variable", [None, "OPENLINEAGE_DISABLED"])
def test_without_the_variables_or_disabled_nothing_is_sent_and_nothing_imported(home, told, monkeypatch, variable):
    if variable:
        monkeypatch.setenv(variable, "true")
    else:
        for key in ("TYPE", "LOG_FILE_PATH", "APPEND"):
            monkeypatch.delenv(f"OPENLINEAGE__TRANSPORT__{key}")
    with job_run(home, "job"):
        write(home)
    assert lineage_events._client == []
    with pytest.raises(FileNotFoundError):
        told()


def test_a_dead_backend_costs_one_warning_and_never_the_job(home, monkeypatch, caplog):
    monkeypatch.setenv("OPENLINEAGE_URL", "http://someone:secret@127.0.0.1:9")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__RETRY", '{"total": 0}')
    with caplog.at_level(logging.WARNING, "jobs"):
        for _ in range(2):
            with job_run(home, "job"):
                write(home)
    assert home.store.last_commit("users").version == 2
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "jobs.lineage_events"]
    assert "the job goes on" in warning
    assert "secret" not in caplog.text


def test_the_address_alone_is_enough(home, monkeypatch):
    got = []

    class Backend(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))["eventType"]))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    with job_run(home, "job"):
        pass
    server.shutdown()
    server.server_close()
    assert got == [("/api/v1/lineage", "START"), ("/api/v1/lineage", "COMPLETE")]


@pytest.mark.slow
def test_commands_and_nights_are_told(market, first, tmp_path, spark, told):
    home = copy_home(market, tmp_path / "copied", spark)
    nightly.run(home)
    (home.root / "audits" / f"{first}.json").unlink()
    from jobs.plan import load_plan

    run("audit", home, load_plan(home, first))
    events = told()
    assert [(e["job"]["name"], e["eventType"]) for e in events] == [
        ("nightly", "START"), ("nightly", "COMPLETE"), ("audit", "START"), ("audit", "COMPLETE"),
    ]  # fmt: skip
    assert {"item_sids", "query_sids", "sid_coverage", "ranker_metrics"} <= set(datasets(events[-1], "inputs"))
