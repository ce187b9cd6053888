"""The house keeps its shape: who imports whom, who reads judgments, what is never used."""

import ast
import re
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("schemas", "dsirm_models", "pipelines", "jobs", "dags")
ALLOWED = {
    "schemas": {"schemas"},
    "dsirm_models": {"dsirm_models", "schemas"},
    "pipelines": {"pipelines", "schemas"},
    "jobs": {"jobs", "pipelines", "dsirm_models", "schemas"},
    "dags": set(),
}
FORBIDDEN = {
    "dsirm_models": {"pyspark", "airflow", "pandas", "deltalake"},
    "pipelines": {"torch", "airflow", "deltalake", "transformers"},
    "dags": {"pyspark", "torch", "great_expectations"},
}


def modules(room):
    return sorted((ROOT / room).glob("*.py"))


def imported(path):
    """Top-level packages that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def calls(path):
    """Names that a module calls, as written: `read_arrow`, `write_deltalake`, ..."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {
        f.attr if isinstance(f, ast.Attribute) else f.id for f in functions if isinstance(f, ast.Attribute | ast.Name)
    }


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_the_design_allows(room):
    assert modules(room), f"{room} is empty"
    wrong = {
        path.name: sorted((imported(path) & set(ROOMS)) - ALLOWED[room] | imported(path) & FORBIDDEN.get(room, set()))
        for path in modules(room)
    }
    assert {name: packages for name, packages in wrong.items() if packages} == {}


def test_only_the_storage_module_touches_a_reader_or_writer():
    verbs = {"write_deltalake", "DeltaTable", "saveAsTable", "to_pyarrow_dataset"}
    users = {path.name for room in ROOMS for path in modules(room) if calls(path) & verbs}
    assert users == {"storage.py"}


def test_no_pickle_no_eval_no_remote_code():
    # `model.eval()` is torch's evaluation mode, not Python's eval.
    banned = re.compile(
        r"\bimport pickle\b|\btorch\.(?:save|load)\(|(?<!\.)\b(?:eval|exec)\("
        r"|trust_remote_code\s*=\s*True|allow_pickle=True"
    )
    found = {path.name: banned.findall(path.read_text(encoding="utf-8")) for room in ROOMS for path in modules(room)}
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_transforms_know_no_clock_and_no_unseeded_draw():
    banned = {"rand", "randn", "now", "current_timestamp", "current_date", "monotonically_increasing_id", "uuid"}
    found = {path.name: calls(path) & banned for path in modules("pipelines")}
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_only_these_jobs_name_the_judgments_and_only_these_their_grades():
    texts = {path.stem: path.read_text(encoding="utf-8") for path in modules("jobs")}
    naming = {name for name, text in texts.items() if '"relevance_labels"' in text}
    assert naming == {
        "import_source",
        "simulate",
        "study_worlds",  # adds true grades of a world's held-out queries, and reads none
        "embed_queries",
        "generate_query_sids",
        "score_pairs",
        "match_prefixes",
        "judged",  # what train_ranker and evaluate share
        "plan",  # fingerprints alone
    }
    assert {name for name in naming if '"grade"' in texts[name]} == {"judged"}
    readers = {name for name, text in texts.items() if "jobs.judged" in text}
    assert readers == {"train_ranker", "evaluate", "study_data"}  # the last: `evaluate --study`


def test_pyspark_and_its_client_are_one_version():
    # Both install into the same folder; at unequal versions the last writer would win.
    assert version("pyspark") == version("pyspark-client")


def test_both_locks_pin_every_package_by_hash():
    for name in ("cpu", "gpu"):
        text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
        pins = re.findall(r"^(\S+)==\S+ \\$", text, flags=re.MULTILINE)
        assert len(pins) > 100
        assert text.count("--hash=sha256:") >= len(pins)
        assert "http" not in re.sub(r"(?m)^(async-?)?\S*http\S*==.*$", "", text)
