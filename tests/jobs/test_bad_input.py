"""Models and vectors that do not fit: each job says what is wrong, and what is published goes on serving unchanged."""

import contextlib
import dataclasses
import json
import math
import shutil

import pyarrow as pa
import pytest

from dsirm_models.artifacts import TENSORS, ArtifactError, sha256_of
from jobs import assign_item_sids, finetune_generator, generate_query_sids, releases, score_pairs, train_quantizer
from jobs.errors import DataError
from jobs.explain import explain
from jobs.plan import load_plan, make_plan
from schemas.contract import ContractError
from tests.marketplace import copy_home, versions
from tests.test_cli import dsirm

pytestmark = pytest.mark.slow

OTHER = "2026-01-31-00000000"


@pytest.fixture
def home(market, tmp_path, spark):
    """A home of its own after a first night."""
    return copy_home(market, tmp_path / "home", spark)


def tomorrow(home, **changed):
    """The plan of another release over the same tables."""
    return dataclasses.replace(make_plan(home), release=OTHER, **changed)


@contextlib.contextmanager
def refused(home, error, says):
    """Inside, a job fails with these words; no table has changed, and the release before goes on serving."""
    serving, before = releases.current(home.store)["release"], versions(home)
    with pytest.raises(error, match=says):
        yield
    assert versions(home) == before
    assert releases.current(home.store)["release"] == serving


def spoil(home, table, change, count=1):
    """Change the first vectors of an embeddings table."""
    read = home.store.read_arrow(table)
    vectors = read["embedding"].to_pylist()
    vectors[:count] = [change(vector) for vector in vectors[:count]]
    spoiled = read.set_column(read.schema.get_field_index("embedding"), "embedding", pa.array(vectors))
    parts = {key: read[key][0].as_py() for key in ("encoder_version", "first_seen")}
    home.store.target(table, parts).replace(spoiled, job="test")


def shorter(vector):
    return vector[:-1]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_half_written_and_damaged_models_are_refused_and_trained_again_once_deleted(home, first):
    plan, night = tomorrow(home), load_plan(home, first)
    quantizer = home.artifact("quantizer", plan.codebook_version)
    generator = home.artifact("generator", plan.generator_version)
    sums = [sha256_of(directory / TENSORS) for directory in (quantizer, generator)]

    (quantizer / "manifest.json").unlink()
    with refused(home, ArtifactError, "half-written"):
        assign_item_sids.run(home, plan)
    cut(generator / TENSORS)
    with refused(home, ArtifactError, "damaged: model.safetensors"):
        explain(home, "nobody ever typed this")

    shutil.rmtree(generator)
    train_quantizer.run(home, night)
    finetune_generator.run(home, night)
    assert [sha256_of(directory / TENSORS) for directory in (quantizer, generator)] == sums


def test_a_refit_goes_on_from_what_is_left_of_the_models_before(home):
    plan = make_plan(home)
    shutil.rmtree(home.artifact("generator", plan.generator_version))
    kept = make_plan(home, refit=True)
    assert (kept.parent_codebook, kept.parent_generator) == (plan.codebook_version, None)
    shutil.rmtree(home.artifact("quantizer", plan.codebook_version))
    scratch = make_plan(home, refit=True)
    assert (scratch.parent_codebook, scratch.parent_generator) == (None, None)


def test_a_refit_cut_short_does_not_go_on_from_a_release_that_was_rolled_back_since(home, first):
    serving = releases.current(home.store)
    bad = {**serving, "release": "2026-02-01-00000000", "inputs": list(dict(serving["inputs"]).items())}
    releases.publish(home.store, bad, seen=serving["sequence"])
    assert make_plan(home, refit=True).parent == bad["release"]
    assert make_plan(home, refit=True).parent == bad["release"]
    releases.roll_back(home.store, first)
    assert make_plan(home, refit=True).parent == first


def test_models_of_different_versions_are_refused(home):
    with refused(home, DataError, r"quantizer-[0-9a-f]{12} learned from .*, not minilm-of-yore"):
        assign_item_sids.run(home, tomorrow(home, encoder_version="minilm-of-yore"))
    assign_item_sids.run(home, tomorrow(home))
    with refused(home, DataError, "learned the SIDs of quantizer-[0-9a-f]{12}; the release uses quantizer-0{12}"):
        score_pairs.run(home, tomorrow(home, codebook_version="quantizer-000000000000"))


def test_an_item_vector_of_another_width_ends_the_command_as_an_error_of_data(home):
    spoil(home, "item_embeddings", shorter)
    home.plan_file(OTHER).write_text(json.dumps(dataclasses.asdict(tomorrow(home))))
    before = versions(home)
    done = dsirm("assign-item-sids", "--home", str(home.root), "--release", OTHER)
    assert done.returncode == 65, done.stderr
    assert "Error: item_embeddings holds vectors of width 383 instead of 384" in done.stderr
    assert versions(home) == before


def test_query_vectors_that_are_no_numbers_or_of_another_width_stop_the_generation(home, tmp_path, spark):
    assign_item_sids.run(home, tomorrow(home))
    narrow = copy_home(home, tmp_path / "narrow", spark)
    spoil(home, "query_embeddings", lambda vector: [math.inf, *vector[1:]])
    with refused(home, ContractError, "query_embeddings holds NaN or vectors of different widths"):
        generate_query_sids.run(home, tomorrow(home))
    spoil(narrow, "query_embeddings", shorter, count=None)
    with refused(narrow, DataError, "width 383, but generator-[0-9a-f]{12} learned from vectors of width 384"):
        generate_query_sids.run(narrow, tomorrow(narrow))
    with refused(narrow, DataError, "vectors of widths 384 and 383"):
        train_quantizer.run(narrow, tomorrow(narrow, fit=True, codebook_version="quantizer-000000000000"))
