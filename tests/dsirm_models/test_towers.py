from __future__ import annotations

import torch

from dsirm_models.quantizer_model import QuantizerModel
from dsirm_models.towers import Decoder, ProjectionEncoder
from tests.dsirm_models.quantizer_world import WIDTH, tiny_config


def test_latents_have_unit_length_and_a_zero_stays_finite():
    tower = ProjectionEncoder(in_dim=6, hidden=10, dim=4)
    torch.testing.assert_close(tower(torch.randn(9, 6)).norm(dim=1), torch.ones(9))
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.zero_()
    assert torch.equal(tower(torch.randn(2, 6)), torch.zeros(2, 4))
    assert Decoder(dim=4, hidden=10, out_dim=6)(torch.randn(3, 4)).shape == (3, 6)


def test_start_depends_on_the_seed_alone_and_both_towers_start_alike():
    torch.manual_seed(1)
    one = QuantizerModel(in_dim=WIDTH, config=tiny_config(seed=5))
    torch.manual_seed(2)
    two = QuantizerModel(in_dim=WIDTH, config=tiny_config(seed=5))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
    assert torch.equal(one.query_tower.inner.weight, one.item_tower.inner.weight)
    assert one.query_tower.inner.weight is not one.item_tower.inner.weight
    other = QuantizerModel(in_dim=WIDTH, config=tiny_config(seed=6))
    assert not torch.equal(one.item_tower.inner.weight, other.item_tower.inner.weight)
