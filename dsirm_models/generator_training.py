"""The optimisation loop both generator backends share: schedule, accumulation, best weights, checkpoints, resume.

A run is a function of its settings and data. Random numbers of a step (dropout, drawn examples) are seeded from
(seed, step) alone, so a checkpoint holds weights and optimiser state and no random state, and on a CPU a run that was
killed and resumed ends with exactly the weights of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dsirm_models.artifacts import Artifact, read_artifact, write_artifact

log = logging.getLogger(__name__)

CHECKPOINT_KIND = "generator-checkpoint"


class Plan(NamedTuple):
    """How to optimise; the two backends fill it from their configurations."""

    steps: int
    """Optimiser steps."""
    accumulation: int
    """Micro-batches per optimiser step."""
    learning_rate: float
    """Peak, reached after `warmup_steps`, then a cosine down to 2 % of it."""
    warmup_steps: int
    weight_decay: float
    """Decoupled (AdamW), on matrices only: biases and normalisation gains are left alone."""
    clip_norm: float
    """Largest gradient norm of a step."""
    evaluate_every: int
    """Steps between looks at the held-out pairs (the last step is always looked at)."""
    checkpoint_every: int
    """Steps between checkpoints (the last step always writes one)."""
    seed: int
    bf16: bool
    """bfloat16 autocast; on CUDA only, elsewhere it is ignored: on some CPUs it is slower than float32."""


class Evaluation(NamedTuple):
    """A look at the held-out pairs."""

    step: int
    """Optimiser steps done."""
    log_likelihood: tuple[float, ...]
    """(L,) mean log p(c_l | q, c_<l) over held-out queries, each query's pairs averaged by weight."""


class Progress(NamedTuple):
    """What `on_step` receives after each optimiser step. An exception it raises ends the run, as a kill would."""

    step: int
    """Optimiser steps done, from 1."""
    steps: int
    """Of how many."""
    loss: float
    """Training loss of the step, nats summed over the levels."""
    evaluation: Evaluation | None
    """The last look at the held-out pairs."""


class Report(NamedTuple):
    """What came of a training run."""

    steps: int
    """Optimiser steps in all, those before a resume included."""
    best_step: int
    """The step whose weights were kept: best held-out log-likelihood, or the last where nothing was held out."""
    evaluations: tuple[Evaluation, ...]
    """In order of steps."""


OnStep = Callable[[Progress], None]


def fit(
    module: nn.Module,
    *,
    plan: Plan,
    loss: Callable[[int, int], Tensor],
    evaluate: Callable[[], tuple[float, ...]] | None,
    identity: str,
    checkpoint_dir: Path | None,
    log_dir: Path | None,
    on_step: OnStep | None,
    figures: Callable[[], Mapping[str, float]] | None = None,
) -> Report:
    """Optimise the parameters of `module` that require gradients; leave the best ones in it, in evaluation mode.

    Args:
        module: what is trained, on its device.
        plan: how.
        loss: (step from 0, micro-batch from 0) -> mean loss of that micro-batch; micro-batches are of equal size.
        evaluate: () -> held-out log-likelihood per level, called in evaluation mode without gradients; None: nothing is
            held out and the last weights are kept.
        identity: of settings and data; a checkpoint of another identity is refused.
        checkpoint_dir: where checkpoints go and are found again; None for none. Only the newest is kept; the caller
            removes the folder once the artifact is written.
        log_dir: TensorBoard folder; None for none.
        on_step: called after each optimiser step.
        figures: called after each optimiser step: further figures of it for TensorBoard, by name.

    Raises:
        ValueError: the folder holds a checkpoint of another run.
        FloatingPointError: the loss is not finite.
    """
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    device = next(iter(trained.values())).device
    matrices = [parameter for parameter in trained.values() if parameter.ndim >= 2]
    vectors = [parameter for parameter in trained.values() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, plan.learning_rate, betas=(0.9, 0.98), fused=True)
    best: dict[str, Tensor] = {}
    evaluations: list[Evaluation] = []
    done = best_step = 0

    found = _latest(checkpoint_dir, identity) if checkpoint_dir else None
    if found is not None:
        _load_into(trained, found.tensors, "model.")
        _restore_optimizer(optimizer, found.tensors)
        best = {name: found.tensors[f"best.{name}"] for name in trained if f"best.{name}" in found.tensors}
        evaluations = [Evaluation(step, tuple(levels)) for step, levels in found.config["evaluations"]]
        done, best_step = found.config["step"], found.config["best_step"]
        log.info("generator training resumes after step %d of %d", done, plan.steps)

    writer = _writer(log_dir, done)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        for step in range(done, plan.steps):
            torch.manual_seed(int(np.random.SeedSequence([plan.seed, step]).generate_state(1, np.uint64)[0]))
            rate = _rate(plan, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            module.train()
            total = 0.0
            for micro in range(plan.accumulation):
                with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16 and device.type == "cuda"):
                    part = loss(step, micro) / plan.accumulation
                part.backward()  # type: ignore[no-untyped-call]
                total += float(part.detach())
            if not math.isfinite(total):
                raise FloatingPointError(
                    f"The generator's loss is {total} at step {step + 1}: lower the learning rate or check the inputs."
                )
            nn.utils.clip_grad_norm_(list(trained.values()), plan.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            last = done == plan.steps
            if evaluate is not None and (last or done % plan.evaluate_every == 0):
                module.eval()
                with torch.no_grad():
                    evaluations.append(Evaluation(done, evaluate()))
                log.info("generator step %d: held-out log-likelihood %s", done, evaluations[-1].log_likelihood)
                if _is_best(evaluations):
                    best_step = done
                    best = {name: parameter.detach().cpu().clone() for name, parameter in trained.items()}
                for level, value in enumerate(evaluations[-1].log_likelihood, start=1) if writer else ():
                    writer.add_scalar(f"held_out/level_{level}", value, done)
            if writer:
                writer.add_scalar("train/loss", total, done)
                writer.add_scalar("train/learning_rate", rate, done)
                for name, value in figures().items() if figures else ():
                    writer.add_scalar(name, value, done)
            if checkpoint_dir and (last or done % plan.checkpoint_every == 0):
                state = {"identity": identity, "step": done, "best_step": best_step, "evaluations": evaluations}
                _save(checkpoint_dir, trained, optimizer, best, state)
            if on_step is not None:
                on_step(Progress(done, plan.steps, total, evaluations[-1] if evaluations else None))
    if writer:
        writer.close()
    if best:
        _load_into(trained, best, "")
    module.eval()
    return Report(plan.steps, best_step if best else done, tuple(evaluations))


def run_identity(**parts: Any) -> str:
    """Hex sha256 naming a run by everything that decides its outcome (JSON values)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _rate(plan: Plan, step: int) -> float:
    """Learning rate of a step (from 0): linear warm-up, cosine decay to 2 %."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    return plan.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / plan.steps)))


def _is_best(evaluations: list[Evaluation]) -> bool:
    """Is the last evaluation better than every one before? A tie goes to the earlier."""
    *before, last = (sum(evaluation.log_likelihood) for evaluation in evaluations)
    return not before or last > max(before)


def _writer(log_dir: Path | None, done: int) -> Any:
    """A TensorBoard writer that drops what a killed run logged after its last checkpoint."""
    if log_dir is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(log_dir), purge_step=done + 1)


def _save(
    directory: Path,
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    state: dict[str, Any],
) -> None:
    """Write the checkpoint of a step whole, then drop the older ones: a kill at any moment leaves a complete one."""
    tensors: dict[str, Tensor] = {f"model.{name}": parameter for name, parameter in trained.items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for position, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{position}.{slot}": value for slot, value in slots.items()}
    target = directory / f"step-{state['step']:08d}"
    write_artifact(target, kind=CHECKPOINT_KIND, tensors=tensors, config=state)
    for path in directory.iterdir():
        if path != target and path.name.lstrip(".").startswith("step-"):
            shutil.rmtree(path)


def _latest(directory: Path, identity: str) -> Artifact | None:
    """The newest complete checkpoint, or None. Raises ValueError for one of another run."""
    complete = sorted(path for path in directory.glob("step-*") if (path / "manifest.json").is_file())
    if not complete:
        return None
    found = read_artifact(complete[-1], kind=CHECKPOINT_KIND)
    if found.config["identity"] != identity:
        raise ValueError(
            f"{complete[-1]} is a checkpoint of a run with other settings or data: continuing it would mix two models. "
            "Give this run a folder of its own, or delete that one."
        )
    return found


def _load_into(trained: dict[str, nn.Parameter], tensors: dict[str, Tensor], prefix: str) -> None:
    """Copy named tensors over the parameters, in place."""
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"{prefix}{name}"])


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put saved AdamW moments and step counts back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, position, slot = name.split(".")
            state.setdefault(int(position), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
