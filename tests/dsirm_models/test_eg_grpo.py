"""The objective of EG-GRPO, by hand and against TRL's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dsirm_models.eg_grpo import eg_grpo_loss, expert_weights, group_advantages, rewards_of
from tests.dsirm_models.test_causal_lm_generator import write_base

T = 3


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def rewards(sids: list[int], group: list[int], table: list[tuple[int, int, float]], valid: list[float]) -> list[float]:
    columns = [torch.tensor(column) for column in zip(*table, strict=True)]
    found = rewards_of(
        torch.tensor(sids),
        torch.tensor(group),
        table_group=columns[0],
        table_sid=columns[1],
        table_reward=columns[2],
        valid=torch.tensor(valid),
    )
    return found.tolist()


def test_a_row_earns_its_entry_of_the_table_alone_or_what_a_valid_sid_earns() -> None:
    table = [(0, 5, 1.0), (0, 8, 0.5), (1, 5, 0.5), (3, 2, 1.0)]
    found = rewards([5, 8, 9, 5, 5, 2, 7], [0, 0, 0, 1, 2, 3, 3], table, [0.1, 0.1, 0.0, 0.1, 0.1, 0.1, 0.0])
    assert found == pytest.approx([1.0, 0.5, 0.0, 0.5, 0.1, 1.0, 0.0])
    for broken in ([(0, 5, 1.0), (0, 5, 0.5)], [(1, 5, 1.0), (0, 5, 1.0)], [(0, 8, 1.0), (0, 5, 1.0)]):
        with pytest.raises(ValueError, match="hold each pair once"):
            rewards([5], [0], broken, [0.1])


def test_advantages_are_normalised_over_the_enlarged_group_wherever_its_rows_lie() -> None:
    group = torch.tensor([1, 0, 0, 1, 0, 2, 0, 2, 3])
    values = torch.tensor([1.0, 0.1, 1.0, 0.1, 0.1, 0.3, 0.5, 0.3, 1.0])
    found = group_advantages(values, group)
    for g, size in ((0, 4), (1, 2)):
        own = values[group == g]
        assert len(own) == size
        torch.testing.assert_close(found.values[group == g], (own - own.mean()) / (own.std() + 1e-4))
    # Rewards all alike, and a group of one, teach nothing and are counted.
    assert found.values[group >= 2].abs().max() < 1e-3
    assert found.flat.tolist() == [False] * 5 + [True, False, True, True]


def test_an_expert_turns_a_group_that_found_nothing_into_a_lesson() -> None:
    alone = group_advantages(torch.full((8,), 0.1), torch.zeros(8, dtype=torch.int64))
    assert alone.flat.all()
    guided = group_advantages(torch.tensor([0.1] * 8 + [1.0, 1.0]), torch.zeros(10, dtype=torch.int64))
    assert not guided.flat.any()
    assert (guided.values[8:] > 1).all() and (guided.values[:8] < 0).all()


def test_clip_stops_the_gradient_only_where_the_step_went_far_enough() -> None:
    old = torch.zeros(4, 1)
    logps = torch.tensor([[0.5], [-0.5], [0.5], [-0.5]], requires_grad=True)
    loss = eg_grpo_loss(logps, old, torch.tensor([1.0, 1.0, -1.0, -1.0]), clip=0.2)
    loss.total.backward()
    assert (logps.grad[:, 0] == 0).tolist() == [True, False, False, True]
    assert loss.clipped.item() == 0.5
    expected = torch.tensor([-1.2, -(-0.5 * torch.ones(1)).exp().item(), torch.tensor(0.5).exp().item(), 0.8]).mean()
    assert loss.policy.item() == pytest.approx(expected.item(), rel=1e-6)


def test_groups_without_variance_are_left_out_of_the_mean_or_not() -> None:
    logps = torch.randn(4, T, generator=torch.Generator().manual_seed(0))
    advantages, keep = torch.tensor([1.0, -1.0, 0.0, 0.0]), torch.tensor([True, True, False, False])
    whole = eg_grpo_loss(logps, logps + 0.1, advantages)
    kept = eg_grpo_loss(logps, logps + 0.1, advantages, keep=keep)
    assert kept.total.item() == pytest.approx(2 * whole.total.item(), rel=1e-5)
    nobody = eg_grpo_loss(logps, logps, advantages, keep=torch.zeros(4, dtype=torch.bool))
    assert nobody.total.item() == 0


def test_the_correction_shrinks_experts_that_the_policy_would_not_sample_and_nothing_else() -> None:
    old = torch.log(torch.tensor([[0.5, 0.5, 0.1], [0.5, 0.5, 0.1], [1.0, 1.0, 0.9]]))
    found = expert_weights(old, torch.tensor([False, True, True]), truths=torch.tensor([0, 4, 4]))
    assert found.tolist() == pytest.approx([1.0, 0.025 * 4, 1.0])


def test_kl_needs_a_reference_and_is_zero_at_it() -> None:
    logps = torch.randn(5, T)
    same = eg_grpo_loss(logps, logps, torch.zeros(5), beta=1.0, logps_ref=logps)
    assert same.kl.item() == same.total.item() == 0
    with pytest.raises(ValueError, match="of the reference"):
        eg_grpo_loss(logps, logps, torch.zeros(5), beta=1.0)


@pytest.fixture(scope="module")
def trl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[tuple[list[int], float]]]:
    """TRL's trainer over a tiny model: groups of 4, three tokens a completion, what it computes kept aside."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    folder: Path = tmp_path_factory.mktemp("trl")
    tokenizer = AutoTokenizer.from_pretrained(write_base(folder / "base"))
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    model = AutoModelForCausalLM.from_pretrained(folder / "base")

    class Recording(GRPOTrainer):
        kept: list[dict[str, Any]]

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            self.kept.append({name: value for name, value in inputs.items() if torch.is_tensor(value)})
            return super()._compute_loss(model, inputs)

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        found = [(0.0, 0.1, 0.5, 1.0)[sum(ids) % 4] for ids in completion_ids]
        scored.extend(zip(completion_ids, found, strict=True))
        return found

    scored: list[tuple[list[int], float]] = []
    config = GRPOConfig(
        output_dir=str(folder / "out"),
        loss_type="grpo",
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=T,
        max_steps=1,
        beta=0.5,
        epsilon=0.2,
        use_bias_correction_kl=False,  # the KL of GRPO itself; TRL's default is DeepSeek-V3.2's
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        temperature=1.0,
        seed=0,
    )
    data = Dataset.from_dict({"prompt": ["red shoe", "blue lamp"]})
    trainer = Recording(model=model, reward_funcs=reward, args=config, train_dataset=data, processing_class=tokenizer)
    trainer.kept = []
    trainer.train()
    return trainer, scored


def test_without_experts_the_advantages_are_those_of_trl(trl: Any) -> None:
    trainer, scored = trl
    ours = group_advantages(torch.tensor([reward for _, reward in scored]), torch.arange(8) // 4).values
    assert ours.abs().max() > 0.1
    # TRL changes the order of rows after scoring them: both sides are put in the order of what was sampled.
    inputs = trainer.kept[0]
    sampled = [
        ids[mask.bool()].tolist() for ids, mask in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)
    ]
    theirs = sorted(zip(sampled, inputs["advantages"].tolist(), strict=True))
    mine = sorted(zip([list(ids) for ids, _ in scored], ours.tolist(), strict=True))
    assert [ids for ids, _ in mine] == [ids for ids, _ in theirs]
    assert [value for _, value in mine] == pytest.approx([value for _, value in theirs], abs=1e-5)


@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_without_experts_loss_and_gradient_are_those_of_trl(trl: Any, spread: float) -> None:
    """Ratios on both sides of the clip, advantages of both signs, and a KL to a reference."""
    trainer, _ = trl
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.eval()  # in training mode TRL also divides by the accumulated micro-batches
    rng = torch.Generator().manual_seed(1)
    prompt, tokens = torch.randint(1, 18, (8, 4), generator=rng), torch.randint(1, 18, (8, T), generator=rng)

    def logps() -> torch.Tensor:
        logits = model(torch.cat([prompt, tokens], dim=1), logits_to_keep=T + 1).logits[:, :-1]
        return logits.log_softmax(-1).gather(2, tokens[:, :, None]).squeeze(2)

    with torch.no_grad():
        old = logps() + spread * torch.randn(8, T, generator=rng)
        ref = logps() + spread * torch.randn(8, T, generator=rng)
    advantages = group_advantages(torch.rand(8, generator=rng), torch.arange(8) // 4).values
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": tokens,
        "completion_mask": torch.ones_like(tokens),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": torch.tensor(8 * T),
    }
    theirs = trainer._compute_loss(model, inputs)
    ours = eg_grpo_loss(logps(), old, advantages, clip=0.2, beta=0.5, logps_ref=ref)
    assert ours.total.item() == pytest.approx(theirs.item(), abs=1e-6)
    if spread:
        assert 0 < ours.clipped.item() < 1
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for mine, trls in zip(torch.autograd.grad(ours.total, weights), torch.autograd.grad(theirs, weights), strict=True):
        torch.testing.assert_close(mine, trls, atol=1e-6, rtol=1e-4)
