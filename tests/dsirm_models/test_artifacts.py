"""What is left of an artifact when a disk fills up, a copy breaks off, or a file is changed by hand: always refused."""

import pytest
import torch

from dsirm_models.artifacts import MANIFEST, TENSORS, ArtifactError, read_artifact, write_artifact
from dsirm_models.embedded_generator import EmbeddedGenerator
from dsirm_models.generators import load_generator
from dsirm_models.quantizer_model import TrainedQuantizer
from dsirm_models.ranker import TrainedRanker

LOADERS = {
    "quantizer": TrainedQuantizer.load,
    "generator": load_generator,
    "ranker": TrainedRanker.load,
}


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "version"


def write(directory, kind="quantizer"):
    write_artifact(directory, kind=kind, tensors={"w": torch.arange(100.0)}, config={"backend": "embedded"})


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda directory: (directory / MANIFEST).unlink(), "half-written: it has no manifest"),
        (lambda directory: cut(directory / MANIFEST), "manifest .* cannot be read"),
        (lambda directory: cut(directory / TENSORS), "damaged: model.safetensors"),
        (lambda directory: (directory / TENSORS).unlink(), "damaged: model.safetensors"),
        (lambda directory: directory.rename(directory.with_name("elsewhere")), "does not exist"),
        (lambda directory: write(directory, "other"), "holds a 'other' artifact"),
    ],
    ids=["no manifest", "manifest cut", "tensors cut", "no tensors", "no directory", "another kind"],
)
def test_no_model_is_loaded_from_a_damaged_artifact(directory, kind, damage, says):
    write(directory, kind)
    damage(directory)
    with pytest.raises(ArtifactError, match=says):
        LOADERS[kind](directory)


def test_a_run_that_died_while_writing_leaves_the_artifact_before(directory, monkeypatch):
    write(directory)
    monkeypatch.setattr("dsirm_models.artifacts.seal", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_artifact(directory, kind="quantizer", tensors={"w": torch.zeros(3)}, config={})
    monkeypatch.undo()
    assert len(read_artifact(directory, kind="quantizer").tensors["w"]) == 100
    write(directory)
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_a_generator_refuses_queries_of_another_encoder():
    generator = EmbeddedGenerator(embedding_dim=8, codebook_sizes=(4, 4, 4), hidden=8)
    with pytest.raises(ValueError, match=r"vectors \(B, 8\), not \(2, 5\)"):
        generator.start(torch.zeros(2, 5))
