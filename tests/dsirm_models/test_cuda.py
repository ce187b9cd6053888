"""On a GPU what is learned and found there is what a CPU would have; without one, skipped."""

import itertools

import numpy as np
import pytest
import torch

from dsirm_models.assign import assign_codes
from dsirm_models.beam import beam_search, score_sids
from dsirm_models.causal_lm_loading import load_causal_lm
from dsirm_models.eg_grpo_data import ACTED, EXPOSED, AlignConfig, RewardData
from dsirm_models.embedded_generator import EmbeddedGenerator
from dsirm_models.encoder import load_encoder
from dsirm_models.quantizer_data import Resident, batch_order
from dsirm_models.quantizer_loss import captured_loss, training_loss
from dsirm_models.quantizer_model import TrainedQuantizer
from dsirm_models.sid_index import SidIndex
from dsirm_models.train_eg_grpo import train_eg_grpo
from dsirm_models.train_quantizer import train_quantizer
from tests.dsirm_models import test_causal_lm_generator as lm
from tests.dsirm_models import test_embedded_generator as embedded
from tests.dsirm_models.quantizer_world import tiny_config, tiny_world, untrained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
WORLD = tiny_world()


def test_a_captured_step_learns_what_a_plain_one_on_a_cpu_does():
    config = tiny_config(restart_after=2)
    plain, captured = (untrained(config).model.requires_grad_().train() for _ in range(2))
    captured.to("cuda")
    at = {device: Resident(WORLD, config, torch.device(device)) for device in ("cpu", "cuda")}
    loss = captured_loss(captured, config)
    for step, rows in itertools.islice(batch_order(WORLD, config, start=0), 4):
        for model, parts in (
            (plain, training_loss(plain, at["cpu"].batch(rows), config)),
            (captured, loss(at["cuda"].batch(rows))),
        ):
            parts.total.backward()
            torch.optim.SGD(model.parameters(), lr=0.01).step()
            model.zero_grad()
        ours, theirs = captured.state_dict(), plain.state_dict()
        assert all(torch.allclose(ours[name].cpu(), theirs[name], atol=1e-4) for name in theirs), step


def test_training_brings_held_out_pairs_together(tmp_path):
    model = train_quantizer(data=WORLD, config=tiny_config(max_steps=300), checkpoint_dir=tmp_path)
    start, best = model.report["start"], model.report["best"]
    assert best["info_nce"] < start["info_nce"] - 0.3
    assert best["agree_2"] > start["agree_2"] + 0.1


def test_codes_are_those_of_a_cpu():
    made = untrained(tiny_config())
    here = assign_codes(made, WORLD.item_embeddings)
    moved = TrainedQuantizer(model=made.model.to("cuda"), config=made.config)
    there = assign_codes(moved, WORLD.item_embeddings)
    np.testing.assert_array_equal(there.codes, here.codes)
    np.testing.assert_allclose(there.residual_norm, here.residual_norm, rtol=1e-6)


def test_beams_are_those_of_a_cpu():
    sizes, rng = (8, 16, 16), np.random.default_rng(1)
    codes = [rng.integers(size, size=400) for size in sizes]
    index = SidIndex(codes[0] << 40 | codes[1] << 20 | codes[2])
    torch.manual_seed(1)
    generator = EmbeddedGenerator(embedding_dim=24, codebook_sizes=sizes, hidden=32).eval()
    queries = rng.standard_normal((50, 24), dtype=np.float32)
    here = beam_search(generator, index, queries, 10)
    there = beam_search(generator.to("cuda"), index, queries, 10)
    tied = np.isclose(here.logps.sum(axis=2), there.logps.sum(axis=2), atol=1e-4)
    assert tied.all() and (here.sids == there.sids).mean() > 0.98


def test_vectors_of_texts_are_those_of_a_cpu():
    texts = ["usb c cable 2m", "", "notebook " * 200, "laptop"] * 3
    here, there = (load_encoder(device=device).encode(texts) for device in ("cpu", "cuda"))
    assert np.abs(here - there).max() < 1e-5
    half = load_encoder(precision="bf16", device="cuda").encode(texts)
    assert ((half * here).sum(axis=1) >= 0.999).all()


def test_alignment_puts_what_shoppers_acted_on_first(tmp_path):
    """Of each topic the second SID, which was clicked a third as often before."""
    data = embedded.toy(queries=60)
    index, half = SidIndex(data.sids), len(data.sids) // 2
    supervised = embedded.train(data, index=index, device="cuda").generator
    supervised.save(tmp_path)
    table = RewardData(data.query_embeddings, data.query_index, data.sids, np.repeat([EXPOSED, ACTED], half))
    config = AlignConfig(steps=40, requests_per_step=16, learning_rate=3e-3, kl=0.1, accumulation=2)
    aligned = train_eg_grpo(table, start=tmp_path, index=index, config=config, device="cuda").generator

    def acted(generator):
        return (beam_search(generator, index, data.query_embeddings, 1).sids[:, 0] == data.sids[half:]).mean()

    assert acted(aligned) > acted(supervised) + 0.4


def test_lora_stages_go_on_from_each_other_and_serve_anywhere(tmp_path):
    base, data = lm.write_base(tmp_path / "base"), lm.toy()
    index = SidIndex(data.sids)
    how = {"index": index, "finetuning": "lora", "device": "cuda", "learning_rate": 2e-2}
    lm.train(base, data, steps=60, **how).generator.save(tmp_path / "first")
    lm.train(base, data, steps=8, warm_start=tmp_path / "first", **how).generator.save(tmp_path / "second")
    table = RewardData(data.texts, np.arange(15), np.roll(data.sids, 5), np.full(15, ACTED))
    config = AlignConfig(steps=12, requests_per_step=8, learning_rate=5e-3)
    parts = {"start": tmp_path / "second", "index": index, "config": config, "base": base}
    aligned = train_eg_grpo(table, device="cuda", **parts).generator
    aligned.save(tmp_path / "third")
    second, here, there = (
        load_causal_lm(tmp_path / name, base=base, device=device, dtype=torch.float32)
        for name, device in (("second", "cpu"), ("third", "cpu"), ("third", "cuda"))
    )
    scores = [score_sids(generator, index, data.texts, table.sids).sum(axis=1) for generator in (second, here, there)]
    assert scores[1].mean() > scores[0].mean() + 0.5, "alignment made what was acted on no likelier"
    np.testing.assert_allclose(scores[1], scores[2], atol=1e-3)
