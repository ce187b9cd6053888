"""The shared residual quantizer: vectors -> one code a level, codebooks kept by exponential moving averages.

DSIRM (arXiv 2606.04374) sends both towers through one hierarchical residual quantizer whose level 1 is fixed by the
category; CQ-SID (arXiv 2605.14434) uses the same with other sizes. Unknown in the papers and chosen here: EMA of counts
and sums (not of batch means), restart of a code from the batch's own residuals, squared distances summed over
dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dsirm_models import ranks

UNKNOWN = -1
"""Level-1 marker of a row without a mapped category: it takes the nearest reserved code, if any are reserved."""
ANY = -2
"""Level-1 marker of a row that may take the nearest of all codes (a query whose category nobody knows)."""


class QuantizerOutput(NamedTuple):
    """What one pass returns for a batch of B vectors of D dimensions and L levels."""

    codes: Tensor
    """(B, L) int64."""
    quantized: Tensor
    """(B, D), equal to `plain`, with the gradient passed straight through to the input."""
    plain: Tensor
    """(B, D), the sum of the chosen code vectors; carries no gradient."""
    residual_norm: Tensor
    """(B,) Euclidean norm of what the last level left over; carries no gradient."""
    commitment: Tensor
    """() mean over rows of the squared residuals, summed over levels and dimensions; pulls the input to its codes."""


class ResidualQuantizer(nn.Module):
    """L codebooks applied one after another, each to what the levels before left over.

    Args:
        dim: width D of the vectors.
        codebook_sizes: codes per level, K1..KL.
        mapped: the first `mapped` codes of level 1 belong to one category each.
        reserve: rows marked `UNKNOWN` choose only among the codes `mapped..K1-1` where there are any; else among all.
        ema_decay: weight of the past in counts and sums at every training step.
        restart_after: training steps without a use after which a code restarts from the batch; 0 never restarts.
        eps: least EMA count that a sum is divided by.

    Raises:
        ValueError: on sizes, decay or `mapped` out of range.

    """

    def __init__(
        self,
        *,
        dim: int,
        codebook_sizes: Sequence[int] = (216, 512, 512),
        mapped: int = 0,
        reserve: bool = True,
        ema_decay: float = 0.99,
        restart_after: int = 200,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if dim < 1 or not codebook_sizes or min(codebook_sizes) < 1:
            raise ValueError(f"dim and all codebook sizes are at least 1, not {dim} and {tuple(codebook_sizes)}.")
        if not 0 <= mapped <= codebook_sizes[0]:
            raise ValueError(f"mapped is 0..{codebook_sizes[0]} (the codes of level 1), not {mapped}.")
        if not 0.0 < ema_decay < 1.0 or restart_after < 0 or eps <= 0:
            raise ValueError("ema_decay is inside (0, 1), restart_after at least 0 and eps above 0.")
        self.dim = dim
        self.codebook_sizes = tuple(codebook_sizes)
        self.mapped = mapped
        self.free_from = mapped if reserve and mapped < codebook_sizes[0] else 0
        self.ema_decay = ema_decay
        self.restart_after = restart_after
        self.eps = eps
        for level, size in enumerate(self.codebook_sizes):
            self.register_buffer(f"codebook_{level}", torch.zeros(size, dim))
            self.register_buffer(f"ema_sum_{level}", torch.zeros(size, dim))
            self.register_buffer(f"ema_count_{level}", torch.zeros(size))
            self.register_buffer(f"unused_{level}", torch.zeros(size, dtype=torch.int32))
        # A mapped code whose category was never seen has no vector of its own: nobody may come to it by being near.
        self.reachable: Tensor
        self.register_buffer("reachable", torch.ones(self.codebook_sizes[0], dtype=torch.bool))
        self.initialised: Tensor
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self._ready = False

    @property
    def levels(self) -> int:
        """L."""
        return len(self.codebook_sizes)

    @property
    def codebooks(self) -> list[Tensor]:
        """L tensors (K_l, D): the code vectors themselves, not copies."""
        return [self.get_buffer(f"codebook_{level}") for level in range(self.levels)]

    @torch.no_grad()
    def initialise(self, codebooks: Sequence[Tensor], *, reachable: Tensor | None = None) -> None:
        """Set all code vectors and start their EMA state afresh.

        Args:
            codebooks: L tensors (K_l, D).
            reachable: (K1,) bool, False for mapped codes without a member; None = all True.

        Raises:
            ValueError: on another number of levels, another shape, or values that are not finite.

        """
        shapes = [tuple(book.shape) for book in codebooks]
        wanted = [(size, self.dim) for size in self.codebook_sizes]
        if shapes != wanted:
            raise ValueError(f"Codebooks of shapes {shapes} do not fit a quantizer of {wanted}.")
        if not all(bool(torch.isfinite(book).all()) for book in codebooks):
            raise ValueError("A codebook holds NaN or infinite values: no distance to it would mean anything.")
        for level, book in enumerate(codebooks):
            self.get_buffer(f"codebook_{level}").copy_(book)
            # A count of 1: the start is forgotten within about 1 / (1 - decay) uses, as a restarted code is.
            self.get_buffer(f"ema_sum_{level}").copy_(book)
            self.get_buffer(f"ema_count_{level}").fill_(1.0)
            self.get_buffer(f"unused_{level}").zero_()
        self.reachable.copy_(torch.ones_like(self.reachable) if reachable is None else reachable)
        self.initialised.fill_(True)

    def forward(self, x: Tensor, level1: Tensor | None = None, *, blocks: int = 1) -> QuantizerOutput:
        """Quantize a batch; in training mode also move the codebooks towards it.

        Args:
            x: (B, D) float.
            level1: (B,) int64: a level-1 code where it is fixed, `UNKNOWN` (-1) or `ANY` (-2) where not. None = all
                `ANY`.
            blocks: into how many equal parts x is laid out, for the order of rows gathered from several processes.

        Raises:
            ValueError: x of another width. RuntimeError: codebooks never initialised.

        """
        self._check(x)
        plain = torch.zeros_like(x)
        commitment = x.new_zeros(())
        codes = []
        residual = x.detach()
        for level, book in enumerate(self.codebooks):
            with torch.no_grad():
                found = self.first_codes(residual, level1) if level == 0 else nearest(residual, book)
                plain = plain + book.index_select(0, found)
                if self.training:
                    free = level1 < 0 if level == 0 and level1 is not None and self.mapped else None
                    self._learn(level, residual, found, free, blocks)
            # The plain vector, not the straight-through one: that would cut deeper levels off from the gradient.
            left = x - plain
            commitment = commitment + left.square().sum() / max(len(x), 1)
            residual = left.detach()
            codes.append(found)
        return QuantizerOutput(
            codes=torch.stack(codes, dim=1),
            quantized=x + (plain - x).detach(),
            plain=plain,
            residual_norm=residual.norm(dim=1),
            commitment=commitment,
        )

    def first_codes(self, x: Tensor, level1: Tensor | None) -> Tensor:
        """(B,) int64 codes of level 1 for (B, D) vectors: fixed, nearest reserved or of all, as `level1` asks."""
        book = self.codebooks[0]
        if level1 is None:
            return nearest(x, book, allowed=self.reachable)
        if not _may_look(x):
            # Searching all rows costs less than waiting to learn which are open.
            return torch.where(level1 >= 0, level1, self._open_codes(x, level1))
        rows = (level1 < 0).nonzero().squeeze(1)
        if len(rows) == 0:
            return level1
        codes = level1.clone()
        codes[rows] = self._open_codes(x.index_select(0, rows), level1.index_select(0, rows))
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """(B, L) int64 codes -> (B, D) sums of their code vectors."""
        vectors = [book.index_select(0, codes[:, level]) for level, book in enumerate(self.codebooks)]
        return torch.stack(vectors).sum(dim=0)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != self.dim:
            raise ValueError(
                f"The quantizer takes vectors of width {self.dim}, not a tensor of shape {tuple(x.shape)}."
            )
        self.require_initialised()

    def require_initialised(self) -> None:
        """Raises RuntimeError where the codebooks were never initialised."""
        if not self._ready:  # asked of the device once: every reading of a flag there waits for it
            self._ready = bool(self.initialised)
            if not self._ready:
                raise RuntimeError("The codebooks were never initialised: call initialise() or load a state first.")

    def _open_codes(self, x: Tensor, level1: Tensor) -> Tensor:
        book = self.codebooks[0]
        of_all = nearest(x, book, allowed=self.reachable)
        if self.free_from == 0:
            return of_all
        reserved = self.free_from + nearest(x, book[self.free_from :])
        return torch.where(level1 == ANY, of_all, reserved)

    @torch.no_grad()
    def _learn(self, level: int, residual: Tensor, codes: Tensor, free: Tensor | None, blocks: int) -> None:
        """One EMA step of a level, then restart of unused codes. free: (B,) True where the code was not fixed."""
        book, total = self.get_buffer(f"codebook_{level}"), self.get_buffer(f"ema_sum_{level}")
        count, unused = self.get_buffer(f"ema_count_{level}"), self.get_buffer(f"unused_{level}")
        uses = torch.zeros_like(count).index_add_(0, codes, torch.ones_like(residual[:, 0]))
        sums = torch.zeros_like(total).index_add_(0, codes, residual)
        ranks.sum_in_place((uses, sums))
        count.lerp_(uses, 1.0 - self.ema_decay)
        total.lerp_(sums, 1.0 - self.ema_decay)
        used = uses > 0
        # Sum and count of an unused code fade together: their quotient means the same until it becomes 0 / 0, so it is
        # not taken, and a code that nobody uses keeps its vector to the bit.
        mean = total / count.clamp_min(self.eps).unsqueeze(1)
        book.copy_(torch.where(used.unsqueeze(1), mean, book))
        unused.add_(1).masked_fill_(used, 0)
        if level == 0:
            self.reachable.logical_or_(used)
        if self.restart_after:
            self._restart(level, residual, free, blocks)

    def _restart(self, level: int, residual: Tensor, free: Tensor | None, blocks: int) -> None:
        """Give codes unused for `restart_after` steps a residual of this batch, and an EMA state that keeps it there.

        Deterministic: the batch's order is random already, so dead codes take rows spread evenly over it. A mapped code
        is never restarted (its category may return), and reserved ones only from rows that could choose them.
        """
        unused = self.get_buffer(f"unused_{level}")
        dead = unused >= self.restart_after
        if level == 0 and self.mapped:
            dead[: self.mapped] = False
        if _may_look(residual) and not bool(dead.any()):
            return
        # All processes know the same dead codes and give them the same rows.
        residual = ranks.gather(residual, blocks)
        free = None if free is None else ranks.gather(free, blocks)
        available = torch.ones_like(residual[:, 0], dtype=torch.bool) if free is None else free
        order = torch.argsort(available.logical_not().to(torch.int8), stable=True)
        rows = available.sum()
        rank = dead.cumsum(0) - 1
        dead = dead & (rank < rows)  # one row restarts one code: twins would only starve again
        place = rank.clamp_min(0) * rows // dead.sum().clamp_min(1)
        vectors = residual.index_select(0, order.index_select(0, place.clamp(0, len(residual) - 1)))
        # Without a fresh count and sum the next EMA step would pull the code straight back to where nobody came.
        for name in ("codebook", "ema_sum"):
            buffer = self.get_buffer(f"{name}_{level}")
            buffer.copy_(torch.where(dead.unsqueeze(1), vectors, buffer))
        self.get_buffer(f"ema_count_{level}").masked_fill_(dead, 1.0)
        unused.masked_fill_(dead, 0)


def nearest(x: Tensor, book: Tensor, *, allowed: Tensor | None = None) -> Tensor:
    """(B,) int64 index of the nearest of K code vectors to each row of x; equal distances give the lowest index.

    Args:
        x: (B, D) vectors.
        book: (K, D) code vectors.
        allowed: (K,) bool, False for codes nobody may choose.

    """
    # |x - c|^2 / 2 without |x|^2 / 2, which is the same for all codes of a row.
    bias = book.square().sum(dim=1) * 0.5
    if allowed is not None:
        bias = bias.masked_fill(~allowed, torch.inf)
    return lowest(torch.addmm(bias, x, book.T, alpha=-1.0))


def lowest(scores: Tensor) -> Tensor:
    """(B,) int64 position of the lowest of (B, K) scores; of equal ones the first."""
    if _may_look(scores):
        # numpy's argmin is vectorised along rows, torch's is not: 13 times as fast at 1024 x 512, ties alike.
        return torch.from_numpy(scores.numpy().argmin(axis=1))
    return scores.argmin(dim=1)


def _may_look(x: Tensor) -> bool:
    """Whether a branch may ask for values: not on a device, which it would wait for, and not in a captured step."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
