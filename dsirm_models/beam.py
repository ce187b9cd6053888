"""Batched beam search over exactly three steps, constrained to the SIDs that exist, with the scores kept.

The papers give each query its K best SIDs (DSIRM: K = 5; CQ-SID: 20 to 100) and leave open whether decoding is
constrained. Here it always is: the probability of a level is the softmax over the *valid children of the prefix* alone,

    p(c_l | q, c_<l) = exp(logit(c_l)) / sum over children c of the prefix of exp(logit(c)),

so the SIDs of a release form a proper distribution (their probabilities sum to 1) and nothing invalid can be decoded.
`score_sids` computes the same numbers for given SIDs, so a score never depends on whether a beam found the SID.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsirm_models.sid_index import SidIndex
from schemas.sids import LEVELS, MAX_CODE, shift_for

LOGP_FLOOR = -20.0
"""What a ranker reads in place of a lower log-probability, or of none."""

State = TypeVar("State")


class Sliceable(Protocol):
    """Queries of any backend: a list of texts, an array or a tensor of embeddings."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Any: ...


Queries = TypeVar("Queries", bound=Sliceable)
QueriesIn = TypeVar("QueriesIn", bound=Sliceable, contravariant=True)


class Step(NamedTuple, Generic[State]):
    """What a scorer knows after reading W prefixes of each of B queries."""

    state: State
    """Whatever the scorer needs to go one level deeper (hidden vectors, a KV cache)."""
    logits: Tensor
    """(B, W, K_l) unnormalised scores of the next level's codes; any float type."""


class LevelScorer(Protocol[QueriesIn, State]):
    """A generator as beam search sees it. The B queries stay in place; beams are a second axis of any width W."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes per level, K_1..K_3."""
        ...

    @property
    def device(self) -> torch.device:
        """Where `parents` and `codes` are to live and where the logits come from."""
        ...

    def start(self, queries: QueriesIn) -> Step[State]:
        """Read B queries: logits (B, 1, K_1) of the first level."""
        ...

    def extend(self, state: State, parents: Tensor, codes: Tensor) -> Step[State]:
        """Append codes (B, W) int64 to the prefixes numbered by parents (B, W) int64 among those of the step before.

        Returns logits (B, W, K_l) of the next level. Called for levels 2 and 3. A state is used up by the call.
        """
        ...


class Beams(NamedTuple):
    """The K best SIDs of each of B queries, best total log-probability first, ties to the lowest packed SID."""

    codes: NDArray[np.int32]
    """(B, K, L); -1 where a beam is absent."""
    sids: NDArray[np.int64]
    """(B, K) packed; -1 where a beam is absent. Absent beams come last."""
    logps: NDArray[np.float32]
    """(B, K, L) natural log of each level's conditional probability (their sum is the SID's); -inf where absent."""
    complete: NDArray[np.bool_]
    """(B,) False for a query with fewer than K beams. It happens only where fewer than K SIDs exist at all."""


@torch.no_grad()
def beam_search(
    scorer: LevelScorer[Queries, State],
    index: SidIndex,
    queries: Queries,
    beams: int,
    *,
    width: int | None = None,
    batch_size: int | None = None,
) -> Beams:
    """The `beams` best existing SIDs of every query.

    Args:
        scorer: a generator in evaluation mode.
        index: the SIDs that exist in the release; moved to the scorer's device (move it yourself before a loop).
        queries: B queries as the scorer takes them.
        beams: K, SIDs returned per query.
        width: prefixes kept at levels 1 and 2, at least K; default K, as in the papers. Wider finds better SIDs that
            begin with a less likely prefix; as wide as there are prefixes, the result is the exact top K.
        batch_size: queries decoded at once; bounds memory, changes results by float rounding at most. By default 256,
            and on a GPU, which a small batch leaves idle, as many as make 16,384 prefixes, 1,024 at most.

    Raises:
        ValueError: K under 1, width under K, or a scorer trained for other codebook sizes than the index needs.
        FloatingPointError: the scorer returned a logit that is not finite.
    """
    width = beams if width is None else width
    if batch_size is None:
        batch_size = 256 if scorer.device.type == "cpu" else max(1, min(1024, 16_384 // max(width, 1)))
    if beams < 1 or width < beams or batch_size < 1:
        raise ValueError(
            f"Beam search needs beams >= 1, width >= beams and batch_size >= 1, "
            f"not beams={beams}, width={width}, batch_size={batch_size}."
        )
    index.check_codebook_sizes(scorer.codebook_sizes)
    index = index.to(scorer.device)
    sids = np.full((len(queries), beams), -1, dtype=np.int64)
    codes = np.full((len(queries), beams, LEVELS), -1, dtype=np.int32)
    logps = np.full((len(queries), beams, LEVELS), -np.inf, dtype=np.float32)
    for begin in range(0, len(queries), batch_size):
        rows = slice(begin, begin + batch_size)
        found_sids, found_logps = _search(scorer, index, queries[rows], beams, width)
        found = found_sids.shape[1]
        sids[rows, :found] = found_sids.cpu().numpy()
        logps[rows, :found] = found_logps.cpu().numpy()
    for level in range(LEVELS):
        shifted = sids >> shift_for(level + 1)
        codes[..., level] = np.where(sids < 0, -1, shifted & MAX_CODE)
    return Beams(codes, sids, logps, np.asarray((sids >= 0).all(axis=1)))


class Samples(NamedTuple):
    """M SIDs drawn for each of B queries from the same distribution that beam search takes the best of."""

    codes: Tensor
    """(B, M, L) int64 on the scorer's device."""
    sids: Tensor
    """(B, M) packed int64."""
    entropy: Tensor
    """(B,) nats: entropy of each level at the prefixes drawn, averaged over the M draws and summed over levels; an
    unbiased estimate of the entropy of the SID."""


@torch.no_grad()
def sample_sids(
    scorer: LevelScorer[Queries, State], index: SidIndex, queries: Queries, count: int, *, seed: Sequence[int]
) -> Samples:
    """Draw `count` existing SIDs of every query, independently, each with its probability.

    Args:
        scorer: a generator in evaluation mode.
        index: the SIDs that exist, on the scorer's device.
        queries: B queries as the scorer takes them; one batch.
        count: M.
        seed: whole numbers at least 0; the draws follow from them and the probabilities alone, on any device.

    Raises:
        ValueError: a count under 1, or a scorer of other codebook sizes than the index needs.
        FloatingPointError: the scorer returned a logit that is not finite.
    """
    if count < 1:
        raise ValueError(f"At least one SID must be drawn for a query, not {count}.")
    index.check_codebook_sizes(scorer.codebook_sizes)
    rng = np.random.default_rng(list(seed))
    state, logits = scorer.start(queries)
    batch, device = logits.shape[0], logits.device
    nodes = torch.zeros((batch, 1), dtype=torch.int64, device=device)
    parents = torch.zeros((batch, count), dtype=torch.int64, device=device)
    entropy = torch.zeros(batch, device=device)
    drawn = []
    for depth in range(LEVELS):
        logps = _child_logps(index, nodes, depth, logits)
        chance = logps.double().exp()
        entropy += torch.special.entr(chance).sum(dim=2).mean(dim=1).float()
        running = chance.cumsum(dim=2).expand(-1, count, -1).contiguous()
        total = running[:, :, -1:]
        # Below the total even after rounding, so that a code without probability is never drawn.
        point = torch.from_numpy(rng.random((batch, count, 1))).to(device) * total
        point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))
        codes = torch.searchsorted(running, point, right=True).squeeze(2)
        nodes = index.child_node(nodes.expand(-1, count), codes, depth)
        drawn.append(codes)
        if depth < LEVELS - 1:
            state, logits = scorer.extend(state, parents, codes)
            parents = torch.arange(count, device=device).expand(batch, -1)
    return Samples(torch.stack(drawn, dim=2), index.prefixes(nodes, LEVELS), entropy)


def _search(
    scorer: LevelScorer[Queries, State], index: SidIndex, queries: Queries, beams: int, width: int
) -> tuple[Tensor, Tensor]:
    """One batch -> packed SIDs (B, K') int64 and log-probabilities (B, K', L) float32, K' = min(K, number of SIDs)."""
    state, logits = scorer.start(queries)
    batch = logits.shape[0]
    # Beams are held in ascending order of their prefix until the end, so that "lowest position" means "lowest SID".
    nodes = torch.zeros((1, 1), dtype=torch.int64, device=logits.device)
    totals = torch.zeros((batch, 1), device=logits.device)
    logps = torch.zeros((batch, 1, 0), device=logits.device)
    for depth in range(LEVELS):
        level_logps = _child_logps(index, nodes, depth, logits)
        size = level_logps.shape[2]
        scores = (totals[:, :, None] + level_logps).flatten(1)
        keep = min(width if depth < LEVELS - 1 else beams, index.size(depth + 1), scores.shape[1])
        position = _top(scores, keep)
        totals = scores.gather(1, position)
        # A batch may hold fewer prefixes below its beams than `keep`: those places are absent, and stay so.
        absent = totals == -torch.inf
        parents = (position // size).masked_fill_(absent, 0)
        codes = (position % size).masked_fill_(absent, 0)
        nodes = nodes.expand(batch, -1).gather(1, parents)
        nodes = index.child_node(nodes, codes, depth).masked_fill_(absent, -1)
        chosen = level_logps.flatten(1).gather(1, position)
        logps = torch.cat([logps.gather(1, parents[:, :, None].expand(-1, -1, depth)), chosen[:, :, None]], dim=2)
        if depth < LEVELS - 1:
            state, logits = scorer.extend(state, parents, codes)
    order = totals.sort(dim=1, descending=True, stable=True).indices
    nodes = nodes.gather(1, order)
    sids = index.prefixes(nodes.clamp(min=0), LEVELS).masked_fill_(nodes < 0, -1)
    logps = logps.gather(1, order[:, :, None].expand(-1, -1, LEVELS))
    return sids, logps.masked_fill_((nodes < 0)[:, :, None], -torch.inf)


@torch.no_grad()
def score_sids(
    scorer: LevelScorer[Queries, State],
    index: SidIndex,
    queries: Queries,
    sids: NDArray[np.int64],
    *,
    batch_size: int = 256,
) -> NDArray[np.float32]:
    """Log-probability per level of given SIDs (teacher forcing), on the same scale as `beam_search`.

    Args:
        scorer: a generator in evaluation mode.
        index: the SIDs that exist in the release.
        queries: B queries as the scorer takes them.
        sids: (B,) or (B, M) packed SIDs. M SIDs of one query share the reading of the query; -1 stands for none.
        batch_size: queries scored at once.

    Returns:
        (B, L) or (B, M, L) float32, never NaN. Where a SID does not exist, its levels are finite as far as its prefix
        exists and -inf from there on, so that its sum is -inf.

    Raises:
        ValueError: as many rows as queries are needed, or a scorer of other codebook sizes than the index needs.
        FloatingPointError: the scorer returned a logit that is not finite.
    """
    if len(sids) != len(queries) or sids.ndim not in (1, 2):
        raise ValueError(f"{len(queries)} queries need SIDs (B,) or (B, M) of as many rows, not of shape {sids.shape}.")
    index.check_codebook_sizes(scorer.codebook_sizes)
    index = index.to(scorer.device)
    wide = np.ascontiguousarray(sids if sids.ndim == 2 else sids[:, None], dtype=np.int64)
    out = np.full((*wide.shape, LEVELS), -np.inf, dtype=np.float32)
    for begin in range(0, len(queries) if wide.size else 0, batch_size):
        rows = slice(begin, begin + batch_size)
        out[rows] = _score(scorer, index, queries[rows], torch.from_numpy(wide[rows]).to(scorer.device)).cpu().numpy()
    return out.reshape(*sids.shape, LEVELS)


def _score(scorer: LevelScorer[Queries, State], index: SidIndex, queries: Queries, sids: Tensor) -> Tensor:
    """One batch: SIDs (B, M) -> (B, M, L) float32."""
    state, logits = scorer.start(queries)
    nodes = torch.zeros((1, 1), dtype=torch.int64, device=sids.device)
    parents = torch.zeros_like(sids)
    levels = []
    for depth, known in enumerate(index.find_sids(sids)):
        codes = index.codes(known.clamp(min=0), depth + 1)
        logps = _child_logps(index, nodes, depth, logits)
        if depth == 0:
            logps = logps.expand(-1, sids.shape[1], -1)
        levels.append(logps.gather(2, codes[:, :, None]).squeeze(2).masked_fill_(known < 0, -torch.inf))
        nodes = known
        if depth < LEVELS - 1:
            state, logits = scorer.extend(state, parents, codes)
            parents = torch.arange(sids.shape[1], device=sids.device).expand_as(sids)
    return torch.stack(levels, dim=2)


def _child_logps(index: SidIndex, nodes: Tensor, depth: int, logits: Tensor) -> Tensor:
    """Softmax over valid children: nodes (B or 1, W), logits (B, W, K) -> (B, W, K) float32, -inf where not a child."""
    if not bool(torch.isfinite(logits).all()):
        raise FloatingPointError(
            f"The generator gave a level-{depth + 1} logit that is not finite: its scores cannot be trusted."
        )
    mask = index.child_mask(nodes, depth, logits.shape[2])
    logits = logits.float().masked_fill(~mask, -torch.inf)
    # A prefix without children (an absent beam) would give -inf - -inf = NaN: mask once more.
    return torch.log_softmax(logits, dim=2).masked_fill_(~mask, -torch.inf)


def _top(scores: Tensor, keep: int) -> Tensor:
    """Scores (B, N) -> positions (B, keep) of the best, ties to the lowest position, in ascending order of position.

    `torch.topk` promises nothing about ties, and a full stable sort costs several times as much.
    """
    threshold = scores.topk(keep, dim=1, sorted=True).values[:, -1:]
    above = scores > threshold
    tied = scores == threshold
    room = keep - above.sum(dim=1, keepdim=True, dtype=torch.int32)
    chosen = above | (tied & (tied.cumsum(dim=1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(len(scores), keep)
