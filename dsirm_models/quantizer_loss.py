"""The DSIRM objective on one batch (arXiv 2606.04374): contrast, commitment, reconstruction."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsirm_models import ranks
from dsirm_models.losses import info_nce, reconstruction
from dsirm_models.quantizer import ANY
from dsirm_models.quantizer_data import Batch, Resident
from dsirm_models.quantizer_model import QuantizerConfig, QuantizerModel

log = logging.getLogger(__name__)


class LossParts(NamedTuple):
    """The objective of one batch, each part before its weight; of several processes, what this one adds to it."""

    total: Tensor
    """() weighted sum."""
    contrastive: Tensor
    """() symmetric InfoNCE."""
    commitment: Tensor
    """()."""
    reconstruction: Tensor
    """()."""
    codes: Tensor
    """(R, L) int64 of all rows quantized, items before queries."""


def training_loss(model: QuantizerModel, batch: Batch, config: QuantizerConfig) -> LossParts:
    """The objective on one batch; in training mode the codebooks take their EMA step on the way.

    Items and queries go through the quantizer in one pass, so that both move the shared codebooks. Rows without a query
    take part in commitment and reconstruction with their item only.
    """
    weights, has_query = config.weights, batch.has_query
    item_latent = model.item_tower(batch.item)
    inputs, latent, level1 = batch.item, item_latent, batch.level1
    query_latent = None
    if config.use_queries:
        query = batch.query if has_query is None else batch.query[has_query]
        paired = batch.level1 if has_query is None else batch.level1[has_query]
        query_latent = model.query_tower(query)
        inputs, latent = torch.cat([batch.item, query]), torch.cat([item_latent, query_latent])
        level1 = torch.cat([batch.level1, paired if config.query_level1 == "pair" else torch.full_like(paired, ANY)])
    out = model.quantizer(latent, level1 if config.mapped else None, blocks=1 if query_latent is None else 2)
    zero = latent.new_zeros(())
    contrastive = rebuilt = zero
    if query_latent is not None and weights.contrastive > 0 and len(query_latent):
        items = len(batch.item)
        ours, theirs = (
            (query_latent, item_latent)
            if config.contrast_on == "encoder"
            else (
                out.quantized[items:],
                out.quantized[:items],
            )
        )
        pick = slice(None) if has_query is None else has_query
        contrastive = info_nce(
            ranks.gather(ours),
            ranks.gather(theirs[pick]),
            temperature=config.temperature,
            query_id=ranks.gather(batch.query_id[pick]),
            item_id=ranks.gather(batch.item_id[pick]),
            weight=ranks.gather(batch.weight[pick]) if config.pair_weights == "loss" else None,
        )
    if weights.reconstruction > 0:
        rebuilt = reconstruction(model.decoder(out.quantized), inputs)
    # The contrast is of all processes' rows already, the other two are means over this one's.
    own = weights.commitment * out.commitment + weights.reconstruction * rebuilt
    total = weights.contrastive * contrastive + own / ranks.count()
    return LossParts(total, contrastive, out.commitment, rebuilt, out.codes)


def fastest_loss(model: QuantizerModel, resident: Resident, config: QuantizerConfig) -> Callable[[Batch], LossParts]:
    """The objective as this machine computes it fastest: captured on one GPU, where every pair has a query."""
    if resident.device.type == "cuda" and ranks.count() == 1 and resident.every_pair_has_query:
        if shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang"):
            return captured_loss(model, config)
        log.warning("Without a C compiler (cc, gcc or clang) training steps are not captured, and take longer.")
    return lambda batch: training_loss(model, batch, config)


def captured_loss(model: QuantizerModel, config: QuantizerConfig, **how: Any) -> Callable[[Batch], LossParts]:
    """`training_loss` of batches of one shape, every pair with a query, as one graph, recorded once and replayed.

    On a GPU the step is some two hundred small kernels, and starting them takes longer than running them. What a call
    returns is overwritten by the next one.

    Args:
        model: initialised, in training mode.
        config: all settings.
        how: options of `torch.compile`; none are CUDA graphs.

    """
    model.quantizer.require_initialised()  # a question to the device, which has no place in a graph
    compiled = torch.compile(training_loss, fullgraph=True, dynamic=False, **(how or {"mode": "reduce-overhead"}))

    def loss(batch: Batch) -> LossParts:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return compiled(model, batch, config)

    return loss
