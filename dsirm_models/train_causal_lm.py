"""Fine-tuning of a causal LM on weighted (text, SID) pairs (DSIRM, query side; CQ-SID stages 1 to 3)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsirm_models.artifacts import sha256_of
from dsirm_models.causal_lm_generator import PROMPT, CausalLMGenerator
from dsirm_models.causal_lm_loading import Lora, create_causal_lm, load_causal_lm
from dsirm_models.generator_data import Targets, TextData, check_index, draw_queries, draw_targets, prepare
from dsirm_models.generator_training import OnStep, Plan, Report, fit, run_identity
from dsirm_models.sid_index import SidIndex


@dataclass(frozen=True)
class CausalLMConfig:
    """Settings of causal-LM fine-tuning. Batch 128 is DSIRM's; its learning rate and steps are not known, these are
    ours.

    Raises:
        ValueError: when built, everything out of range at once.
    """

    finetuning: Literal["full", "lora"] = "full"
    """LoRA trains low-rank updates of every linear layer, and the rows of the SID tokens in full."""
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    steps: int = 2000
    batch_size: int = 128
    """Examples per optimiser step."""
    accumulation: int = 1
    """Micro-batches that a step is cut into; must divide `batch_size`. Changes memory, not the result."""
    targets_per_query: int = 1
    """SIDs drawn of a query at a time, each an example of its own. CQ-SID's stage 2: 3."""
    learning_rate: float = 1e-4
    warmup: float = 0.03
    """Share of the steps."""
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    query_power: float = 0.0
    """Queries are drawn in proportion to their total weight to this power: 0 all alike, 1 as often as clicked."""
    bf16: bool = True
    """bfloat16 autocast on CUDA; ignored on a CPU."""
    prompt: str = PROMPT
    max_query_tokens: int = 48
    evaluate_every: int = 500
    """Steps between looks at the held-out pairs; the best weights by them are kept."""
    held_out_pairs: int = 2048
    """At most so many held-out queries are looked at, one SID each."""
    checkpoint_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        whole = (
            *("lora_rank", "steps", "batch_size", "accumulation", "targets_per_query", "max_query_tokens"),
            *("evaluate_every", "held_out_pairs", "checkpoint_every"),
        )
        problems = [
            f"{name} must be at least 1, not {getattr(self, name)}" for name in whole if getattr(self, name) < 1
        ]
        if self.finetuning not in ("full", "lora"):
            problems.append(f"finetuning must be 'full' or 'lora', not {self.finetuning!r}")
        if self.accumulation >= 1 and self.batch_size % self.accumulation:
            problems.append(f"accumulation {self.accumulation} must divide batch_size {self.batch_size}")
        if not 0 <= self.lora_dropout < 1 or not 0 <= self.warmup <= 1:
            problems.append(f"lora_dropout must be in [0, 1), warmup in [0, 1]: {self.lora_dropout}, {self.warmup}")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and self.lora_alpha > 0):
            problems.append("learning_rate, clip_norm and lora_alpha must be positive")
        if not (self.weight_decay >= 0 and self.query_power >= 0 and self.seed >= 0):
            problems.append("weight_decay, query_power and seed must not be negative")
        if self.prompt.count("{query}") != 1:
            problems.append(f"prompt must hold {{query}} once: {self.prompt!r}")
        if problems:
            raise ValueError("Impossible settings for the causal-LM generator: " + "; ".join(problems) + ".")


class TrainedCausalLM(NamedTuple):
    """A trained generator, in evaluation mode, and how it came about."""

    generator: CausalLMGenerator
    report: Report


def train_causal_lm(
    data: TextData,
    *,
    base: str | Path,
    codebook_sizes: tuple[int, ...],
    config: CausalLMConfig,
    index: SidIndex | None = None,
    device: torch.device | str = "cpu",
    warm_start: Path | None = None,
    checkpoint_dir: Path | None = None,
    log_dir: Path | None = None,
    on_step: OnStep | None = None,
) -> TrainedCausalLM:
    """Maximise the log-likelihood of SIDs drawn in proportion to weight; the loss is on the three SID tokens only.

    Args:
        data: N pairs over Q texts.
        base: name (from the local Hugging Face cache) or path of the pre-trained weights; nothing is downloaded.
        codebook_sizes: codes per level of the codebook that the SIDs come from.
        config: settings.
        index: the SIDs that exist; the loss is taken over the valid children of each prefix, as decoding does. None:
            over the whole vocabulary, as the papers' plain cross-entropy.
        device: where to train.
        warm_start: an earlier causal-LM artifact of the same base, codebook sizes and kind of fine-tuning, to go on
        from.
        checkpoint_dir: a folder for this run's checkpoints; a killed run continues from there.
        log_dir: TensorBoard folder.
        on_step: called after each optimiser step.

    Raises:
        ValueError: bad pairs, an unsuitable warm start or base, or checkpoints of another run in the folder.
        ArtifactError: the warm start is missing or damaged.
        OSError: the base weights are not on this machine.
        FloatingPointError: the loss is not finite.
    """
    pairs = prepare(
        queries=len(data.texts),
        query_index=data.query_index,
        sids=data.sids,
        weight=data.weight,
        train=data.train,
        codebook_sizes=codebook_sizes,
    )
    if index is not None:
        check_index(index, data.sids, codebook_sizes)
        index = index.to(device)
    generator = _build(base, codebook_sizes, config, warm_start)
    generator.model.to(device)
    size = config.batch_size // config.accumulation

    def loss(step: int, micro: int) -> Tensor:
        each = config.targets_per_query
        visits = -(-config.batch_size // each)
        rows = draw_queries(pairs.train, step=step, batch=visits, power=config.query_power, seed=config.seed)
        rng = np.random.default_rng([config.seed, 3, step])
        drawn = draw_targets(pairs.train, rows, count=each, rng=rng)
        rows = np.repeat(rows, each)[: config.batch_size]
        codes = drawn.reshape(-1, drawn.shape[-1])[: config.batch_size]
        part = slice(micro * size, (micro + 1) * size)
        texts = [data.texts[query] for query in pairs.train.queries[rows[part]]]
        logps = generator.log_likelihood(texts, torch.from_numpy(codes[part]).to(generator.device), index)
        return -logps.sum(dim=-1).mean()

    def evaluate() -> tuple[float, ...]:
        return _held_out_log_likelihood(generator, data, pairs.held_out, index, config.held_out_pairs, size)

    plan = Plan(
        steps=config.steps,
        accumulation=config.accumulation,
        learning_rate=config.learning_rate,
        warmup_steps=round(config.warmup * config.steps),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        seed=config.seed,
        bf16=config.bf16,
    )
    identity = run_identity(
        backend=generator.backend,
        config=asdict(config),
        codebook_sizes=list(codebook_sizes),
        base=generator.base_fingerprint,
        pairs=pairs.fingerprint,
        index=index.fingerprint() if index is not None else None,
        texts=run_identity(texts=list(data.texts)),
        warm_start=sha256_of(warm_start / "manifest.json") if warm_start else None,
    )
    report = fit(
        generator.model,
        plan=plan,
        loss=loss,
        evaluate=evaluate if len(pairs.held_out.queries) else None,
        identity=identity,
        checkpoint_dir=checkpoint_dir,
        log_dir=log_dir,
        on_step=on_step,
    )
    return TrainedCausalLM(generator, report)


def _held_out_log_likelihood(
    generator: CausalLMGenerator, data: TextData, held_out: Targets, index: SidIndex | None, limit: int, batch: int
) -> tuple[float, ...]:
    """Mean log p(c_l | text, c_<l) over held-out texts, one SID drawn for each, the same at every call: (L,) nats."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(held_out.queries))[:limit])
    codes = torch.from_numpy(draw_targets(held_out, rows, count=1, rng=rng)[:, 0])
    total = torch.zeros(codes.shape[1], dtype=torch.float64)
    for begin in range(0, len(rows), batch):
        part = slice(begin, begin + batch)
        texts = [data.texts[query] for query in held_out.queries[rows[part]]]
        logps = generator.log_likelihood(texts, codes[part].to(generator.device), index)
        total += logps.double().sum(dim=0).cpu()
    return tuple((total / len(rows)).tolist())


def _build(
    base: str | Path, codebook_sizes: tuple[int, ...], config: CausalLMConfig, warm_start: Path | None
) -> CausalLMGenerator:
    """Pre-trained weights with fresh SID tokens, or an earlier artifact to go on from."""
    lora = config.finetuning == "lora"
    if warm_start is None:
        return create_causal_lm(
            base,
            codebook_sizes=codebook_sizes,
            lora=Lora(config.lora_rank, config.lora_alpha, config.lora_dropout) if lora else None,
            prompt=config.prompt,
            max_query_tokens=config.max_query_tokens,
            seed=config.seed,
        )
    earlier = load_causal_lm(warm_start, base=base, dtype=torch.float32, trainable=True)
    if earlier.codebook_sizes != tuple(codebook_sizes) or earlier.lora != lora or earlier.prompt != config.prompt:
        raise ValueError(
            f"{warm_start} is no warm start: it has codebooks {earlier.codebook_sizes}, LoRA {earlier.lora}, prompt "
            f"{earlier.prompt!r}, this run needs {tuple(codebook_sizes)}, {lora}, {config.prompt!r}."
        )
    return earlier
