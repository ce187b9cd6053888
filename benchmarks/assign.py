"""Codes from vectors: our quantizer against plain torch and faiss, and the Spark job against the bare loop."""

from __future__ import annotations

import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.figures import Figure, alternating, one_thread, save
from dsirm_models.assign import assign_codes
from dsirm_models.quantizer import ResidualQuantizer
from dsirm_models.quantizer_model import QuantizerConfig, QuantizerModel, TrainedQuantizer

SIZES, DIM, WIDTH = (256, 512, 512), 64, 768
ROWS = {"small": 200_000, "full": 2_000_000}
CHUNK = 1024


def latents(rows: int, seed: int) -> NDArray[np.float32]:
    """(rows, 64) unit vectors around a thousand centres, as a trained tower gives them."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((1000, DIM), dtype=np.float32)
    found = centres[rng.integers(1000, size=rows)] + 0.5 * rng.standard_normal((rows, DIM), dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def main(size: str) -> None:
    """Measure and save."""
    rows = ROWS[size]
    x = latents(rows, seed=1)
    coder = _trained(x)
    quantizer, books = _quantizer(coder)
    with one_thread():
        figures = _latents(x, quantizer, books, coder)
    figures.append(_spark(size))
    save("assign", size, figures, {"rows": rows, "job_rows": rows // 2, "codebooks": SIZES, "dim": DIM})


def _trained(x: NDArray[np.float32]) -> faiss.ResidualQuantizer:
    bits = faiss.UInt64Vector()
    for size in SIZES:
        bits.push_back(int(np.log2(size)))
    coder = faiss.ResidualQuantizer(DIM, bits)
    # One beam: the greedy search that everyone else here does.
    coder.max_beam_size = 1
    coder.train_type = faiss.ResidualQuantizer.Train_default
    coder.cp.niter = 5
    coder.train(np.ascontiguousarray(x[:50_000]))
    return coder


def _quantizer(coder: faiss.ResidualQuantizer) -> tuple[ResidualQuantizer, list[Tensor]]:
    flat = faiss.vector_to_array(coder.codebooks).reshape(-1, DIM)
    edges = np.cumsum([0, *SIZES])
    books = [torch.from_numpy(flat[a:b].copy()) for a, b in pairwise(edges)]
    quantizer = ResidualQuantizer(dim=DIM, codebook_sizes=SIZES).eval()
    quantizer.initialise(books)
    return quantizer, books


@torch.no_grad()
def _latents(
    x: NDArray[np.float32], quantizer: ResidualQuantizer, books: list[Tensor], coder: faiss.ResidualQuantizer
) -> list[Figure]:
    rows = torch.from_numpy(x)
    biases = [book.square().sum(dim=1) * 0.5 for book in books]

    def ours() -> Tensor:
        return torch.cat([quantizer(part).codes for part in rows.split(CHUNK)])

    def plain() -> Tensor:
        out = []
        for part in rows.split(CHUNK):
            residual, codes = part, []
            for book, bias in zip(books, biases, strict=True):
                code = torch.addmm(bias, residual, book.T, alpha=-1.0).argmin(dim=1)
                residual = residual - book[code]
                codes.append(code)
            out.append(torch.stack(codes, dim=1))
        return torch.cat(out)

    def flat() -> NDArray[np.uint8]:
        return coder.compute_codes(x)

    assert bool((ours() == plain()).float().mean() > 0.9999)
    agree = float((torch.from_numpy(_unpacked(flat())) == ours()).all(dim=1).float().mean())
    assert agree > 0.999, agree
    seconds, of_plain = alternating(ours, plain)
    again, of_faiss = alternating(ours, flat)
    rate = {"unit": "rows/s", "higher_is_better": True}
    note = f"One thread on either side. Same codes for {agree:.2%} of the rows; the others are ties in float32."
    return [
        Figure(
            name="codes from latents, against torch", ours=len(x) / seconds, peer=len(x) / of_plain,
            peer_name="torch addmm + argmin", limit=1.0, note="One thread on either side.", **rate,
        ),
        Figure(
            name="codes from latents, against faiss", ours=len(x) / again, peer=len(x) / of_faiss,
            peer_name="faiss.ResidualQuantizer, one beam", limit=0.65, note=note, **rate,
        ),
    ]  # fmt: skip


def _unpacked(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Faiss packs codes bit by bit, lowest first."""
    bits = np.unpackbits(codes, axis=1, bitorder="little").astype(np.int64)
    edges = np.cumsum([0, *(int(np.log2(size)) for size in SIZES)])
    parts = [bits[:, a:b] @ (1 << np.arange(b - a)) for a, b in pairwise(edges)]
    return np.stack(parts, axis=1)


def _spark(size: str) -> Figure:
    """The job's Spark part from stored vectors, against one call over the same vectors in memory."""
    from jobs.session import start_session
    from pipelines.assign import assign_items

    rows = ROWS[size] // 2
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((rows, WIDTH), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    model = QuantizerModel(in_dim=WIDTH, config=QuantizerConfig(codebook_sizes=SIZES, dim=DIM))
    start = [torch.from_numpy(latents(count, seed=level) / 2**level) for level, count in enumerate(SIZES)]
    model.quantizer.initialise(start)
    trained = TrainedQuantizer(model=model, config=QuantizerConfig(codebook_sizes=SIZES, dim=DIM))
    with tempfile.TemporaryDirectory() as folder:
        ids = np.arange(rows)
        items = {"item_id": ids.astype(str), "item_hash": ids, "category": ["all"] * rows, "text_hash": ids}
        pq.write_table(pa.table(items), Path(folder) / "items.parquet")
        embedding = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), WIDTH).cast(pa.list_(pa.float32()))
        stored = pa.table({"text_hash": ids, "embedding": embedding})
        pq.write_table(stored, Path(folder) / "vectors.parquet", row_group_size=rows // 8)
        spark = start_session({}, app="dsirm-bench")
        shared = spark.sparkContext.broadcast(trained)

        def assign(
            batch: NDArray[np.float32], level1: NDArray[np.int32], _: NDArray[np.int64]
        ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32], NDArray[np.str_]]:
            torch.set_num_threads(1)
            found = assign_codes(shared.value, batch, level1)
            return found.codes, found.sid, found.residual_norm, np.full(len(batch), "nearest")

        def job() -> None:
            read = spark.read.parquet
            frame = assign_items(
                read(f"{folder}/items.parquet"), read(f"{folder}/vectors.parquet"), {}, assign, width=WIDTH
            )
            frame.write.format("noop").mode("overwrite").save()

        seconds, loop = alternating(job, lambda: assign_codes(trained, vectors), rounds=3)
        spark.stop()
    return Figure(
        name="Spark job from stored vectors", ours=seconds, peer=loop, peer_name="assign_codes over an array",
        unit=f"s for {rows:,} rows of {WIDTH}", limit=1.5,
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
