from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dsirm_models.artifacts import ArtifactError
from dsirm_models.beam import beam_search, score_sids
from dsirm_models.embedded_generator import EmbeddedGenerator
from dsirm_models.generator_data import EmbeddedData, draw_queries, draw_targets, prepare
from dsirm_models.generator_training import Progress
from dsirm_models.generators import load_generator
from dsirm_models.sid_index import SidIndex
from dsirm_models.train_embedded_generator import EmbeddedConfig, TrainedEmbedded, train_embedded
from schemas.sids import pack

SIZES = (6, 8, 8)
SMALL = EmbeddedConfig(hidden=32, blocks=1, epochs=4, queries_per_step=16, targets_per_query=2, learning_rate=5e-3)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def toy(queries: int = 200, seed: int = 0) -> EmbeddedData:
    """Queries around 12 centres; the centre decides the SID, a second SID is clicked a third as often."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(12, 16))
    topic = rng.integers(0, 12, queries)
    vectors = centres[topic] + 0.3 * rng.normal(size=(queries, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first = np.array([pack((t % 6, t % 8, t % 5)) for t in topic])
    second = np.array([pack((t % 6, t % 8, 7)) for t in topic])
    return EmbeddedData(
        query_embeddings=vectors.astype(np.float32),
        query_index=np.tile(np.arange(queries), 2),
        sids=np.concatenate([first, second]),
        weight=np.repeat([3.0, 1.0], queries),
        train=np.tile(np.arange(queries) % 5 > 0, 2),
    )


def train(data: EmbeddedData, config: EmbeddedConfig = SMALL, **options: object) -> TrainedEmbedded:
    return train_embedded(data, codebook_sizes=SIZES, config=config, **options)  # type: ignore[arg-type]


def weights(trained: TrainedEmbedded) -> dict[str, torch.Tensor]:
    return trained.generator.state_dict()


def assert_same(a: TrainedEmbedded, b: TrainedEmbedded) -> None:
    assert all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


def test_unseen_queries_get_the_sids_of_their_neighbours_in_order_of_weight() -> None:
    data = toy()
    index = SidIndex(data.sids)
    config = EmbeddedConfig(hidden=32, blocks=1, epochs=12, queries_per_step=16, learning_rate=5e-3)
    generator, report = train(data, config, index=index)
    held_out = np.arange(0, 200, 5)
    beams = beam_search(generator, index, data.query_embeddings[held_out], 2)
    assert (beams.sids[:, 0] == data.sids[held_out]).mean() > 0.9
    assert (beams.sids[:, 1] == data.sids[held_out + 200]).mean() > 0.8
    # Learned as weighted: 3 to 1.
    assert np.exp(beams.logps.sum(axis=2)).mean(axis=0) == pytest.approx([0.75, 0.25], abs=0.1)
    totals = [sum(evaluation.log_likelihood) for evaluation in report.evaluations]
    assert totals[0] < max(totals) and report.evaluations[int(np.argmax(totals))].step == report.best_step


def test_beam_scores_equal_teacher_forcing_of_the_whole_sid() -> None:
    data = toy()
    generator = train(data).generator
    index = SidIndex(data.sids)
    targets = torch.from_numpy(np.stack([data.sids >> 40, data.sids >> 20 & 0xFFFFF, data.sids & 0xFFFFF], 1))[
        :200, None
    ]
    with torch.no_grad():
        direct = generator.log_likelihood(torch.from_numpy(data.query_embeddings), targets, index)[:, 0]
    scored = score_sids(generator, index, data.query_embeddings, data.sids[:200])
    np.testing.assert_allclose(scored, direct.numpy(), atol=1e-5)


def test_the_same_pairs_in_another_order_give_the_same_weights() -> None:
    data = toy()
    order = np.random.default_rng(1).permutation(len(data.sids))
    shuffled = EmbeddedData(data.query_embeddings, *(column[order] for column in data[1:]))
    assert_same(train(data), train(shuffled))


@pytest.mark.parametrize("killed_at", [1, 17, 33])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, killed_at: int) -> None:
    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == killed_at:
            raise Killed

    data = toy()
    with pytest.raises(Killed):
        train(data, checkpoint_dir=tmp_path, on_step=kill)
    steps: list[int] = []
    resumed = train(data, checkpoint_dir=tmp_path, on_step=lambda progress: steps.append(progress.step))
    whole = train(data)
    assert_same(whole, resumed)
    assert whole.report == resumed.report
    assert steps[0] == killed_at // 10 * 10 + 1
    assert len(list(tmp_path.iterdir())) == 1
    # A finished run is not run again.
    assert_same(whole, train(data, checkpoint_dir=tmp_path, on_step=lambda _: pytest.fail("trained again")))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(toy(), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="other settings or data"):
        train(toy(seed=1), checkpoint_dir=tmp_path)


def test_training_leaves_the_callers_random_state_alone() -> None:
    before = torch.get_rng_state()
    train(toy(queries=40))
    assert torch.equal(before, torch.get_rng_state())


def test_an_artifact_gives_back_the_same_generator(tmp_path: Path) -> None:
    data = toy()
    generator = train(data).generator
    generator.meta["codebook_version"] = "c1"
    generator.save(tmp_path / "g")
    loaded = load_generator(tmp_path / "g")
    assert loaded.backend == "embedded" and loaded.meta == {"codebook_version": "c1"}
    assert loaded.codebook_sizes == SIZES
    index = SidIndex(data.sids)
    a, b = (beam_search(g, index, data.query_embeddings, 3) for g in (generator, loaded))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    with pytest.raises(ValueError, match="another codebook"):
        beam_search(loaded, SidIndex(np.array([pack((6, 0, 0))])), data.query_embeddings, 3)
    (tmp_path / "g" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="half-written"):
        load_generator(tmp_path / "g")


def test_warm_start_goes_on_from_earlier_weights(tmp_path: Path) -> None:
    data = toy()
    cold = train(data)
    cold.generator.save(tmp_path / "g")
    warm = train(data, warm_start=tmp_path / "g")
    assert sum(warm.report.evaluations[0].log_likelihood) > sum(cold.report.evaluations[0].log_likelihood) + 0.5
    with pytest.raises(ValueError, match="is no warm start"):
        train(data, EmbeddedConfig(hidden=16), warm_start=tmp_path / "g")


def test_progress_goes_to_tensorboard(tmp_path: Path) -> None:
    train(toy(queries=40), log_dir=tmp_path)
    assert list(tmp_path.glob("events*"))


def test_targets_are_drawn_in_proportion_to_weight() -> None:
    data = toy(queries=50)
    pairs = prepare(queries=50, **dict(zip(data._fields[1:], data[1:], strict=True)), codebook_sizes=SIZES)
    assert len(pairs.train.queries) == 40 and len(pairs.held_out.queries) == 10
    codes = draw_targets(pairs.train, np.arange(40), count=400, rng=np.random.default_rng(0))
    topic_share = (codes[:, :, 2] == 7).mean(axis=1)
    np.testing.assert_allclose(topic_share, 0.25, atol=0.01)
    seen = np.concatenate([draw_queries(pairs.train, step=step, batch=16, power=0, seed=3) for step in range(5)])
    assert np.bincount(seen, minlength=40).tolist() == [2] * 40


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"hidden.*epochs.*dropout.*learning_rate"):
        EmbeddedConfig(hidden=0, epochs=0, dropout=1.0, learning_rate=0)
    data = toy(queries=20)
    broken = data._replace(query_index=data.query_index + 1, weight=-data.weight, sids=data.sids + (1 << 50))
    with pytest.raises(ValueError, match=r"query_index.*over codebooks.*weight"):
        train(broken)
    with pytest.raises(ValueError, match="does not hold"):
        train(data, index=SidIndex(data.sids[:1]))
    with pytest.raises(ValueError, match="codebook sizes"):
        EmbeddedGenerator(embedding_dim=4, codebook_sizes=(3, 3))


# With a user ------------------------------------------------------------------------------------------------------


def with_users(data: EmbeddedData, context: int = 3) -> EmbeddedData:
    """Every other query is asked by a user who always takes the second SID, the others by nobody."""
    half = len(data.query_embeddings)
    user = np.zeros((half, context), dtype=np.float32)
    user[::2, 1] = 1
    weight = np.where(np.tile(user[:, 1] > 0, 2) == (np.arange(2 * half) >= half), data.weight, 1e-6)
    inputs = np.hstack([data.query_embeddings, user])
    return data._replace(query_embeddings=inputs, weight=weight)


def test_a_layer_of_users_adds_nothing_at_first_and_never_to_a_query_alone(tmp_path: Path) -> None:
    plain = EmbeddedGenerator(embedding_dim=16, codebook_sizes=SIZES, hidden=32).eval()
    personal = EmbeddedGenerator(embedding_dim=16, codebook_sizes=SIZES, hidden=32, context=3).eval()
    personal.load_state_dict({**personal.state_dict(), **plain.state_dict()})
    queries, users = torch.randn(5, 16), torch.randn(5, 3)
    assert torch.equal(personal.encode(torch.cat([queries, users], dim=1)), plain.encode(queries))
    torch.nn.init.normal_(personal.who.add.weight)  # type: ignore[union-attr]
    assert not torch.equal(personal.encode(torch.cat([queries, users], dim=1)), plain.encode(queries))
    for alone in (queries, torch.cat([queries, torch.zeros(5, 3)], dim=1)):
        assert torch.equal(personal.encode(alone), plain.encode(queries))
    personal.save(tmp_path / "personal")
    assert EmbeddedGenerator.load(tmp_path / "personal").context == 3
    with pytest.raises(ValueError, match=r"vectors \(B, 16\) or \(B, 19\) with a user, not \(5, 18\)"):
        personal.encode(torch.randn(5, 18))
    with pytest.raises(ValueError, match="cannot all say who asks"):
        train(toy(), context=16)


def test_users_are_learned_on_top_of_queries_and_dropped_where_nobody_asks(tmp_path: Path) -> None:
    data = toy()
    index = SidIndex(data.sids)
    train(data, index=index).generator.save(tmp_path / "queries")
    personal = train(with_users(data), index=index, context=3, warm_start=tmp_path / "queries").generator
    half = len(data.sids) // 2
    first = beam_search(personal, index, with_users(data).query_embeddings, 1).sids[:, 0]
    assert (first[::2] == data.sids[half:][::2]).mean() > 0.9
    assert (first[1::2] == data.sids[:half][1::2]).mean() > 0.8
    personal.save(tmp_path / "users")
    again = train(data, index=index, warm_start=tmp_path / "users").generator
    assert again.context == 0
    kept = train(with_users(data), index=index, context=3, warm_start=tmp_path / "users").generator
    anew = train(with_users(data, 4), context=4, index=index, warm_start=tmp_path / "users").generator
    assert (kept.context, anew.context) == (3, 4)
