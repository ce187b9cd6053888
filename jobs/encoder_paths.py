"""Compare the encoder's precisions here, on the GPU if any: texts per second, and how far vectors move from fp32's.

Reads the texts of catalog. Writes nothing: the setting `encoder.precision` chooses, and is part of `encoder_version`.
"""

from __future__ import annotations

import time
from typing import Any

from jobs.errors import DataError
from jobs.home import Home

TEXTS = {"cpu": 400, "cuda": 20_000}
"""Seconds of work."""
LEAST_COSINE = 0.999


def compare(home: Home) -> dict[str, Any]:
    """`device` (cpu: one thread; cuda) and `paths`: of each precision texts_per_s, least_cosine to fp32, and advised.

    Advised is the fastest of those that keep 0.999.

    Raises:
        DataError: the catalogue is empty.

    """
    from dsirm_models.encoder import PRECISIONS, load_encoder
    from jobs.generators import device

    at, settings = device(), home.settings.encoder
    catalog = home.store.read_arrow("catalog", columns=["text_hash", "text"]).sort_by("text_hash")
    # Hashes are in no order of anything: the first are a fair sample, and always the same.
    texts = catalog["text"].to_pylist()[: TEXTS[at]]
    if not texts:
        raise DataError("There is no catalogue to measure on: import one, or run `dsirm simulate catalogue`.")
    rows: list[dict[str, Any]] = []
    exact = None
    for precision in PRECISIONS:
        encoder = load_encoder(
            settings.name, settings.max_tokens, precision=precision, batch_size=settings.batch, device=at
        )
        encoder.encode(texts[: settings.batch])  # the first pass allocates
        begun = time.perf_counter()
        vectors = encoder.encode(texts)
        seconds = time.perf_counter() - begun
        exact = vectors if exact is None else exact
        cosine = float((vectors * exact).sum(axis=1).min())
        rows.append({"precision": precision, "texts_per_s": len(texts) / seconds, "least_cosine": cosine})
    kept = [row for row in rows if row["least_cosine"] >= LEAST_COSINE]
    best = max(kept, key=lambda row: row["texts_per_s"])
    return {"encoder": settings.name, "device": at, "paths": [row | {"advised": row is best} for row in rows]}
