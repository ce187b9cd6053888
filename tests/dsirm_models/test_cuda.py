"""On a GPU what is learned and found there is what a CPU would have; without one, skipped."""

import itertools

import numpy as np
import pytest
import torch

from dsirm_models.assign import assign_codes
from dsirm_models.beam import beam_search
from dsirm_models.embedded_generator import EmbeddedGenerator
from dsirm_models.quantizer_data import Resident, batch_order
from dsirm_models.quantizer_loss import captured_loss, training_loss
from dsirm_models.quantizer_model import TrainedQuantizer
from dsirm_models.sid_index import SidIndex
from dsirm_models.train_quantizer import train_quantizer
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
