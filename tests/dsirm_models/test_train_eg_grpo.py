"""EG-GRPO as training: both backends go on from a supervised generator towards what the reward table holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dsirm_models.beam import beam_search, sample_sids
from dsirm_models.eg_grpo_data import ACTED, EXPOSED, AlignConfig, RewardData
from dsirm_models.generator_training import Progress
from dsirm_models.sid_index import SidIndex
from dsirm_models.train_eg_grpo import Aligned, train_eg_grpo
from schemas.sids import pack
from tests.dsirm_models import test_causal_lm_generator as lm
from tests.dsirm_models import test_embedded_generator as embedded

SMALL: dict[str, Any] = {
    "steps": 12,
    "requests_per_step": 16,
    "learning_rate": 3e-3,
    "kl": 0.1,
    "checkpoint_every": 4,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[RewardData, Path, SidIndex]:
    """A generator that learned 3 : 1 for the first SID of its topic; shoppers only ever act on the second."""
    torch.set_num_threads(1)
    data = embedded.toy(queries=60)
    index = SidIndex(data.sids)
    start = tmp_path_factory.mktemp("sft") / "generator"
    embedded.train(data, index=index).generator.save(start)
    half = len(data.sids) // 2
    reward = np.repeat([EXPOSED, ACTED], half)
    return RewardData(data.query_embeddings, data.query_index, data.sids, reward), start, index


def align(world: tuple[RewardData, Path, SidIndex], **options: Any) -> Aligned:
    data, start, index = world
    settings = {name: options.pop(name) for name in [*options] if name in AlignConfig.__dataclass_fields__}
    return train_eg_grpo(
        options.pop("data", data), start=start, index=index, config=AlignConfig(**(SMALL | settings)), **options
    )


def reward_of_best(world: tuple[RewardData, Path, SidIndex], generator: Any) -> float:
    """Share of requests whose first beam is the SID acted on."""
    data, _, index = world
    half = len(data.sids) // 2
    first = beam_search(generator, index, data.inputs, 1).sids[:, 0]
    return float((first == data.sids[half:]).mean())


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


class Killed(Exception):
    """As a process that ends in the middle."""


def killing_at(step: int) -> Callable[[Progress], None]:
    def kill(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return kill


def figures(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("experts", [0, 2])
def test_what_shoppers_acted_on_comes_first_afterwards(world, tmp_path: Path, experts: int) -> None:
    from dsirm_models.embedded_generator import EmbeddedGenerator

    before = reward_of_best(world, EmbeddedGenerator.load(world[1]))
    aligned = align(world, experts=experts, steps=40, log_dir=tmp_path)
    assert before < 0.3
    assert reward_of_best(world, aligned.generator) > before + 0.4
    told = figures(tmp_path)
    assert told["reward/mean"][-1] > told["reward/mean"][0] + 0.1
    parts = [told[f"reward/{name}"] for name in ("acted", "exposed", "valid", "invalid")]
    assert np.allclose(np.sum(parts, axis=0), 1)
    assert told["reward/invalid"] == [0.0] * 40, "samples are constrained to SIDs that exist"
    assert told["groups/experts"] == pytest.approx([experts / (8 + experts)] * 40)
    assert told["policy/kl"][0] == pytest.approx(0, abs=1e-6), "the start is its own reference"
    assert told["policy/kl"][-1] > 0
    for tag in ("policy/entropy", "policy/distinct", "groups/flat", "policy/clipped"):
        assert len(told[tag]) == 40


def test_experts_teach_what_the_policy_never_samples(world, tmp_path: Path) -> None:
    """Each request's true SID is one of another topic: without experts almost no group ever holds it."""
    data, _, index = world
    half = len(data.sids) // 2
    far = np.roll(np.unique(data.sids), 7)[np.searchsorted(np.unique(data.sids), data.sids[:half])]
    table = RewardData(data.inputs, np.arange(half), far, np.full(half, ACTED))
    gained = {}
    for experts in (0, 1):
        generator = align(world, data=table, experts=experts, steps=30, kl=0.0).generator
        logps = beam_search(generator, index, data.inputs, len(index))
        hit = logps.sids == far[:, None]
        gained[experts] = float(logps.logps.sum(axis=2)[hit].mean())
    assert gained[1] > gained[0] + 1


@pytest.mark.parametrize("killed_at", [1, 6])
def test_a_killed_run_resumes_to_the_same_weights(world, tmp_path: Path, killed_at: int) -> None:
    options = {"steps": 8, "updates": 2, "accumulation": 2, "correct_experts": True, "drop_flat": True}
    whole = align(world, **options)
    with pytest.raises(Killed):
        align(world, checkpoint_dir=tmp_path, on_step=killing_at(killed_at), **options)
    resumed = align(world, checkpoint_dir=tmp_path, **options)
    assert same(whole.generator, resumed.generator)
    assert not same(whole.generator, align(world, **(options | {"seed": 1})).generator)
    with pytest.raises(ValueError, match="other settings or data"):
        align(world, checkpoint_dir=tmp_path, **(options | {"experts": 1}))


def test_the_highest_reward_of_a_pair_counts_and_the_order_of_rows_does_not(world) -> None:
    data, _, _ = world
    order = np.random.default_rng(0).permutation(len(data.sids))
    twice = RewardData(
        data.inputs,
        np.concatenate([data.request[order], data.request]),
        np.concatenate([data.sids[order], data.sids]),
        np.concatenate([data.reward[order], np.full(len(data.sids), EXPOSED)]),
    )
    assert same(align(world, steps=3).generator, align(world, data=twice, steps=3).generator)


def test_a_causal_lm_learns_from_the_same_table(tmp_path: Path) -> None:
    base = lm.write_base(tmp_path / "base")
    data = lm.toy()
    index = SidIndex(data.sids)
    for finetuning in ("full", "lora"):
        start = tmp_path / finetuning
        lm.train(base, data, index=index, finetuning=finetuning, steps=8).generator.save(start)
        # What is acted on is the SID of the same thing in the next colour.
        table = RewardData(data.texts, np.arange(15), np.roll(data.sids, 5), np.full(15, ACTED))
        config = AlignConfig(**(SMALL | {"steps": 6, "learning_rate": 5e-3, "requests_per_step": 8}))
        out = tmp_path / f"log-{finetuning}"
        whole = train_eg_grpo(table, start=start, index=index, config=config, base=base, log_dir=out)
        told = figures(out)
        assert told["policy/kl"][0] == pytest.approx(0, abs=1e-5)
        assert told["policy/kl"][-1] > 0
        assert len(told["reward/acted"]) == 6
        how = {"start": start, "index": index, "config": config, "base": base, "checkpoint_dir": tmp_path / "kept"}
        with pytest.raises(Killed):
            train_eg_grpo(table, **how, on_step=killing_at(5))
        assert any((tmp_path / "kept").iterdir()), "nothing was kept to go on from"
        assert same(train_eg_grpo(table, **how).generator.model, whole.generator.model)
        shutil.rmtree(tmp_path / "kept")


def test_samples_follow_the_probabilities_and_exist(world) -> None:
    data, start, index = world
    from dsirm_models.embedded_generator import EmbeddedGenerator

    generator = EmbeddedGenerator.load(start)
    drawn = sample_sids(generator, index, data.inputs[:3], 4000, seed=(1,))
    assert bool(index.contains(drawn.sids).all())
    exact = beam_search(generator, index, data.inputs[:3], len(index))
    chance = np.exp(exact.logps.sum(axis=2))
    for row in range(3):
        share = [(drawn.sids[row] == int(sid)).float().mean().item() for sid in exact.sids[row]]
        np.testing.assert_allclose(share, chance[row], atol=0.03)
        entropy = -(chance[row] * np.log(chance[row].clip(1e-12))).sum()
        assert drawn.entropy[row].item() == pytest.approx(entropy, abs=0.05)
    again = sample_sids(generator, index, data.inputs[:3], 4000, seed=(1,))
    assert torch.equal(again.sids, drawn.sids)
    with pytest.raises(ValueError, match="At least one"):
        sample_sids(generator, index, data.inputs, 0, seed=(1,))


def test_a_table_that_teaches_nothing_and_impossible_settings_are_refused(world) -> None:
    data, _, _ = world
    with pytest.raises(ValueError, match="no entry of the reward table has a SID that exists"):
        align(world, data=data._replace(sids=np.full_like(data.sids, pack((5, 7, 6)))))
    with pytest.raises(ValueError, match=r"request reaches outside.*reward must be 1\.0 or 0\.5"):
        align(world, data=data._replace(request=data.request + 1, reward=data.reward * 3))
    with pytest.raises(ValueError, match=r"steps must be.*experts.*clip"):
        AlignConfig(steps=0, experts=-1, clip=1.5)
    with pytest.raises(ValueError, match="nothing to be compared with"):
        AlignConfig(group_size=1, experts=0)
    with pytest.raises(ValueError, match="must divide checkpoint_every"):
        AlignConfig(updates=3, checkpoint_every=100)
