"""What EG-GRPO learns from: the reward table, which requests a step visits, and which true SIDs join a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dsirm_models.generator_data import Asked
from dsirm_models.sid_index import SidIndex

ACTED, EXPOSED, VALID = 1.0, 0.5, 0.1
"""Rewards: bought or clicked, only exposed, any other existing SID. One that does not exist earns 0."""


class RewardData(NamedTuple):
    """R entries of a reward table over Q requests."""

    inputs: NDArray[np.float32] | Sequence[str | Asked]
    """Q requests as the backend reads them: vectors (Q, D) or (Q, D + C), or texts."""
    request: NDArray[np.int64]
    """(R,) position of the entry's request in `inputs`."""
    sids: NDArray[np.int64]
    """(R,) packed SID, as generators emit it."""
    reward: NDArray[np.floating]
    """(R,) `ACTED` or `EXPOSED`. Of several entries of a (request, SID) the highest counts: the first match of the
    paper's order."""


@dataclass(frozen=True)
class AlignConfig:
    """Settings of EG-GRPO; the defaults are the paper's where it says.

    Raises:
        ValueError: when built, everything out of range at once.
    """

    steps: int = 1000
    requests_per_step: int = 64
    """Times `group_size` = 512 rollouts a step."""
    accumulation: int = 1
    """Micro-batches that a step is cut into; must divide `requests_per_step`."""
    group_size: int = 8
    experts: int = 2
    """True SIDs that join a group, K; a request with fewer gives what it has. 0 is plain GRPO."""
    updates: int = 1
    """Optimiser steps on one set of rollouts. With one, the ratio is 1 at every gradient and nothing is clipped."""
    learning_rate: float = 1e-6
    clip: float = 0.2
    kl: float = 1.0
    """Weight of the KL to the start (the stage-3 model); 0: none."""
    drop_flat: bool = False
    """Leave groups whose rewards are all alike out of the mean of the loss, rather than count them as zeros."""
    correct_experts: bool = False
    """Weigh experts by their truncated importance; see `eg_grpo.expert_weights`."""
    clip_norm: float = 1.0
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        whole = ("steps", "requests_per_step", "accumulation", "group_size", "updates", "checkpoint_every")
        problems = [
            f"{name} must be at least 1, not {getattr(self, name)}" for name in whole if getattr(self, name) < 1
        ]
        if self.experts < 0 or self.seed < 0 or self.kl < 0:
            problems.append(f"experts, seed and kl must not be negative: {self.experts}, {self.seed}, {self.kl}")
        if self.group_size + self.experts < 2:
            problems.append("a group of one has nothing to be compared with")
        if not problems and self.requests_per_step % self.accumulation:
            problems.append(f"accumulation {self.accumulation} must divide requests_per_step {self.requests_per_step}")
        if not problems and self.checkpoint_every % self.updates:
            problems.append(f"updates {self.updates} must divide checkpoint_every {self.checkpoint_every}")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and 0 < self.clip < 1):
            problems.append("learning_rate and clip_norm must be positive, clip in (0, 1)")
        if problems:
            raise ValueError("Impossible settings for EG-GRPO: " + "; ".join(problems) + ".")


class Table(NamedTuple):
    """The reward table, ascending by request and SID, each pair once."""

    request: NDArray[np.int64]
    sids: NDArray[np.int64]
    reward: NDArray[np.float64]
    trained: NDArray[np.int64]
    """Requests that have an entry, ascending."""


def reward_table(data: RewardData, index: SidIndex) -> Table:
    """The entries whose SID exists, in order, each (request, SID) once with its highest reward.

    Raises:
        ValueError: everything wrong with the entries at once, or none whose SID exists.
    """
    request, sids, reward = data.request, data.sids, np.asarray(data.reward, dtype=np.float64)
    problems = [
        f"{name} has shape {array.shape}, not ({len(request)},)"
        for name, array in (("sids", sids), ("reward", reward))
        if array.shape != (len(request),)
    ]
    if len(request) and (request.min() < 0 or request.max() >= len(data.inputs)):
        problems.append(f"request reaches outside 0..{len(data.inputs) - 1}")
    if not np.isin(reward, (ACTED, EXPOSED)).all():
        problems.append(f"reward must be {ACTED} or {EXPOSED}")
    if problems:
        raise ValueError("Cannot align a generator with this reward table: " + "; ".join(problems) + ".")
    # A SID that nobody can generate any more is no lesson.
    known = index.contains(torch.from_numpy(np.ascontiguousarray(sids)).to(index.device)).cpu().numpy()
    request, sids, reward = request[known], sids[known], reward[known]
    if not len(request):
        raise ValueError("Cannot align a generator: no entry of the reward table has a SID that exists.")
    order = np.lexsort((-reward, sids, request))
    request, sids, reward = request[order], sids[order], reward[order]
    first = np.ones(len(request), dtype=np.bool_)
    first[1:] = (request[1:] != request[:-1]) | (sids[1:] != sids[:-1])
    return Table(request[first], sids[first], reward[first], np.unique(request))


def draw_requests(table: Table, config: AlignConfig, rollout: int, micro: int) -> NDArray[np.int64]:
    """The requests of one micro-batch of a rollout: a fresh permutation of all each epoch."""
    size, count = config.requests_per_step, len(table.trained)
    place = np.arange(rollout * size, (rollout + 1) * size)
    drawn = np.empty(size, dtype=np.int64)
    for epoch in np.unique(place // count):
        inside = place // count == epoch
        drawn[inside] = np.random.default_rng([config.seed, 2, int(epoch)]).permutation(count)[place[inside] % count]
    part = size // config.accumulation
    return table.trained[drawn[micro * part : (micro + 1) * part]]


def draw_experts(
    table: Table, rows: NDArray[np.int64], count: int, seed: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(B, K) SIDs drawn without repetition from each request's entries, -1 where it has fewer; (B,) entries it has."""
    begin, end = np.searchsorted(table.request, rows), np.searchsorted(table.request, rows, side="right")
    rng = np.random.default_rng(list(seed))
    out = np.full((len(rows), count), -1, dtype=np.int64)
    for row, (low, high) in enumerate(zip(begin, end, strict=True)):
        chosen = rng.permutation(high - low)[:count] + low
        out[row, : len(chosen)] = table.sids[chosen]
    return out, end - begin
