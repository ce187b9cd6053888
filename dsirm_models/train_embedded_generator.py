"""Training of the embedded generator on weighted (query vector, SID) pairs."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsirm_models.artifacts import sha256_of
from dsirm_models.embedded_generator import EmbeddedGenerator
from dsirm_models.generator_data import EmbeddedData, Targets, check_index, draw_queries, draw_targets, prepare
from dsirm_models.generator_training import OnStep, Plan, Report, fit, run_identity
from dsirm_models.sid_index import SidIndex


@dataclass(frozen=True)
class EmbeddedConfig:
    """Settings of the embedded generator; the defaults suit some 10k queries and 300k pairs.

    Raises:
        ValueError: when built, everything out of range at once.
    """

    hidden: int = 256
    blocks: int = 2
    expansion: int = 2
    dropout: float = 0.2
    epochs: int = 12
    """Passes over the queries; the best epoch by held-out log-likelihood is kept."""
    queries_per_step: int = 128
    targets_per_query: int = 4
    """SIDs drawn per query and step."""
    learning_rate: float = 1e-3
    warmup: float = 0.05
    """Share of the steps."""
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    query_power: float = 0.0
    """Queries are drawn in proportion to their total weight to this power: 0 all alike, 1 as often as clicked."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        whole = ("hidden", "expansion", "epochs", "queries_per_step", "targets_per_query")
        problems = [
            f"{name} must be at least 1, not {getattr(self, name)}" for name in whole if getattr(self, name) < 1
        ]
        if self.blocks < 0 or self.seed < 0:
            problems.append(f"blocks and seed must not be negative: {self.blocks}, {self.seed}")
        if not 0 <= self.dropout < 1 or not 0 <= self.warmup <= 1:
            problems.append(f"dropout must be in [0, 1) and warmup in [0, 1]: {self.dropout}, {self.warmup}")
        if not (self.learning_rate > 0 and self.clip_norm > 0):
            problems.append(f"learning_rate and clip_norm must be positive: {self.learning_rate}, {self.clip_norm}")
        if not (self.weight_decay >= 0 and self.query_power >= 0):
            problems.append(
                f"weight_decay and query_power must not be negative: {self.weight_decay}, {self.query_power}"
            )
        if problems:
            raise ValueError("Impossible settings for the embedded generator: " + "; ".join(problems) + ".")


class TrainedEmbedded(NamedTuple):
    """A trained generator, in evaluation mode, and how it came about."""

    generator: EmbeddedGenerator
    report: Report


def train_embedded(
    data: EmbeddedData,
    *,
    codebook_sizes: tuple[int, ...],
    config: EmbeddedConfig,
    index: SidIndex | None = None,
    context: int = 0,
    device: torch.device | str = "cpu",
    warm_start: Path | None = None,
    checkpoint_dir: Path | None = None,
    log_dir: Path | None = None,
    on_step: OnStep | None = None,
) -> TrainedEmbedded:
    """Maximise the weighted log-likelihood of the training pairs, keep the epoch that is best on the held-out ones.

    Args:
        data: N pairs over Q queries.
        codebook_sizes: codes per level of the codebook that the SIDs come from.
        config: settings.
        index: the SIDs that exist; the loss is taken over the valid children of each prefix, as decoding does. It must
            hold every SID of the pairs. None: over all codes of a level.
        context: C, the last columns of the query embeddings, which say who asks.
        device: where to train.
        warm_start: an earlier embedded artifact of the same codebook, vector and layer sizes, to go on from. What it
            knows of users goes on where this run reads users in the same columns, else it starts anew.
        checkpoint_dir: a folder for this run's checkpoints, one an epoch; a killed run continues from there.
        log_dir: TensorBoard folder.
        on_step: called after each optimiser step.

    Raises:
        ValueError: bad pairs, an unsuitable warm start, or checkpoints of another run in the folder.
        ArtifactError: the warm start is missing or damaged.
        FloatingPointError: the loss is not finite.
    """
    vectors = np.ascontiguousarray(data.query_embeddings, dtype=np.float32)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"Query embeddings are finite vectors (Q, D), not {vectors.shape} or not finite.")
    if not 0 <= context < vectors.shape[1]:
        raise ValueError(f"{context} columns of {vectors.shape[1]} cannot all say who asks.")
    pairs = prepare(
        queries=len(vectors),
        query_index=data.query_index,
        sids=data.sids,
        weight=data.weight,
        train=data.train,
        codebook_sizes=codebook_sizes,
    )
    if index is not None:
        check_index(index, data.sids, codebook_sizes)
        index = index.to(device)
    width = vectors.shape[1] - context
    generator = _build(width, context, codebook_sizes, config, warm_start).to(device)
    table = torch.from_numpy(vectors).to(device)

    def loss(step: int, micro: int) -> Tensor:
        rows = draw_queries(
            pairs.train, step=step, batch=config.queries_per_step, power=config.query_power, seed=config.seed
        )
        rng = np.random.default_rng([config.seed, 3, step])
        codes = draw_targets(pairs.train, rows, count=config.targets_per_query, rng=rng)
        queries = table[torch.from_numpy(pairs.train.queries[rows]).to(table.device)]
        logps = generator.log_likelihood(queries, torch.from_numpy(codes).to(table.device), index)
        return -logps.sum(dim=-1).mean()

    def evaluate() -> tuple[float, ...]:
        return held_out_log_likelihood(generator, table, pairs.held_out, index)

    epoch = -(-len(pairs.train.queries) // config.queries_per_step)
    steps = config.epochs * epoch
    plan = Plan(
        steps=steps,
        accumulation=1,
        learning_rate=config.learning_rate,
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        evaluate_every=epoch,
        checkpoint_every=epoch,
        seed=config.seed,
        bf16=False,
    )
    identity = run_identity(
        backend=generator.backend,
        config=asdict(config),
        codebook_sizes=list(codebook_sizes),
        pairs=pairs.fingerprint,
        index=index.fingerprint() if index is not None else None,
        vectors=hashlib.sha256(vectors.tobytes()).hexdigest(),
        warm_start=sha256_of(warm_start / "manifest.json") if warm_start else None,
    )
    report = fit(
        generator,
        plan=plan,
        loss=loss,
        evaluate=evaluate if len(pairs.held_out.queries) else None,
        identity=identity,
        checkpoint_dir=checkpoint_dir,
        log_dir=log_dir,
        on_step=on_step,
    )
    return TrainedEmbedded(generator, report)


@torch.no_grad()
def held_out_log_likelihood(
    generator: EmbeddedGenerator, table: Tensor, held_out: Targets, index: SidIndex | None
) -> tuple[float, ...]:
    """Exact mean over held-out queries of sum_i share_i log p(c_l | q, c_<l): (L,) nats. `table` (Q, D)."""
    total = np.zeros(held_out.codes.shape[1])
    query = np.repeat(held_out.queries, np.diff(held_out.starts))
    for begin in range(0, len(query), 2048):
        rows = slice(begin, begin + 2048)
        # One (query, SID) per row: plain, and the few held-out queries cost little beside an epoch.
        vectors = table[torch.from_numpy(query[rows]).to(table.device)]
        codes = torch.from_numpy(held_out.codes[rows, None]).to(table.device)
        logps = generator.log_likelihood(vectors, codes, index)[:, 0].double().cpu().numpy()
        total += (held_out.share[rows, None] * logps).sum(axis=0)
    return tuple((total / len(held_out.queries)).tolist())


def _build(
    dim: int, context: int, codebook_sizes: tuple[int, ...], config: EmbeddedConfig, warm_start: Path | None
) -> EmbeddedGenerator:
    """A generator with seeded weights, or with those of an earlier artifact."""
    sizes: dict[str, Any] = {
        "embedding_dim": dim,
        "hidden": config.hidden,
        "blocks": config.blocks,
        "expansion": config.expansion,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator = EmbeddedGenerator(codebook_sizes=codebook_sizes, dropout=config.dropout, context=context, **sizes)
        if warm_start is None:
            return generator
        earlier = EmbeddedGenerator.load(warm_start)
    if earlier.codebook_sizes != generator.codebook_sizes or any(
        earlier.sizes[name] != value for name, value in sizes.items()
    ):
        raise ValueError(
            f"{warm_start} is no warm start: it has codebooks {earlier.codebook_sizes} and {earlier.sizes}, "
            f"this run needs {generator.codebook_sizes} and {sizes}."
        )
    known = earlier.state_dict()
    if earlier.context != context:  # the layer of users begins as one that adds nothing
        known = {name: value for name, value in known.items() if not name.startswith("who.")}
    generator.load_state_dict({**generator.state_dict(), **known})
    return generator
