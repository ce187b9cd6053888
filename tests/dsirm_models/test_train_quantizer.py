from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsirm_models.artifacts import TENSORS, ArtifactError, seal
from dsirm_models.assign import assign_codes
from dsirm_models.losses import LossWeights
from dsirm_models.quantizer_data import Resident, WeightedDraws, batch_order, check_data, with_lone_items
from dsirm_models.quantizer_loss import captured_loss, training_loss
from dsirm_models.quantizer_model import QuantizerModel, TrainedQuantizer
from dsirm_models.train_quantizer import QuantizerConfig, fit_residual_kmeans, train_quantizer
from tests.dsirm_models.quantizer_world import CATEGORIES, WIDTH, tiny_config, tiny_world, untrained

WORLD = tiny_world()


class KilledError(Exception):
    pass


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(directory, config=None, data=WORLD, **more) -> TrainedQuantizer:
    return train_quantizer(data=data, config=config or tiny_config(), checkpoint_dir=directory, device="cpu", **more)


def equal(left: TrainedQuantizer, right: TrainedQuantizer) -> bool:
    one, other = left.model.state_dict(), right.model.state_dict()
    return left.report == right.report and all(torch.equal(one[name], other[name]) for name in one)


def test_training_brings_held_out_pairs_together(tmp_path):
    model = train(tmp_path, tiny_config(max_steps=300))
    start, best = model.report["start"], model.report["best"]
    assert best["info_nce"] < start["info_nce"] - 0.3
    assert best["agree_2"] > start["agree_2"] + 0.1
    assert best["utilisation_2"] > 0.8 and best["utilisation_3"] > 0.8


@pytest.mark.parametrize("kill_at", [17, 60, 119])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, kill_at):
    def kill(step: int) -> None:
        if step == kill_at:
            raise KilledError

    whole = train(tmp_path / "whole")
    with pytest.raises(KilledError):
        train(tmp_path / "cut", on_step=kill)
    steps: list[int] = []
    assert equal(whole, train(tmp_path / "cut", on_step=steps.append))
    assert steps[0] == kill_at // 30 * 30 + 1
    steps.clear()
    assert equal(whole, train(tmp_path / "cut", on_step=steps.append))
    assert not steps, "a finished run is returned, not run again"


def test_half_written_checkpoint_is_passed_over(tmp_path):
    whole = train(tmp_path / "a")
    newest = max((tmp_path / "a").glob("step-*"))
    (newest / "manifest.json").unlink()
    assert equal(whole, train(tmp_path / "a"))


def test_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path):
    train(tmp_path, tiny_config(seed=1, max_steps=30))
    steps: list[int] = []
    other = train(tmp_path, tiny_config(seed=2, max_steps=30), on_step=steps.append)
    assert steps[0] == 1
    assert equal(other, train(tmp_path / "fresh", tiny_config(seed=2, max_steps=30)))


def test_chosen_checkpoint_has_the_lowest_held_out_score(tmp_path):
    # Far too high a rate: the run gets worse as it goes, and the best state is not the last.
    model = train(tmp_path, tiny_config(learning_rate=3.0, eval_every=10))
    assert model.report["best_step"] < 120
    assert model.report["best"]["choice"] <= model.report["start"]["choice"]


def test_without_held_out_pairs_the_last_state_is_taken(tmp_path):
    data = WORLD._replace(train=np.ones_like(WORLD.train))
    model = train(tmp_path, tiny_config(max_steps=50), data)
    assert model.report == {"best_step": 50, "start": {}, "best": {}}


@pytest.mark.parametrize("query_level1", ["pair", "nearest"])
def test_a_captured_step_learns_what_a_plain_one_does(query_level1):
    config = tiny_config(query_level1=query_level1, restart_after=2)
    resident = Resident(WORLD, config, torch.device("cpu"))
    plain, captured = (untrained(config).model.requires_grad_().train() for _ in range(2))
    # The graph of a GPU's step, without the CUDA graphs that only a GPU has.
    loss = captured_loss(captured, config, backend="aot_eager")
    for step, rows in itertools.islice(batch_order(WORLD, config, start=0), 4):
        for model, parts in (
            (plain, training_loss(plain, resident.batch(rows), config)),
            (captured, loss(resident.batch(rows))),
        ):
            parts.total.backward()
            torch.optim.SGD(model.parameters(), lr=0.01).step()
            model.zero_grad()
        ours, theirs = captured.state_dict(), plain.state_dict()
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs), step


@pytest.mark.parametrize("query_level1", ["pair", "nearest"])
def test_gradients_reach_both_towers_and_the_decoder(query_level1):
    config = tiny_config(query_level1=query_level1)
    model = untrained(config).model.train().requires_grad_(True)
    batch = Resident(WORLD, config, torch.device("cpu")).batch(np.arange(64))
    parts = training_loss(model, batch, config)
    parts.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert parts.codes.shape == (128, 3)
    if query_level1 == "pair":
        assert torch.equal(parts.codes[:64, 0][batch.level1 >= 0], parts.codes[64:, 0][batch.level1 >= 0])


def test_contrast_alone_reaches_both_towers_through_the_quantizer():
    for contrast_on in ("quantized", "encoder"):
        config = tiny_config(contrast_on=contrast_on)
        model = untrained(config).model.requires_grad_(True)
        parts = training_loss(model, Resident(WORLD, config, torch.device("cpu")).batch(np.arange(64)), config)
        parts.contrastive.backward()
        assert model.query_tower.inner.weight.grad.abs().sum() > 0
        assert model.item_tower.inner.weight.grad.abs().sum() > 0


def test_category_owns_its_code_after_training(tmp_path):
    codes = assign_codes(train(tmp_path), WORLD.item_embeddings, WORLD.item_level1).codes[:, 0]
    known = WORLD.item_level1 >= 0
    assert np.array_equal(codes[known], WORLD.item_level1[known])
    assert (codes[~known] >= CATEGORIES).all()


def test_items_without_a_query_train_everything_but_the_contrast(tmp_path):
    orphans = WORLD.query_index.copy()
    orphans[::3] = -1
    data = WORLD._replace(query_index=orphans)
    model = train(tmp_path, tiny_config(max_steps=40), data)
    assert model.report["best"]["info_nce"] > 0
    config = tiny_config()
    batch = Resident(data, config, torch.device("cpu")).batch(np.arange(9))
    parts = training_loss(untrained(config).model, batch, config)
    assert parts.codes.shape == (9 + 6, 3)


def test_items_alone_as_tiger(tmp_path):
    config = tiny_config(
        max_steps=60, use_queries=False, category_level1=False, weights=LossWeights(contrastive=0.0, reconstruction=1.0)
    )
    data = WORLD._replace(query_index=np.full_like(WORLD.query_index, -1), query_embeddings=WORLD.query_embeddings[:0])
    model = train(tmp_path, config, data)
    assert model.report["best"]["choice"] == model.report["best"]["reconstruction"]
    assert model.report["best"]["reconstruction"] < model.report["start"]["reconstruction"]
    assert torch.equal(model.model.query_tower.inner.weight, model.model.item_tower.inner.weight)


def test_warm_start_goes_on_from_the_old_codebook(tmp_path):
    old = train(tmp_path / "old", tiny_config(max_steps=200))
    before = {name: tensor.clone() for name, tensor in old.model.state_dict().items()}
    new = train(tmp_path / "new", tiny_config(max_steps=20, learning_rate=1e-4), warm_start=old)
    assert new.report["start"] == old.report["best"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in old.model.state_dict().items())
    with pytest.raises(ValueError, match=r"dim 8 -> 4; codebook_sizes"):
        train(tmp_path / "x", tiny_config(dim=4, codebook_sizes=(9, 16, 16)), warm_start=old)


def test_order_of_data_is_a_function_of_seed_and_step():
    for policy in ("loss", "sample"):
        config = tiny_config(pair_weights=policy, max_steps=100)
        whole = [rows.tolist() for _, rows in batch_order(WORLD, config, start=0)]
        assert [rows.tolist() for _, rows in batch_order(WORLD, config, start=63)] == whole[63:]
        assert WORLD.train[np.concatenate(whole)].all()
    epoch = [rows for _, rows in batch_order(WORLD, tiny_config(), start=0)][: WORLD.train.sum() // 64]
    assert len(np.unique(np.concatenate(epoch))) == len(epoch) * 64


def test_weighted_draws_follow_the_weights():
    weight = np.where(np.arange(len(WORLD.weight)) % 2 == 0, 3.0, 1.0).astype(np.float32)
    config = tiny_config(pair_weights="sample", max_steps=400)
    drawn = np.concatenate([rows for _, rows in batch_order(WORLD._replace(weight=weight), config, start=0)])
    assert 0.72 < (drawn % 2 == 0).mean() < 0.78


@given(
    weight=st.lists(st.floats(2**-20, 2**20, width=32), min_size=1, max_size=60),
    shares=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
    data=st.data(),
)
def test_a_draw_is_where_the_summed_weights_of_the_training_pairs_pass_its_share(weight, shares, data):
    train = np.array(data.draw(st.lists(st.booleans(), min_size=len(weight), max_size=len(weight)).filter(any)))
    edges = np.cumsum(np.array(weight, dtype=np.float32)[train], dtype=np.float64)
    place = np.searchsorted(edges, np.array(shares) * edges[-1], side="right")
    expected = np.flatnonzero(train)[np.minimum(place, len(edges) - 1)]
    found = WeightedDraws(np.array(weight, dtype=np.float32), train).at(np.array(shares))
    assert found.tolist() == expected.tolist()


def test_tensorboard_gets_losses_and_use_of_the_codes(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "run", tiny_config(max_steps=40), log_dir=tmp_path / "log")
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss/contrastive", "loss/commitment", "loss/reconstruction", "held_out/info_nce"} <= tags
    assert {"level_1/utilisation", "level_3/perplexity", "batch/collision_rate", "held_out/agree_2"} <= tags
    assert [event.step for event in events.Scalars("loss/total")] == [20, 40]


def test_artifact_round_trip_and_damage(tmp_path):
    model = TrainedQuantizer(model=untrained(tiny_config()).model, config=tiny_config(), meta={"encoder_version": "e1"})
    model.save(tmp_path / "a")
    again = TrainedQuantizer.load(tmp_path / "a")
    assert equal(model, again) and again.config == model.config and again.meta == model.meta
    model.codebooks[1][3, 2] = torch.nan
    model.save(tmp_path / "nan")
    with pytest.raises(ArtifactError, match="codebook_1"):
        TrainedQuantizer.load(tmp_path / "nan")
    other = {"settings": tiny_config(dim=9).to_dict(), "in_dim": WIDTH, "meta": {}, "report": {}}
    seal(tmp_path / "a", kind="quantizer", config=other)
    with pytest.raises(ArtifactError, match="do not fit"):
        TrainedQuantizer.load(tmp_path / "a")
    (tmp_path / "a" / TENSORS).write_bytes(b"")
    with pytest.raises(ArtifactError, match="damaged"):
        TrainedQuantizer.load(tmp_path / "a")


def test_impossible_settings_are_all_named():
    with pytest.raises(ValueError) as error:
        QuantizerConfig(
            dim=0, codebook_sizes=(4, 4, 4), mapped_categories=5, temperature=0.0, query_level1="own", ema_decay=1.0
        )
    for name in (
        "dim is 0",
        "mapped_categories is 5",
        "temperature is 0.0",
        "query_level1 is 'own'",
        "ema_decay is 1.0",
    ):
        assert name in str(error.value)
    with pytest.raises(ValueError, match="needs queries"):
        QuantizerConfig(use_queries=False)
    with pytest.raises(ValueError, match="Unknown quantizer settings: width"):
        QuantizerConfig.from_dict({"width": 3})
    config = tiny_config(weights=LossWeights(contrastive=0.5))
    assert QuantizerConfig.from_dict(config.to_dict()) == config


def test_data_that_cannot_be_trained_on_is_refused_with_every_reason():
    item = WORLD.item_embeddings.copy()
    item[4, 2] = np.nan
    bad = WORLD._replace(
        item_embeddings=item,
        query_embeddings=WORLD.query_embeddings[:, :-1],
        item_index=WORLD.item_index + 10_000,
        weight=WORLD.weight * 0,
        train=np.zeros_like(WORLD.train),
    )
    with pytest.raises(ValueError) as error:
        check_data(bad, tiny_config())
    for part in ("first row 4", "differ in width", "item_index runs", "weight must", "no pair is marked"):
        assert part in str(error.value)


def test_residual_kmeans_baseline_is_an_exact_identity(tmp_path):
    model = fit_residual_kmeans(WORLD.item_embeddings, codebook_sizes=(8, 16, 16))
    got = assign_codes(model, WORLD.item_embeddings)
    decoded = model.model.quantizer.decode(torch.from_numpy(got.codes).long()).numpy()
    distance = np.linalg.norm(WORLD.item_embeddings - decoded, axis=1)
    np.testing.assert_allclose(got.residual_norm, distance, rtol=1e-5)
    model.save(tmp_path / "baseline")
    again = assign_codes(TrainedQuantizer.load(tmp_path / "baseline"), WORLD.item_embeddings)
    assert np.array_equal(again.sid, got.sid)


def test_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    import dsirm_models.quantizer_loss as module

    def broken(model: QuantizerModel, batch, config):
        parts = training_loss(model, batch, config)
        return parts._replace(total=parts.total * torch.nan)

    monkeypatch.setattr(module, "training_loss", broken)
    with pytest.raises(FloatingPointError, match="step 20"):
        train(tmp_path)


def cq_sid(**changes):
    """CQ-SID's objective (arXiv 2605.14434) at toy sizes."""
    weights = LossWeights(contrastive=0.001, commitment=1.0, reconstruction=1.0)
    settings = {"contrast_on": "encoder", "temperature": 0.1, "reserve_level1": False, "weights": weights}
    return tiny_config(**(settings | changes))


def test_cq_sid_is_chosen_by_what_its_objective_weighs_and_not_untrained(tmp_path):
    report = train(tmp_path, cq_sid(max_steps=60)).report
    assert report["best"]["choice"] == report["best"]["reconstruction"] < report["start"]["reconstruction"]
    assert report["best_step"] > 0
    assert report["best"]["info_nce"] > 0


def test_cq_sid_contrasts_the_towers_output_by_cosine_and_leaves_lone_items_out():
    orphans = WORLD.query_index.copy()
    orphans[:64:4] = -1
    config = cq_sid()
    batch = Resident(WORLD._replace(query_index=orphans), config, torch.device("cpu")).batch(np.arange(64))
    model = untrained(config).model.train()
    parts = training_loss(model, batch, config)
    paired = batch.has_query
    query, item = model.query_tower(batch.query[paired]), model.item_tower(batch.item[paired])
    logits = torch.nn.functional.normalize(query) @ torch.nn.functional.normalize(item).T / 0.1
    ids = torch.stack([batch.query_id[paired], batch.item_id[paired]])
    same = (ids[:, :, None] == ids[:, None, :]).any(dim=0).fill_diagonal_(False)
    logits = logits.masked_fill(same, -torch.inf)
    # Weighted anchors, both directions, by hand.
    both = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()) / 2
    weight = batch.weight[paired]
    assert parts.contrastive.item() == pytest.approx(((both * weight).sum() / weight.sum()).item(), rel=1e-5)
    whole = parts.reconstruction + parts.commitment + 0.001 * parts.contrastive
    assert parts.total.item() == pytest.approx(whole.item(), rel=1e-6)


def test_cq_sid_gives_an_unknown_category_the_nearest_of_all_codes(tmp_path):
    model = train(tmp_path, cq_sid(max_steps=60))
    codes = assign_codes(model, WORLD.item_embeddings, WORLD.item_level1).codes[:, 0]
    known = WORLD.item_level1 >= 0
    assert np.array_equal(codes[known], WORLD.item_level1[known])
    free = assign_codes(model, WORLD.item_embeddings).codes[:, 0]
    assert np.array_equal(codes[~known], free[~known])
    assert (codes[~known] < CATEGORIES).any(), "the codes of categories are among the nearest"


def test_every_item_without_a_pair_joins_as_a_row_without_a_query():
    few = WORLD._replace(
        **{name: getattr(WORLD, name)[:50] for name in ("query_index", "item_index", "weight", "train")}
    )
    data = with_lone_items(few)
    assert np.array_equal(np.unique(data.item_index), np.arange(len(WORLD.item_embeddings)))
    lone = data.query_index < 0
    assert np.array_equal(lone, np.arange(len(lone)) >= 50)
    assert data.train[lone].all()
    assert np.unique(data.weight[lone]) == [np.median(few.weight[few.train])]
    assert with_lone_items(data).item_index.shape == data.item_index.shape
    check_data(data, cq_sid())
