"""Loading a generator without knowing which backend wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from dsirm_models import causal_lm_generator, embedded_generator
from dsirm_models.artifacts import read_manifest
from dsirm_models.beam import LevelScorer


class Generator(LevelScorer[Any, Any], Protocol):
    """What both backends are to a caller. `backend` tells what it reads: "embedded" vectors, "causal_lm" texts."""

    backend: str
    meta: dict[str, Any]

    def save(self, directory: Path) -> None:
        """Write the artifact, whole or not at all."""
        ...


def load_generator(directory: Path, *, device: torch.device | str = "cpu", base: str | Path | None = None) -> Generator:
    """Load an artifact of kind "generator", in evaluation mode.

    Args:
        directory: the artifact.
        device: where to put it.
        base: for a LoRA artifact: where the base weights lie now, if not where they lay in training.

    Raises:
        ArtifactError: missing, half-written, damaged or of another kind.
        ValueError: a backend that this code does not know, or other base weights than the adapter was trained on.
        OSError: the base weights of a LoRA artifact are not on this machine.
    """
    backend = read_manifest(directory, kind="generator")["backend"]
    if backend == embedded_generator.BACKEND:
        return embedded_generator.EmbeddedGenerator.load(directory, device=device)
    if backend == causal_lm_generator.BACKEND:
        # transformers takes seconds to import.
        from dsirm_models.causal_lm_loading import load_causal_lm

        return load_causal_lm(directory, base=base, device=device)
    raise ValueError(f"{directory} was written by a generator backend {backend!r} that this version does not know.")
