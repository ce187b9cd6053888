"""One training step of DSIRM's quantizer, against the same step without a quantizer and with another library's."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW
from vector_quantize_pytorch import ResidualVQ

from benchmarks.figures import Figure, alternating, save
from dsirm_models.losses import info_nce, reconstruction
from dsirm_models.quantizer_data import Batch, PairData, Resident, batch_order
from dsirm_models.quantizer_loss import fastest_loss
from dsirm_models.quantizer_model import QuantizerConfig, QuantizerModel

WIDTH, HIDDEN, DIM = 768, 256, 64
BATCH, MAPPED = 1024, 200
Loss = Callable[[Batch], Tensor]
STEPS = {"small": 12, "full": 200}


def main(size: str) -> None:
    """Measure and save."""
    shape = [WIDTH, HIDDEN, DIM]
    facts = {"shape": shape, "batch": BATCH, "device": "cpu", "threads": torch.get_num_threads()}
    rounds = 3 if size == "small" else 5
    save("train", size, steps_of(torch.device("cpu"), batch=BATCH, steps=STEPS[size], rounds=rounds), facts)


def steps_of(device: torch.device, *, batch: int, steps: int, rounds: int) -> list[Figure]:
    """Our step against the same without a quantizer, and with another library's, on data that is resident."""
    config = QuantizerConfig(
        dim=DIM, hidden=HIDDEN, codebook_sizes=(216, 512, 512), mapped_categories=MAPPED, batch_size=batch,
        max_steps=steps,
    )  # fmt: skip
    pairs = steps * batch
    data = _pairs(queries=20_000, items=20_000, pairs=pairs)
    resident = Resident(data, config, device)
    rows = [rows for _, rows in batch_order(data, config, start=0)]

    def timed(make: Callable[[QuantizerModel], Loss], extra: torch.nn.Module | None = None) -> Callable[[], None]:
        model = _model(config, resident)
        parts = [model, extra] if extra is not None else [model]
        for part in parts:
            part.to(device).train()
        weights = [weight for part in parts for weight in part.parameters()]
        optimizer = AdamW(weights, lr=1e-3, fused=True)
        loss = make(model)

        def run() -> None:
            for chosen in rows:
                total = loss(resident.batch(chosen))
                optimizer.zero_grad(set_to_none=True)
                total.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    library = ResidualVQ(
        dim=config.dim, num_quantizers=3, codebook_size=config.codebook_sizes, kmeans_init=False,
        decay=config.ema_decay, threshold_ema_dead_code=2, commitment_weight=1.0,
    )  # fmt: skip
    ours = timed(lambda model: _ours(model, resident, config))
    bare = timed(lambda model: _bare(model, config, device))
    other = timed(
        lambda model: lambda batch: _loss(model, batch, config, quantize=lambda x: _library(library, x)), library
    )
    figures = []
    for name, peer, peer_name, limit in (
        ("step, against no quantizer", bare, "towers, InfoNCE, decoder", 0.75),
        ("step, against another library", other, "vector-quantize-pytorch ResidualVQ", 1.3),
    ):
        mine, theirs = alternating(ours, peer, rounds=rounds)
        figures.append(
            Figure(
                name=name, ours=pairs / mine, peer=pairs / theirs, peer_name=peer_name, limit=limit, unit="pairs/s",
                higher_is_better=True,
            )
        )  # fmt: skip
    return figures


def _ours(model: QuantizerModel, resident: Resident, config: QuantizerConfig) -> Loss:
    step = fastest_loss(model, resident, config)
    return lambda batch: step(batch).total


def _bare(model: QuantizerModel, config: QuantizerConfig, device: torch.device) -> Loss:
    """The quantizer taken out; captured where ours is."""

    def loss(batch: Batch) -> Tensor:
        return _loss(model, batch, config, quantize=lambda x: (x, x.new_zeros(())))

    return torch.compile(loss, mode="reduce-overhead", dynamic=False) if device.type == "cuda" else loss


def _loss(
    model: QuantizerModel, batch: Batch, config: QuantizerConfig, quantize: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """The same objective around another quantizer: latents (2B, D) -> quantized (2B, D) and its commitment loss."""
    latent = torch.cat([model.item_tower(batch.item), model.query_tower(batch.query)])
    quantized, commitment = quantize(latent)
    items, queries = quantized.chunk(2)
    contrastive = info_nce(
        queries, items, temperature=config.temperature, query_id=batch.query_id, item_id=batch.item_id,
        weight=batch.weight,
    )  # fmt: skip
    rebuilt = reconstruction(model.decoder(quantized), torch.cat([batch.item, batch.query]))
    weights = config.weights
    return weights.contrastive * contrastive + weights.commitment * commitment + weights.reconstruction * rebuilt


def _library(library: ResidualVQ, latent: Tensor) -> tuple[Tensor, Tensor]:
    quantized, _, losses = library(latent.unsqueeze(0))
    return quantized.squeeze(0), losses.sum()


def _pairs(*, queries: int, items: int, pairs: int) -> PairData:
    rng = np.random.default_rng(1)

    def vectors(count: int) -> np.ndarray:
        made = rng.standard_normal((count, WIDTH), dtype=np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    return PairData(
        query_embeddings=vectors(queries),
        item_embeddings=vectors(items),
        query_index=rng.integers(queries, size=pairs, dtype=np.int32),
        item_index=rng.integers(items, size=pairs, dtype=np.int32),
        weight=np.ones(pairs, dtype=np.float32),
        # One item in ten has no mapped category.
        item_level1=np.where(rng.random(items) < 0.1, -1, rng.integers(MAPPED, size=items)).astype(np.int32),
        train=np.ones(pairs, dtype=bool),
    )


def _model(config: QuantizerConfig, resident: Resident) -> QuantizerModel:
    """A model whose codebooks lie where latents are, as after its k-means start."""
    model = QuantizerModel(in_dim=WIDTH, config=config).to(resident.device)
    with torch.no_grad():
        residual = model.item_tower(resident.item[: 2 * max(config.codebook_sizes)])
        books = []
        for size in config.codebook_sizes:
            book = residual[:size].clone()
            books.append(book)
            residual = residual[size // 2 :] * 0.5
            residual = torch.cat([residual, residual])[: 2 * max(config.codebook_sizes)]
        model.quantizer.initialise(books)
    return model


if __name__ == "__main__":
    main(sys.argv[1])
