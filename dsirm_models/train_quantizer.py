"""Training of the quantizer on query-item pairs: the DSIRM objective (arXiv 2606.04374), resumable to the bit on a CPU.

A run is a function of (data, config, device): batches follow from (seed, epoch, step), k-means and towers start from
the seed, restarts take rows of the batch. A checkpoint therefore holds tensors and a step number and no random state.

The checkpoint kept is the one with the lowest symmetric InfoNCE on quantized vectors of held-out pairs, queries taking
the nearest of all level-1 codes (the paired category would give the answer away). It falls when a pair's two codes meet
and rises when all codes do, which the share of agreeing pairs alone would reward. Where the contrastive weight is not
above the reconstruction's (CQ-SID; 0 in TIGER, "without the bridge") it does not choose either: then it is the held-out
items' reconstruction error. Without held-out pairs, the last.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import AdamW

from dsirm_models import ranks
from dsirm_models.assign import assign_codes
from dsirm_models.kmeans import residual_kmeans, start_codebooks
from dsirm_models.losses import LossWeights, info_nce, reconstruction
from dsirm_models.quantizer import ANY
from dsirm_models.quantizer_checkpoint import Best, data_fingerprint, read_checkpoint, write_checkpoint
from dsirm_models.quantizer_data import PairData, Resident, batch_order, check_data
from dsirm_models.quantizer_loss import LossParts, fastest_loss
from dsirm_models.quantizer_model import QuantizerConfig, QuantizerModel, TrainedQuantizer
from dsirm_models.sid_quality import pair_agreement, quality

__all__ = ["PairData", "QuantizerConfig", "TrainedQuantizer", "train_quantizer"]

log = logging.getLogger(__name__)


def train_quantizer(
    *,
    data: PairData,
    config: QuantizerConfig,
    checkpoint_dir: Path,
    log_dir: Path | None = None,
    device: torch.device | str | None = None,
    warm_start: TrainedQuantizer | None = None,
    meta: Mapping[str, Any] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> TrainedQuantizer:
    """Train, or go on from the newest checkpoint of the same data and settings in `checkpoint_dir`.

    Under torchrun or TorchDistributor each process takes a share of every batch (see `ranks`), and all return the same.

    Args:
        data: pairs and embeddings; see `PairData`.
        config: all settings.
        checkpoint_dir: one run's own directory; a checkpoint of other data or settings in it is ignored and replaced.
        log_dir: TensorBoard events, if given.
        device: None = CUDA where there is one, else CPU.
        warm_start: start from its towers and codebooks instead of from k-means; align the result with
            `align.align_codes`.
        meta: JSON values stored with the result.
        on_step: called with the number of steps done, after each step and its checkpoint.

    Returns:
        The chosen checkpoint on `device`, evaluation mode. `report` holds best_step and the scores of "start" and
        "best".

    Raises:
        ValueError: data that cannot be trained on (all problems at once), or a warm start of another shape.
        FloatingPointError: the loss is no longer finite.

    """
    check_data(data, config)
    device = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    if ranks.join(device) and config.use_queries and (data.query_index < 0).any():
        raise ValueError("Pairs without a query can be trained on by one process only: parts of a batch would differ.")
    model = QuantizerModel(in_dim=data.item_embeddings.shape[1], config=config)
    fingerprint = data_fingerprint(data, config, warm_start)
    if warm_start is not None:
        _take_over(model, warm_start, config)
    model.to(device)
    resident = Resident(data, config, device)
    optimizer = AdamW(
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    found = read_checkpoint(checkpoint_dir, fingerprint=fingerprint, model=model, optimizer=optimizer)
    if found is None:
        if warm_start is None:
            start(model, resident, config)
        scores = evaluate(model, data, config)
        found = Best(step=0, best_step=0, start=scores, best=scores, tensors=_state(model))
    best = found
    loss = fastest_loss(model, resident, config)
    writer = _writer(log_dir, best.step) if ranks.number() == 0 else None
    for step, rows in batch_order(data, config, start=best.step):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config)
        model.train()
        parts = loss(resident.batch(ranks.share(rows)))
        optimizer.zero_grad(set_to_none=True)
        parts.total.backward()  # type: ignore[no-untyped-call]
        ranks.sum_gradients(model.parameters())
        optimizer.step()
        done = step + 1
        last = done == config.max_steps
        if done % config.log_every == 0 or last:
            _log_step(writer, done, parts, model, config)
        if done % config.eval_every == 0 or last:
            scores = evaluate(model, data, config)
            _log_scores(writer, done, scores)
            # `>`, not `<=`: without held-out pairs neither side has a choice, and the later state is taken.
            if not scores.get("choice", math.nan) > best.best.get("choice", math.nan):
                best = best._replace(best_step=done, best=scores, tensors=_state(model))
        best = best._replace(step=done)
        if ranks.number() == 0 and (done % config.checkpoint_every == 0 or last):
            write_checkpoint(checkpoint_dir, fingerprint=fingerprint, model=model, optimizer=optimizer, best=best)
        if on_step is not None:
            on_step(done)
    if writer is not None:
        writer.close()
    model.load_state_dict(best.tensors)
    if not config.use_queries:
        # Both kinds of embedding live in the frozen encoder's one space: queries take the tower that was trained.
        model.query_tower.load_state_dict(model.item_tower.state_dict())
    report = {"best_step": best.best_step, "start": best.start, "best": best.best}
    return TrainedQuantizer(model=model, config=config, meta=dict(meta or {}), report=report)


def fit_residual_kmeans(
    embeddings: NDArray[np.float32],
    *,
    codebook_sizes: tuple[int, ...] = (216, 512, 512),
    seed: int = 0,
    max_points: int = 131_072,
    meta: Mapping[str, Any] | None = None,
) -> TrainedQuantizer:
    """Baseline: residual k-means of the frozen embeddings (N, D) themselves, as a quantizer whose towers are the
    identity.

    The identity is exact: relu(x) - relu(-x) = x. So this baseline is assigned, stored and compared by the same
    functions.
    """
    width = embeddings.shape[1]
    config = QuantizerConfig(
        dim=width,
        hidden=2 * width,
        codebook_sizes=codebook_sizes,
        category_level1=False,
        normalize_latents=False,
        use_queries=False,
        weights=LossWeights(contrastive=0.0),
        seed=seed,
    )
    model = QuantizerModel(in_dim=width, config=config)
    signs = torch.cat([torch.eye(width), -torch.eye(width)])
    with torch.no_grad():
        for tower in (model.item_tower, model.query_tower):
            tower.inner.weight.copy_(signs)
            tower.outer.weight.copy_(signs.T)
    sample = np.random.default_rng(seed).permutation(len(embeddings))[:max_points]
    books = residual_kmeans(embeddings[np.sort(sample)], codebook_sizes, seed=seed, iterations=20)
    model.quantizer.initialise([torch.from_numpy(book) for book in books])
    return TrainedQuantizer(model=model, config=config, meta=dict(meta or {}))


def learning_rate_factor(step: int, config: QuantizerConfig) -> float:
    """Share of the learning rate at a step: linear rise over `warmup_steps`, then a cosine down to a tenth."""
    rise = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return rise * (0.55 + 0.45 * math.cos(math.pi * step / config.max_steps))


@torch.no_grad()
def evaluate(model: QuantizerModel, data: PairData, config: QuantizerConfig) -> dict[str, float]:
    """Scores on held-out pairs, through the same `assign_codes` that production uses.

    Returns:
        Nothing without held-out pairs. Else `choice` (lower is better): `info_nce` or `reconstruction`, whichever the
        objective weighs more; `agree_1..L` (share of pairs whose codes share a prefix of that depth), and of the
        held-out items `residual_norm`, `collision_rate` and per level `utilisation_l`, `perplexity_l`. Parts that need
        a query are left out where no held-out pair has one.

    """
    held = np.flatnonzero(~data.train)
    held = np.sort(np.random.default_rng([config.seed, 1]).permutation(held)[: config.eval_pairs])
    if len(held) == 0:
        return {}
    view = TrainedQuantizer(model=copy.deepcopy(model), config=config)
    item_id, query_id = data.item_index[held], data.query_index[held]
    items, item_place = np.unique(item_id, return_inverse=True)
    item_codes = assign_codes(view, data.item_embeddings[items], data.item_level1[items])
    scores = {"residual_norm": float(item_codes.residual_norm.mean(dtype=np.float64))}
    measured = quality(item_codes.codes, config.codebook_sizes)
    scores["collision_rate"] = measured.collision_rate
    for level, part in enumerate(measured.levels, start=1):
        scores |= {f"utilisation_{level}": part.utilisation, f"perplexity_{level}": part.perplexity}
    paired = query_id >= 0
    if paired.any() and config.use_queries:
        queries, query_place = np.unique(query_id[paired], return_inverse=True)
        query_codes = assign_codes(view, data.query_embeddings[queries], tower="query").codes[query_place]
        codes = item_codes.codes[item_place[paired]]
        agree = pair_agreement(query_codes, codes)
        scores |= {f"agree_{depth}": float(share) for depth, share in enumerate(agree, start=1)}
        scores["info_nce"] = _held_out_info_nce(view, query_codes, codes, query_id[paired], item_id[paired])
    # What the objective weighs most. CQ-SID's contrast of 0.001 is on the towers' output, not on codes: theirs is best
    # before the first step, when both towers are alike, and would choose k-means over an untrained projection.
    if config.weights.contrastive > config.weights.reconstruction:
        if "info_nce" in scores:
            scores["choice"] = scores["info_nce"]
    else:
        decoded = view.model.decoder(view.model.quantizer.decode(_tensor(item_codes.codes, view)))
        target = torch.from_numpy(data.item_embeddings[items]).to(decoded.device)
        scores["choice"] = scores["reconstruction"] = float(reconstruction(decoded, target))
    return scores


def _held_out_info_nce(
    view: TrainedQuantizer,
    query_codes: NDArray[np.int32],
    item_codes: NDArray[np.int32],
    query_id: NDArray[np.int32],
    item_id: NDArray[np.int32],
) -> float:
    """Mean over blocks of `batch_size` pairs, each block a batch as in training, weighted by its rows."""
    size, total = view.config.batch_size, 0.0
    # Held-out pairs may come sorted by query; neighbours would then mask each other instead of being negatives.
    order = np.random.default_rng([view.config.seed, 2]).permutation(len(query_codes))
    decode = view.model.quantizer.decode
    for block in np.array_split(order, max(1, len(order) // size)):
        loss = info_nce(
            decode(_tensor(query_codes[block], view)),
            decode(_tensor(item_codes[block], view)),
            temperature=view.config.temperature,
            query_id=_tensor(query_id[block], view),
            item_id=_tensor(item_id[block], view),
        )
        total += float(loss) * len(block)
    return total / len(order)


def _tensor(values: NDArray[np.int32], view: TrainedQuantizer) -> Tensor:
    return torch.from_numpy(values.astype(np.int64)).to(view.codebooks[0].device)


def _state(model: QuantizerModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def start(model: QuantizerModel, resident: Resident, config: QuantizerConfig) -> None:
    """k-means start on the latents of randomly drawn training pairs, both sides, as the first step would see them."""
    batch = resident.batch(resident.sample(config.kmeans_points))
    latent, level1 = [model.item_tower(batch.item)], [batch.level1]
    if config.use_queries:
        pick = slice(None) if batch.has_query is None else batch.has_query
        latent.append(model.query_tower(batch.query[pick]))
        paired = batch.level1[pick]
        level1.append(paired if config.query_level1 == "pair" else torch.full_like(paired, ANY))
    start_codebooks(
        model.quantizer,
        torch.cat(latent),
        torch.cat(level1) if config.mapped else None,
        seed=config.seed,
        iterations=config.kmeans_iterations,
    )


def _take_over(model: QuantizerModel, start: TrainedQuantizer, config: QuantizerConfig) -> None:
    same = ("dim", "hidden", "codebook_sizes", "mapped", "normalize_latents")
    changed = [
        f"{name} {getattr(start.config, name)} -> {getattr(config, name)}"
        for name in same
        if getattr(start.config, name) != getattr(config, name)
    ]
    if start.in_dim != model.item_tower.in_dim:
        changed.append(f"embedding width {start.in_dim} -> {model.item_tower.in_dim}")
    if changed:
        raise ValueError(f"A quantizer cannot start warm from one of another shape: {'; '.join(changed)}.")
    model.load_state_dict(start.model.state_dict())


def _writer(log_dir: Path | None, step: int) -> Any:
    if log_dir is None:
        return None
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only wanted where someone looks

    # Events after the checkpoint that a killed run left behind are written again, not twice.
    return SummaryWriter(log_dir=str(log_dir), purge_step=step + 1)


def _log_step(writer: Any, step: int, parts: LossParts, model: QuantizerModel, config: QuantizerConfig) -> None:
    total = float(parts.total.detach())
    if not math.isfinite(total):
        raise FloatingPointError(f"The quantizer's loss is {total} at step {step}: lower the learning rate.")
    if writer is None:
        return
    for name in ("total", "contrastive", "commitment", "reconstruction"):
        writer.add_scalar(f"loss/{name}", float(getattr(parts, name).detach()), step)
    batch = quality(parts.codes.cpu().numpy(), config.codebook_sizes)
    writer.add_scalar("batch/collision_rate", batch.collision_rate, step)
    for level, part in enumerate(batch.levels):
        # The batch shows what is used now; the EMA counts remember about 1 / (1 - decay) steps.
        count = model.quantizer.get_buffer(f"ema_count_{level}").double()
        share = (count / count.sum()).clamp_min(1e-12)
        writer.add_scalar(f"level_{level + 1}/batch_perplexity", part.perplexity, step)
        writer.add_scalar(f"level_{level + 1}/perplexity", float((-(share * share.log()).sum()).exp()), step)
        recent = model.quantizer.get_buffer(f"unused_{level}") < max(config.restart_after, 100)
        writer.add_scalar(f"level_{level + 1}/utilisation", float(recent.double().mean()), step)


def _log_scores(writer: Any, step: int, scores: Mapping[str, float]) -> None:
    log.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    if writer is not None:
        for name, value in scores.items():
            writer.add_scalar(f"held_out/{name}", value, step)
