"""Stage 4 of CQ-SID: a generator aligned with what shoppers did, by EG-GRPO (arXiv 2605.14434). Both backends.

A step draws requests, samples a group of SIDs for each from the policy itself (constrained to existing SIDs, as
everywhere), adds K true SIDs of the request, reads the rewards from a table and takes the loss of `eg_grpo`. Dropout is
off, so that the ratio of an unchanged policy is 1. Everything drawn follows from (seed, step) and the weights: a killed
run resumes to the same weights on a CPU.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsirm_models.artifacts import sha256_of
from dsirm_models.beam import sample_sids
from dsirm_models.causal_lm_generator import CausalLMGenerator
from dsirm_models.eg_grpo import eg_grpo_loss, expert_weights, group_advantages, rewards_of
from dsirm_models.eg_grpo_data import (
    ACTED,
    EXPOSED,
    VALID,
    AlignConfig,
    RewardData,
    Table,
    draw_experts,
    draw_requests,
    reward_table,
)
from dsirm_models.embedded_generator import EmbeddedGenerator
from dsirm_models.generator_data import Asked, unpack_sids
from dsirm_models.generator_training import OnStep, Plan, Report, fit, run_identity
from dsirm_models.sid_index import SidIndex


class Aligned(NamedTuple):
    """A trained generator, in evaluation mode, and how it came about."""

    generator: EmbeddedGenerator | CausalLMGenerator
    report: Report


class _Rollout(NamedTuple):
    """What a micro-batch of requests came to; N rows, those of a request one after another, experts last."""

    inputs: Any
    codes: Tensor
    """(B, M + K, L); experts that a request does not have are padded with its first sample, and not `real`."""
    real: Tensor
    """(B, M + K) bool."""
    logps_old: Tensor
    """(B, M + K, L)."""
    logps_ref: Tensor | None
    advantages: Tensor
    """(N,) of the real rows."""
    keep: Tensor | None
    weights: Tensor | None


def train_eg_grpo(
    data: RewardData,
    *,
    start: Path,
    index: SidIndex,
    config: AlignConfig,
    base: str | Path | None = None,
    device: torch.device | str = "cpu",
    checkpoint_dir: Path | None = None,
    log_dir: Path | None = None,
    on_step: OnStep | None = None,
) -> Aligned:
    """Go on from a supervised generator; the weights of the last step are kept.

    Args:
        data: the reward table. Requests without an entry are not trained on.
        start: the stage-3 artifact, of either backend; also the reference of the KL.
        index: the SIDs that exist; samples are drawn from it and a table entry outside it is left out as an expert.
        config: settings.
        base: for a LoRA artifact: where its base weights lie.
        device: where to train.
        checkpoint_dir: a folder for this run's checkpoints; a killed run continues from there.
        log_dir: TensorBoard folder: reward parts, groups without variance, entropy, distinct SIDs, KL, clipping.
        on_step: called after each optimiser step.

    Raises:
        ValueError: a table that does not fit, or checkpoints of another run in the folder.
        ArtifactError: the start is missing or damaged.
        FloatingPointError: the loss is not finite.
    """
    table = reward_table(data, index)
    policy = _load(start, base, device, trainable=True)
    reference = _load(start, base, device, trainable=False) if config.kl > 0 else None
    index.check_codebook_sizes(policy.codebook_sizes)
    index = index.to(device)
    module: nn.Module = policy if isinstance(policy, EmbeddedGenerator) else policy.model
    kept: dict[int, _Rollout] = {}
    sums: dict[str, float] = defaultdict(float)

    def loss(step: int, micro: int) -> Tensor:
        module.eval()
        if micro == 0:
            sums.clear()
        if step % config.updates == 0:
            rows = draw_requests(table, config, step // config.updates, micro)
            kept[micro] = _roll_out(policy, reference, data.inputs, table, rows, index, config, (step, micro), sums)
        held = kept[micro]
        real = held.real
        found = eg_grpo_loss(
            _logps(policy, held.inputs, held.codes, index)[real],
            held.logps_old[real],
            held.advantages,
            clip=config.clip,
            beta=config.kl,
            logps_ref=None if held.logps_ref is None else held.logps_ref[real],
            weights=held.weights,
            keep=held.keep,
        )
        if reference is not None:
            sums["policy/kl"] += float(found.kl)
        sums["policy/clipped"] += float(found.clipped)
        return found.total

    def figures() -> Mapping[str, float]:
        return {name: value / config.accumulation for name, value in sums.items()}

    plan = Plan(
        steps=config.steps,
        accumulation=config.accumulation,
        learning_rate=config.learning_rate,
        warmup_steps=0,
        weight_decay=0.0,
        clip_norm=config.clip_norm,
        evaluate_every=config.steps,
        checkpoint_every=config.checkpoint_every,
        seed=config.seed,
        bf16=False,
    )
    digest = hashlib.sha256()
    for array in table:
        digest.update(array.tobytes())
    vectors = data.inputs.tobytes() if isinstance(data.inputs, np.ndarray) else b""
    texts = [] if isinstance(data.inputs, np.ndarray) else list(data.inputs)
    identity = run_identity(
        config=asdict(config),
        table=digest.hexdigest(),
        vectors=hashlib.sha256(vectors).hexdigest(),
        texts=texts,
        index=index.fingerprint(),
        start=sha256_of(start / "manifest.json"),
    )
    report = fit(
        module,
        plan=plan,
        loss=loss,
        evaluate=None,
        identity=identity,
        checkpoint_dir=checkpoint_dir,
        log_dir=log_dir,
        on_step=on_step,
        figures=figures,
    )
    return Aligned(policy, report)


def _load(
    start: Path, base: str | Path | None, device: torch.device | str, *, trainable: bool
) -> EmbeddedGenerator | CausalLMGenerator:
    from dsirm_models.artifacts import read_manifest
    from dsirm_models.embedded_generator import BACKEND

    if read_manifest(start, kind="generator")["backend"] == BACKEND:
        loaded = EmbeddedGenerator.load(start, device=device)
        return loaded if trainable else loaded.requires_grad_(False)
    from dsirm_models.causal_lm_loading import load_causal_lm

    return load_causal_lm(start, base=base, device=device, dtype=torch.float32, trainable=trainable)


@torch.no_grad()
def _roll_out(
    policy: EmbeddedGenerator | CausalLMGenerator,
    reference: EmbeddedGenerator | CausalLMGenerator | None,
    inputs: NDArray[np.float32] | Sequence[str | Asked],
    table: Table,
    rows: NDArray[np.int64],
    index: SidIndex,
    config: AlignConfig,
    place: tuple[int, int],
    sums: dict[str, float],
) -> _Rollout:
    """Sample, add experts, reward and compare; adds the figures of this micro-batch to `sums`."""
    own = inputs[rows] if isinstance(inputs, np.ndarray) else [inputs[row] for row in rows]
    scorer: Any = policy
    sampled = sample_sids(scorer, index, own, config.group_size, seed=(config.seed, 4, *place))
    true, truths = draw_experts(table, rows, config.experts, (config.seed, 5, *place))
    device = sampled.sids.device
    known = torch.from_numpy(true).to(device)
    sids = torch.cat([sampled.sids, torch.where(known < 0, sampled.sids[:, :1], known)], dim=1)
    codes = torch.from_numpy(unpack_sids(sids.cpu().numpy())).to(device)
    real = torch.cat([torch.ones_like(sampled.sids, dtype=torch.bool), known >= 0], dim=1)
    expert = torch.zeros_like(real)
    expert[:, config.group_size :] = True
    group = torch.arange(len(rows), device=device)[:, None].expand_as(sids)[real]
    rewards = rewards_of(
        sids[real],
        torch.from_numpy(rows).to(device)[group],
        table_group=torch.from_numpy(table.request).to(device),
        table_sid=torch.from_numpy(table.sids).to(device),
        table_reward=torch.from_numpy(table.reward).to(device).float(),
        valid=index.contains(sids[real]).float() * VALID,
    )
    found = group_advantages(rewards, group)
    old = _logps(policy, own, codes, index)
    earned = rewards[~expert[real]]
    sums["reward/mean"] += float(earned.mean())
    for name, value in (("acted", ACTED), ("exposed", EXPOSED), ("valid", VALID), ("invalid", 0.0)):
        sums[f"reward/{name}"] += float(torch.isclose(earned, torch.tensor(value, device=device)).float().mean())
    distinct = [len(torch.unique(line)) for line in sampled.sids]
    flat = torch.zeros(len(rows), dtype=torch.bool, device=device)
    flat[group] = found.flat
    sums["groups/flat"] += float(flat.float().mean())
    sums["groups/experts"] += float(expert[real].float().mean())
    sums["policy/entropy"] += float(sampled.entropy.mean())
    sums["policy/distinct"] += sum(distinct) / sampled.sids.numel()
    weights = None
    if config.correct_experts:
        counts = torch.from_numpy(truths).to(device)[group]
        weights = expert_weights(old[real], expert[real], truths=counts)
    return _Rollout(
        inputs=own,
        codes=codes,
        real=real,
        logps_old=old,
        logps_ref=None if reference is None else _logps(reference, own, codes, index),
        advantages=found.values,
        keep=~found.flat if config.drop_flat else None,
        weights=weights,
    )


def _logps(generator: EmbeddedGenerator | CausalLMGenerator, inputs: Any, codes: Tensor, index: SidIndex) -> Tensor:
    """Log-probabilities (B, M, L) of M SIDs of each of B requests."""
    if isinstance(generator, EmbeddedGenerator):
        vectors = torch.as_tensor(inputs, dtype=torch.float32).to(generator.device)
        return generator.log_likelihood(vectors, codes, index)
    repeated = [text for text in inputs for _ in range(codes.shape[1])]
    return generator.log_likelihood(repeated, codes.flatten(0, 1), index).view(codes.shape)
