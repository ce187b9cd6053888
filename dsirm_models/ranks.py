"""Several training processes as one: each has a share of every batch; what concerns all rows is gathered or summed.

Started by torchrun or Spark's TorchDistributor; alone, every function here hands back what it was given. One process
and several learn the same up to the order in which floats are summed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


def join(device: torch.device) -> bool:
    """Meet the other processes of this run, where the environment says that there are any. True where there are.

    Raises:
        RuntimeError: they could not be reached.

    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return count() > 1


def leave() -> None:
    """Part from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def count() -> int:
    """Processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """This process among them, from 0; what is written is written by 0."""
    return dist.get_rank() if count() > 1 else 0


def share(rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """This process's part of a batch (B,): a block of B / processes rows.

    Raises:
        ValueError: the batch does not divide.

    """
    if len(rows) % count():
        raise ValueError(f"A batch of {len(rows)} pairs cannot be shared evenly by {count()} processes.")
    part = len(rows) // count()
    return rows[number() * part : (number() + 1) * part]


def gather(rows: Tensor, blocks: int = 1) -> Tensor:
    """(b, ...) rows of every process, in the order of one process that had them all; gradients reach the own rows only.

    Summed over processes the gradients of a loss on gathered rows are those of one process. `blocks`: into how many
    equal blocks the rows are laid out (items, then queries): blocks stay together. All processes have as many rows.
    """
    ranks = count()
    if ranks == 1:
        return rows
    if rows.dtype == torch.bool:  # no message carries single bits
        return gather(rows.to(torch.uint8), blocks).bool()
    parts = [torch.empty_like(rows) for _ in range(ranks)]
    dist.all_gather(parts, rows.detach().contiguous())
    parts[number()] = rows
    cut = [part.chunk(blocks) for part in parts]
    return torch.cat([part[block] for block in range(blocks) for part in cut])


def sum_in_place(values: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    if count() > 1:
        for value in values:
            dist.all_reduce(value)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """As `sum_in_place`, for the gradients of parameters, in one message."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
