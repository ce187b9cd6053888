"""Checkpoints of a quantizer run: model with EMA state, optimiser and the best state so far, as safetensors + JSON.

Each is an artifact directory `step-<n>` of its own, complete before the one before it is deleted, so a run killed at
any moment finds the newest complete one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from dsirm_models.artifacts import ArtifactError, read_artifact, write_artifact
from dsirm_models.quantizer_data import PairData
from dsirm_models.quantizer_model import QuantizerConfig, QuantizerModel, TrainedQuantizer

KIND = "quantizer-checkpoint"
log = logging.getLogger(__name__)


class Best(NamedTuple):
    """How far a run is and the best state it has seen."""

    step: int
    """Steps done."""
    best_step: int
    start: dict[str, float]
    """Scores before the first step."""
    best: dict[str, float]
    """Scores at `best_step`."""
    tensors: dict[str, Tensor]
    """The model's state at `best_step`."""


def data_fingerprint(data: PairData, config: QuantizerConfig, warm_start: TrainedQuantizer | None) -> str:
    """Hex digest of everything a run's result depends on; a checkpoint of another one is not gone on from."""
    digest = hashlib.blake2b(json.dumps(config.to_dict(), sort_keys=True).encode(), digest_size=16)
    for array in data:
        digest.update(str((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).data)
    if warm_start is not None:
        for name, tensor in sorted(warm_start.model.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_checkpoint(
    directory: Path, *, fingerprint: str, model: QuantizerModel, optimizer: Optimizer, best: Best
) -> None:
    """Write `step-<n>` under `directory`, then delete the older ones."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.tensors.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    config = {
        "fingerprint": fingerprint,
        "step": best.step,
        "best_step": best.best_step,
        "start": best.start,
        "best": best.best,
    }
    directory.mkdir(parents=True, exist_ok=True)
    newest = directory / f"step-{best.step:08d}"
    write_artifact(newest, kind=KIND, tensors=tensors, config=config)
    for path in directory.glob("step-*"):
        if path != newest:
            shutil.rmtree(path)


def read_checkpoint(directory: Path, *, fingerprint: str, model: QuantizerModel, optimizer: Optimizer) -> Best | None:
    """Load the newest complete checkpoint of this run into model and optimiser. None if there is none to go on from."""
    for path in sorted(directory.glob("step-*"), reverse=True):
        try:
            stored = read_artifact(path, kind=KIND)
        except ArtifactError as error:
            log.warning("Checkpoint passed over: %s", error)
            continue
        if stored.config["fingerprint"] != fingerprint:
            log.warning("Checkpoint %s is of other data or settings; training starts anew.", path)
            continue
        device = next(model.parameters()).device
        model.load_state_dict(_under(stored.tensors, "model."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(stored.tensors, "optimizer.").items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        log.info("Going on from %s.", path)
        return Best(
            step=int(stored.config["step"]),
            best_step=int(stored.config["best_step"]),
            start=stored.config["start"],
            best=stored.config["best"],
            tensors={name: tensor.to(device) for name, tensor in _under(stored.tensors, "best.").items()},
        )
    return None


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
