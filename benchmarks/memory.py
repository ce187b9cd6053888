"""Memory of what must fit: the trainer over 80M pairs, and the generator's constraint over 20M SIDs."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, apart, save
from schemas.sids import BITS

PAIRS = {"small": 8_000_000, "full": 80_000_000}
SIDS = {"small": 2_000_000, "full": 20_000_000}
WIDTH = 128


def main(size: str) -> None:
    """Measure, each in a process of its own, and save."""
    pairs, sids = PAIRS[size], SIDS[size]
    figures = [
        Figure(
            name=f"training on {pairs:,} pairs, host memory", ours=apart(_train, pairs).memory_gb, peer=None,
            peer_name="absolute, torch and this process included", unit="GB",
            limit=4.0 if size == "full" else None, note=f"{pairs // 40:,} items and as many queries, 128 wide.",
        ),
        Figure(
            name=f"constraint over {sids:,} SIDs, arrays", ours=_bytes(sids) / 1e9, peer=None, peer_name="absolute",
            unit="GB", limit=1.0,
        ),
    ]  # fmt: skip
    save("memory", size, figures)


def _train(pairs: int) -> None:
    from dsirm_models.quantizer_data import PairData
    from dsirm_models.quantizer_model import QuantizerConfig
    from dsirm_models.train_quantizer import train_quantizer

    rng = np.random.default_rng(1)
    texts = pairs // 40

    def vectors() -> np.ndarray:
        made = rng.standard_normal((texts, WIDTH), dtype=np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made

    train = np.ones(pairs, dtype=bool)
    train[::20] = False
    data = PairData(
        query_embeddings=vectors(),
        item_embeddings=vectors(),
        query_index=rng.integers(texts, size=pairs, dtype=np.int32),
        item_index=rng.integers(texts, size=pairs, dtype=np.int32),
        weight=np.ones(pairs, dtype=np.float32),
        item_level1=rng.integers(-1, 200, size=texts, dtype=np.int32),
        train=train,
    )
    # Draws by weight, as the job trains.
    config = QuantizerConfig(
        mapped_categories=200,
        pair_weights="sample",
        batch_size=1024,
        max_steps=20,
        eval_every=20,
        checkpoint_every=20,
    )
    with tempfile.TemporaryDirectory() as folder:
        train_quantizer(data=data, config=config, checkpoint_dir=Path(folder), device="cpu")


def _bytes(count: int) -> int:
    from dsirm_models.sid_index import SidIndex

    rng = np.random.default_rng(2)
    codes = [rng.integers(size, size=count, dtype=np.int64) for size in (2048, 1024, 1024)]
    return SidIndex(codes[0] << 2 * BITS | codes[1] << BITS | codes[2]).nbytes


if __name__ == "__main__":
    main(sys.argv[1])
