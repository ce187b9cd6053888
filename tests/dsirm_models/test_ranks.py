"""Training in several processes: the same quantizer as in one."""

import os
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from dsirm_models import ranks
from dsirm_models.assign import assign_codes
from dsirm_models.quantizer_model import TrainedQuantizer
from dsirm_models.train_quantizer import train_quantizer
from tests.dsirm_models.quantizer_world import tiny_config, tiny_world

WORLD = tiny_world()


def _config():
    # Restarts early and often: the codes that come back must be the same in all processes.
    return tiny_config(max_steps=60, restart_after=8)


def _process(rank, port, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    trained = train_quantizer(data=WORLD, config=_config(), checkpoint_dir=folder / "checkpoints", device="cpu")
    trained.save(folder / f"rank-{rank}")
    ranks.leave()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (port, folder), nprocs=2)
    return [TrainedQuantizer.load(folder / f"rank-{rank}") for rank in (0, 1)]


def test_two_processes_give_the_codebook_of_one(two, tmp_path):
    one = train_quantizer(data=WORLD, config=_config(), checkpoint_dir=tmp_path, device="cpu")
    for trained in two:
        assert trained.report["best_step"] == one.report["best_step"]
        for book, other in zip(one.codebooks, trained.codebooks, strict=True):
            np.testing.assert_allclose(other, book, rtol=1e-3, atol=1e-4)
        codes = [assign_codes(model, WORLD.item_embeddings, WORLD.item_level1).codes for model in (one, trained)]
        assert (codes[0] == codes[1]).all(axis=1).mean() > 0.99
    for name, tensor in two[0].model.state_dict().items():
        assert torch.equal(tensor, two[1].model.state_dict()[name]), name


def test_alone_nothing_is_gathered_or_summed():
    rows = torch.arange(6.0)
    assert ranks.gather(rows) is rows
    ranks.sum_in_place([rows])
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert (ranks.count(), ranks.number()) == (1, 0)
