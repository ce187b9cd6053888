"""The small generator: frozen query embedding -> SID, level by level, without a language model.

    h   = trunk(q)                                    residual MLP on the encoder's vector
    z_l = block_l(h * (1 + gate_l(e)) + e),           e = sum over j < l of E_j[c_j]
    p(c_l | q, c_<l) = softmax(V_l norm(z_l) + b_l)

With a user (CQ-SID stage 3) the trunk reads q + W2 gelu(W1 u), where u describes who asks (`jobs/requests.py`). W1 and
W2 have no bias and W2 starts at zero: a query without a user, u = 0, is read as if there were no such layer, always,
and one with a user too before the layer learned anything.

It plays the part of the papers' fine-tuned LLM (DSIRM, query side) where none can be had: a few MB, no download,
trained in about two minutes on one core. The query is read once; going a level deeper costs one block per beam.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dsirm_models.artifacts import read_artifact, write_artifact
from dsirm_models.beam import Step
from dsirm_models.sid_index import SidIndex
from schemas.sids import BITS, LEVELS, MAX_CODE

BACKEND = "embedded"


class EmbeddedState(NamedTuple):
    """Where decoding stands: B queries, W prefixes each, l codes read."""

    query: Tensor
    """(B, H) trunk output."""
    prefix: Tensor
    """(B, W, H) sum of the code embeddings read so far."""
    depth: int
    """Codes read, l."""


class EmbeddedGenerator(nn.Module):
    """Autoregressive SID decoder over a frozen query embedding. A `LevelScorer` whose queries are vectors (B, D)."""

    backend = BACKEND

    def __init__(
        self,
        *,
        embedding_dim: int,
        codebook_sizes: tuple[int, ...],
        hidden: int = 256,
        blocks: int = 2,
        expansion: int = 2,
        dropout: float = 0.2,
        context: int = 0,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Weights come from torch's global random state.

        Args:
            embedding_dim: D of the query vectors, which are expected to be of unit length.
            context: C, numbers that describe who asks; 0: the generator knows no users.
            codebook_sizes: codes per level.
            hidden: H.
            blocks: residual blocks in the trunk; each level adds one of its own.
            expansion: inner width of a block, in multiples of H.
            dropout: of every block and before every head.
            meta: free JSON values kept with the artifact (codebook_version, encoder_version, ...).

        Raises:
            ValueError: a size or rate out of range, or not three levels.
        """
        super().__init__()
        if len(codebook_sizes) != LEVELS or not all(1 <= size <= MAX_CODE + 1 for size in codebook_sizes):
            raise ValueError(f"A generator needs {LEVELS} codebook sizes of 1..{MAX_CODE + 1}, not {codebook_sizes}.")
        if min(embedding_dim, hidden, expansion) < 1 or min(blocks, context) < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "embedding_dim, hidden and expansion are at least 1, blocks and context at least 0, dropout in [0, 1)."
            )
        self.codebook_sizes = tuple(codebook_sizes)
        self.meta: dict[str, Any] = dict(meta or {})
        self.sizes = {
            "embedding_dim": embedding_dim,
            "hidden": hidden,
            "blocks": blocks,
            "expansion": expansion,
            "dropout": dropout,
            "context": context,
        }
        self.embedding_dim = embedding_dim
        self.context = context
        self.read = nn.Linear(embedding_dim, hidden)
        self.trunk = nn.Sequential(*(_Block(hidden, hidden * expansion, dropout) for _ in range(blocks)))
        self.code_embeddings = nn.ModuleList(nn.Embedding(size, hidden) for size in codebook_sizes[:-1])
        self.gates = nn.ModuleList(nn.Linear(hidden, hidden) for _ in codebook_sizes[:-1])
        self.levels = nn.ModuleList(_Block(hidden, hidden * expansion, dropout) for _ in codebook_sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in codebook_sizes)
        self.heads = nn.ModuleList(nn.Linear(hidden, size) for size in codebook_sizes)
        self.dropout = nn.Dropout(dropout)
        for embedding in self.code_embeddings:
            nn.init.normal_(embedding.weight, std=0.5)  # type: ignore[arg-type]
        # Last, so that the weights before are drawn alike with and without it.
        self.who = _Who(context, hidden) if context else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.read.weight.device

    def encode(self, queries: Tensor) -> Tensor:
        """Query vectors (B, D), or with who asks beside them (B, D + C) -> trunk output (B, H).

        Raises:
            ValueError: vectors of another width.
        """
        width = self.embedding_dim
        if queries.ndim != 2 or queries.shape[1] not in (width, width + self.context):
            known = f" or (B, {width + self.context}) with a user" if self.context else ""
            raise ValueError(f"Queries are vectors (B, {width}){known}, not {tuple(queries.shape)}.")
        # Components of a unit vector shrink with D; scaled, they have the variance that weights are initialised for.
        read = self.read(queries[:, :width] * width**0.5)
        if self.who is not None and queries.shape[1] > width:
            read = read + self.who(queries[:, width:])
        hidden: Tensor = self.trunk(read)
        return hidden

    def level_logits(self, query: Tensor, prefix: Tensor | None, depth: int) -> Tensor:
        """Trunk output (..., H) and the sum of `depth` code embeddings (..., H; None at depth 0) -> logits (..., K)."""
        mixed = query if prefix is None else query * (1 + self.gates[depth - 1](prefix)) + prefix
        logits: Tensor = self.heads[depth](self.dropout(self.norms[depth](self.levels[depth](mixed))))
        return logits

    def log_likelihood(self, queries: Tensor, targets: Tensor, index: SidIndex | None) -> Tensor:
        """Log p(c_l | q, c_<l) of given SIDs, differentiable.

        Args:
            queries: (B, D) or (B, D + C).
            targets: (B, M, L) codes; every SID exists in `index`.
            index: the softmax is over the valid children of each prefix, as in decoding; None: over all codes.

        Returns:
            (B, M, L)
        """
        hidden = self.encode(queries)[:, None]
        prefix: Tensor | None = None
        nodes = torch.zeros((1, 1), dtype=torch.int64, device=hidden.device)
        packed = torch.zeros_like(targets[..., 0])
        out = []
        for depth in range(LEVELS):
            logits = self.level_logits(hidden, prefix, depth)
            code = targets[..., depth]
            if index is not None:
                mask = index.child_mask(nodes, depth, logits.shape[-1])
                # Not -inf: its gradient through the softmax would be NaN where a row has no finite entry.
                logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
                packed = packed << BITS | code
                nodes = index.find(packed, depth + 1)
            logps = functional.log_softmax(logits, dim=-1).expand(*code.shape, -1)
            out.append(logps.gather(2, code[:, :, None]).squeeze(2))
            if depth < LEVELS - 1:
                read = self.code_embeddings[depth](code)
                prefix = read if prefix is None else prefix + read
        return torch.stack(out, dim=-1)

    def start(self, queries: Tensor | NDArray[np.float32]) -> Step[EmbeddedState]:
        """Read B queries (B, D) or (B, D + C): logits (B, 1, K_1). Raises as `encode` does."""
        hidden = self.encode(torch.as_tensor(queries, dtype=torch.float32).to(self.device))
        prefix = hidden.new_zeros((len(hidden), 1, hidden.shape[1]))
        return Step(EmbeddedState(hidden, prefix, 0), self.level_logits(hidden, None, 0)[:, None])

    def extend(self, state: EmbeddedState, parents: Tensor, codes: Tensor) -> Step[EmbeddedState]:
        """Append codes (B, W) to the prefixes numbered by parents (B, W): logits (B, W, K_l)."""
        above = state.prefix.gather(1, parents[:, :, None].expand(-1, -1, state.prefix.shape[2]))
        prefix = above + self.code_embeddings[state.depth](codes)
        depth = state.depth + 1
        logits = self.level_logits(state.query[:, None], prefix, depth)
        return Step(EmbeddedState(state.query, prefix, depth), logits)

    def save(self, directory: Path) -> None:
        """Write the artifact (kind "generator"): weights, sizes and `meta`; whole or not at all."""
        config = {
            "backend": BACKEND,
            "codebook_sizes": list(self.codebook_sizes),
            "sizes": self.sizes,
            "meta": self.meta,
        }
        write_artifact(directory, kind="generator", tensors=self.state_dict(), config=config)

    @classmethod
    def load(cls, directory: Path, *, device: torch.device | str = "cpu") -> EmbeddedGenerator:
        """Read an artifact written by `save`, in evaluation mode. Raises `ArtifactError` for a damaged or other one."""
        tensors, config = read_artifact(directory, kind="generator")
        if config["backend"] != BACKEND:
            raise ValueError(f"{directory} holds a {config['backend']!r} generator, not an {BACKEND!r} one.")
        generator = cls(codebook_sizes=tuple(config["codebook_sizes"]), meta=config["meta"], **config["sizes"])
        generator.load_state_dict(tensors)
        return generator.to(device).eval()


class _Who(nn.Module):
    """W2 gelu(W1 u): (B, C) -> (B, H). Zero for u = 0, and for every u at the start."""

    def __init__(self, context: int, hidden: int) -> None:
        super().__init__()
        self.read = nn.Linear(context, hidden, bias=False)
        self.add = nn.Linear(hidden, hidden, bias=False)
        nn.init.zeros_(self.add.weight)

    def forward(self, user: Tensor) -> Tensor:
        out: Tensor = self.add(functional.gelu(self.read(user)))
        return out


class _Block(nn.Module):
    """x + MLP(norm(x)): (..., H) -> (..., H)."""

    def __init__(self, hidden: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.grow = nn.Linear(hidden, inner)
        self.shrink = nn.Linear(inner, hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.gelu(self.grow(self.norm(x)))
        out: Tensor = x + self.dropout(self.shrink(inner))
        return out
