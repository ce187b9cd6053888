"""What one GPU does: the captured training step, constrained beams, titles, and a language model of 0.6B weights.

Figures of the language model are rates, for the sizing table of docs/scaling.md; its weights are random, of the shape
of Qwen3-0.6B. Needs a GPU and little else: no Spark, no download.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.encode import on_gpu
from benchmarks.figures import Figure, save
from benchmarks.generate import PROMPT, SIZES, WORDS, decoding, random_sids, save_base
from benchmarks.train import DIM, HIDDEN, WIDTH, steps_of
from dsirm_models.beam import beam_search
from dsirm_models.causal_lm_loading import load_causal_lm
from dsirm_models.eg_grpo_data import ACTED, AlignConfig, RewardData
from dsirm_models.generator_data import TextData
from dsirm_models.generator_training import Progress
from dsirm_models.sid_index import SidIndex
from dsirm_models.train_causal_lm import CausalLMConfig, train_causal_lm
from dsirm_models.train_eg_grpo import train_eg_grpo

GOAL = 1_000_000
"""Pairs a second of the quantizer's training."""
BATCH = 8192
SIDS = 1_100_000
TITLES = {"small": 5_000, "full": 40_000}
QUERY_TOKENS, LM_BATCH = 18, 128
"""Twenty tokens a prompt with the two words around the query."""
ALIGN = AlignConfig(steps=6, accumulation=16)
"""The numbers of the profile `cqsid`."""
QWEN3 = {
    "rows": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip


def main(size: str) -> None:
    """Measure and save."""
    if not torch.cuda.is_available():
        print("Skipped: there is no GPU here.")  # noqa: T201
        return
    facts = {"shape": [WIDTH, HIDDEN, DIM], "batch": BATCH, "device": "cuda", "torch": torch.__version__}
    figures: list[Figure] = []
    for some in _measured(torch.device("cuda"), size):
        figures += some
        save("gpu", size, figures, facts)


def _measured(device: torch.device, size: str) -> Iterator[list[Figure]]:
    steps = steps_of(device, batch=BATCH, steps=50 if size == "small" else 200, rounds=5)
    goal = Figure(
        name="step, against the goal", ours=steps[0].ours, peer=None, peer_name="absolute", unit="pairs/s",
        limit=GOAL, higher_is_better=True,
    )  # fmt: skip
    yield [goal, *steps]
    yield [decoding(device, queries=32, sids=SIDS)]
    yield on_gpu(TITLES[size])
    yield _language_model(device, size)


def _language_model(device: torch.device, size: str) -> list[Figure]:
    sids = random_sids(200_000)
    rng = np.random.default_rng(4)
    queries = 20_000
    data = TextData(
        texts=[" ".join(words) for words in rng.choice(WORDS, (queries, QUERY_TOKENS))],
        query_index=rng.integers(queries, size=len(sids)),
        sids=sids,
        weight=np.ones(len(sids)),
        train=np.ones(len(sids), dtype=np.bool_),
    )
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_base(folder / "base", **QWEN3)
        for kind in ("lora", "full"):
            rate, peak = _finetune(data, folder, kind, device, steps=20 if size == "small" else 60)
            note = f"{QUERY_TOKENS + 2} tokens and a SID, batch {LM_BATCH}; bfloat16"
            figures.append(_rate(f"fine-tuning 0.6B weights, {kind}", rate, "pairs/s", note, peak))
        for beams in (5, 50):
            rate, peak = _predict(folder / "generator", data.texts[:8192], beams, device)
            note = f"Prompts of {QUERY_TOKENS + 2} tokens; bfloat16"
            figures.append(_rate(f"SIDs of queries by 0.6B weights, {beams} beams", rate, "queries/s", note, peak))
        rate, peak = _align(data, folder, device)
        note = (
            f"{ALIGN.requests_per_step} requests of {ALIGN.group_size} SIDs and {ALIGN.experts} experts a step, in "
            f"{ALIGN.accumulation} parts; a reference beside the policy; float32"
        )
        figures.append(_rate("aligning 0.6B weights", rate, "requests/s", note, peak))
    return figures


def _finetune(data: TextData, folder: Path, kind: str, device: torch.device, *, steps: int) -> tuple[float, float]:
    """Pairs a second after the first ten steps, and GPU memory in GB; the last generator stays in the folder."""
    config = CausalLMConfig(finetuning=kind, steps=steps, batch_size=LM_BATCH, prompt=PROMPT)  # type: ignore[arg-type]
    seen = _Steps()
    torch.cuda.reset_peak_memory_stats()
    trained = train_causal_lm(
        data, base=folder / "base", codebook_sizes=SIZES, config=config, device=device, on_step=seen
    )
    trained.generator.save(folder / "generator")
    rate = LM_BATCH * (steps - 10) / seen.seconds(10, steps)
    return rate, torch.cuda.max_memory_allocated() / 1e9


def _align(data: TextData, folder: Path, device: torch.device) -> tuple[float, float]:
    """Requests a second of EG-GRPO after two steps, and GPU memory in GB."""
    table = RewardData(data.texts, data.query_index, data.sids, np.full(len(data.sids), ACTED))
    seen = _Steps()
    torch.cuda.reset_peak_memory_stats()
    index = SidIndex(data.sids)
    train_eg_grpo(table, start=folder / "generator", index=index, config=ALIGN, device=device, on_step=seen)
    rate = ALIGN.requests_per_step * (ALIGN.steps - 2) / seen.seconds(2, ALIGN.steps)
    return rate, torch.cuda.max_memory_allocated() / 1e9


class _Steps:
    """When each step ended."""

    def __init__(self) -> None:
        self.ended: dict[int, float] = {}

    def __call__(self, progress: Progress) -> None:
        torch.cuda.synchronize()
        self.ended[progress.step] = time.perf_counter()

    def seconds(self, first: int, last: int) -> float:
        return self.ended[last] - self.ended[first]


def _predict(generator: Path, texts: list[str], beams: int, device: torch.device) -> tuple[float, float]:
    """Queries a second in bfloat16, and GPU memory in GB."""
    model = load_causal_lm(generator, device=device)
    index = SidIndex(random_sids(SIDS)).to(device)
    torch.cuda.reset_peak_memory_stats()
    beam_search(model, index, texts, beams)
    torch.cuda.synchronize()
    begun = time.perf_counter()
    found = beam_search(model, index, texts, beams)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    assert found.complete.all() and bool(index.contains(torch.from_numpy(found.sids).to(device)).all())
    return len(texts) / seconds, torch.cuda.max_memory_allocated() / 1e9


def _rate(name: str, rate: float, unit: str, note: str, peak: float) -> Figure:
    return Figure(
        name=name, ours=rate, peer=None, peer_name="a rate", unit=unit, limit=None, higher_is_better=True,
        note=f"{note}; {peak:.1f} GB of the GPU.",
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
