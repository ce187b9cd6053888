"""Codes for any number of embeddings, the same for every row order, batch split and number of threads.

A matrix product rounds differently with the shape of its batch, so near-ties would flip between runs. Here every code
is what float64 arithmetic on the float32 weights says: the projection runs in float64, the search for the nearest code
in float32 with a bound on its rounding error (float64 where that leaves two codes too close), and a row that stays
undecided at any level is decided again wholly in float64, alone, in an order of operations that no other row can
change.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsirm_models.quantizer import ANY, UNKNOWN, ResidualQuantizer, lowest
from dsirm_models.quantizer_model import TrainedQuantizer
from dsirm_models.towers import SMALLEST_NORM, ProjectionEncoder
from schemas.sids import BITS

BY_CATEGORY, BY_NEAREST, BY_RESERVED = 0, 1, 2
"""How a level-1 code was chosen: by its category, nearest of all, nearest of those reserved for other categories."""
_ROUND32 = 2.0**-24
_ROUND64 = 2.0**-53


class Assignment(NamedTuple):
    """Codes of N rows over L levels."""

    codes: NDArray[np.int32]
    """(N, L)."""
    sid: NDArray[np.int64]
    """(N,) packed as `schemas.sids` says."""
    residual_norm: NDArray[np.float32]
    """(N,) Euclidean distance in latent space between a row and the sum of its code vectors."""
    level1_by: NDArray[np.int8]
    """(N,) 0 category, 1 nearest, 2 reserved."""


@torch.no_grad()
def assign_codes(
    model: TrainedQuantizer,
    embeddings: NDArray[np.float32],
    level1: NDArray[np.int32] | None = None,
    tower: str = "item",
    *,
    chunk_rows: int = 1024,
) -> Assignment:
    """Quantize embeddings.

    Args:
        model: the trained quantizer; the bulk of the work runs on its device.
        embeddings: (N, D) float32 of the frozen encoder.
        level1: (N,) a mapped category's level-1 code, or -1 where there is none. None = -1 everywhere. Ignored by a
            model trained without the category level. A row of -1 takes the nearest reserved code as an item (nearest of
            all if no codes are reserved), and the nearest of all as a query, whose category nobody looked at.
        tower: "item" or "query".
        chunk_rows: rows at once; bounds memory, cannot change a result.

    Raises:
        ValueError: another width or type of embeddings, NaN or infinite values, a level-1 code outside the map.

    """
    quantizer = model.model.quantizer
    if tower not in ("item", "query"):
        raise ValueError(f"tower is 'item' or 'query', not {tower!r}.")
    _check(model, embeddings, level1)
    count = len(embeddings)
    fixed = np.full(count, UNKNOWN, dtype=np.int64)
    if level1 is not None and quantizer.mapped:
        fixed[:] = level1
    search = _Search(
        tower=model.model.item_tower if tower == "item" else model.model.query_tower,
        quantizer=quantizer,
        kind=UNKNOWN if tower == "item" else ANY,
    )
    codes = np.empty((count, quantizer.levels), dtype=np.int32)
    norm = np.empty(count, dtype=np.float32)
    for start in range(0, count, chunk_rows):
        part = slice(start, start + chunk_rows)
        codes[part], norm[part] = search.run(embeddings[part], fixed[part])
    wide = codes.astype(np.int64)
    reserved = tower == "item" and quantizer.free_from > 0
    return Assignment(
        codes=codes,
        sid=wide[:, 0] << 2 * BITS | wide[:, 1] << BITS | wide[:, 2],
        residual_norm=norm,
        level1_by=np.where(fixed >= 0, BY_CATEGORY, BY_RESERVED if reserved else BY_NEAREST).astype(np.int8),
    )


def _check(model: TrainedQuantizer, embeddings: NDArray[np.float32], level1: NDArray[np.int32] | None) -> None:
    if embeddings.ndim != 2 or embeddings.shape[1] != model.in_dim:
        raise ValueError(
            f"This quantizer was trained on embeddings of width {model.in_dim}, not on an array of shape "
            f"{embeddings.shape}: they come from another encoder."
        )
    if embeddings.dtype != np.float32:
        raise ValueError(f"Embeddings are float32, not {embeddings.dtype}.")
    if level1 is not None:
        if level1.shape != (len(embeddings),):
            raise ValueError(f"level1 needs one entry for each of {len(embeddings)} rows, its shape is {level1.shape}.")
        if model.config.mapped and len(level1) and (level1.min() < -1 or level1.max() >= model.config.mapped):
            raise ValueError(
                f"level1 runs from {level1.min()} to {level1.max()}, but the quantizer maps categories 0.."
                f"{model.config.mapped - 1} (-1 = none): these categories are of another codebook version."
            )


class _Search:
    """One tower and the codebooks as all rows share them: float64 tensors, and numpy arrays for the last resort."""

    def __init__(self, *, tower: ProjectionEncoder, quantizer: ResidualQuantizer, kind: int) -> None:
        self.tower = copy.deepcopy(tower).double()
        self.device = quantizer.codebooks[0].device
        # float32 products are only as good as the bound where nobody has lowered their precision (TF32, bf16).
        full = self.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
        self.dtypes = (torch.float32, torch.float64) if full else (torch.float64,)
        self.books = [book.double() for book in quantizer.codebooks]
        self.exact_books = [book.cpu().numpy() for book in self.books]
        self.exact_layers = []
        for layer in (self.tower.inner, self.tower.outer):
            weight, offset = layer.weight.cpu().numpy(), layer.bias.cpu().numpy()
            self.exact_layers.append((weight, offset, np.empty_like(weight)))
        self.closed = [np.zeros(len(book), dtype=bool) for book in self.books]
        if kind == UNKNOWN and quantizer.free_from:
            self.closed[0][: quantizer.free_from] = True
        else:
            self.closed[0] |= ~quantizer.reachable.cpu().numpy()
        self.biases, self.longest = [], []
        for book, exact, closed in zip(self.books, self.exact_books, self.closed, strict=True):
            bias = book.square().sum(dim=1) * 0.5
            bias[torch.from_numpy(closed | _repeats(exact, closed)).to(self.device)] = torch.inf
            self.biases.append(bias)
            self.longest.append(float(book.square().sum(dim=1).max()) ** 0.5)

    def run(self, rows: NDArray[np.float32], fixed: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(n, D) float32 and (n,) level-1 codes or -1 -> codes (n, L), residual norms (n,)."""
        if not np.isfinite(rows).all():
            raise ValueError("Embeddings hold NaN or infinite values: nothing is near to them.")
        # Rows as Arrow hands them may not be written, of which torch warns in every worker's log.
        x = torch.from_numpy(np.require(rows, np.float32, ["C", "W"])).to(self.device).double()
        residual, drift = self._project(x)
        given = torch.from_numpy(fixed).to(self.device)
        unsure = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        codes = []
        for level, book in enumerate(self.books):
            if level == 0:
                found = given.clone()
                rest = (given < 0).nonzero().squeeze(1)
                if len(rest):
                    found[rest], unsure[rest] = self._nearest(level, residual[rest], drift[rest])
            else:
                found, near = self._nearest(level, residual, drift)
                unsure |= near
            residual = residual - book.index_select(0, found)
            codes.append(found)
        norm = residual.norm(dim=1)
        unsure |= (norm - drift).float() != (norm + drift).float()
        out_codes = torch.stack(codes, dim=1).cpu().numpy().astype(np.int32)
        out_norm = norm.float().cpu().numpy()
        for row in unsure.cpu().numpy().nonzero()[0]:
            out_codes[row], out_norm[row] = self._exact(rows[row].astype(np.float64), int(fixed[row]))
        return out_codes, out_norm

    def _nearest(self, level: int, residual: Tensor, drift: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codes (n,) and whether rounding leaves them undecided even in float64 (n,) bool."""
        codes, unsure = self._search(level, residual, drift, self.dtypes[0])
        for finer in self.dtypes[1:]:
            rows = unsure.nonzero().squeeze(1)
            if len(rows):
                codes[rows], unsure[rows] = self._search(level, residual[rows], drift[rows], finer)
        return codes, unsure

    def _search(self, level: int, residual: Tensor, drift: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Nearest codes (n,) and whether `dtype` leaves them undecided (n,) bool."""
        scores = torch.addmm(
            self.biases[level].to(dtype), residual.to(dtype), self.books[level].to(dtype).T, alpha=-1.0
        )
        found = lowest(scores)
        chosen = found.unsqueeze(1)
        best = scores.gather(1, chosen).squeeze(1)
        second = scores.scatter_(1, chosen, torch.inf).amin(dim=1)
        # Each score is a dot product of `dim` terms and an addition: Cauchy-Schwarz times the terms' roundings. Two
        # scores are compared, and both shift with what the float64 projection may be off.
        longest = self.longest[level]
        unit = (residual.shape[1] + 8) * (_ROUND32 if dtype == torch.float32 else _ROUND64)
        bound = 2.0 * (unit * (residual.norm(dim=1) * longest + 0.5 * longest**2) + drift * longest)
        return found, (second - best).double() <= bound

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (n, dim) float64, and (n,) a bound on how far each may lie from what `_exact` would make of it.

        The bound: roundings of a dot product times Frobenius norms, carried through both layers and the division.
        """
        inner, outer = self.tower.inner, self.tower.outer
        hidden = torch.relu(inner(x))
        latent = outer(hidden)
        before = (inner.in_features + 4) * _ROUND64 * (inner.weight.norm() * x.norm(dim=1) + inner.bias.norm())
        after = (outer.in_features + 4) * _ROUND64 * (outer.weight.norm() * hidden.norm(dim=1) + outer.bias.norm())
        off = outer.weight.norm() * before + after
        if self.tower.normalize:
            length = latent.norm(dim=1).clamp_min(SMALLEST_NORM)
            latent = latent / length.unsqueeze(1)
            off = 2.0 * off / length + 8 * outer.out_features * _ROUND64
        # Twice, because `_exact` rounds as well; the rest is the subtraction of code vectors.
        return latent, 2.0 * off + 64 * _ROUND64 * max(1.0, *self.longest)

    def _exact(self, x: NDArray[np.float64], fixed: int) -> tuple[list[int], np.float32]:
        """One row in float64: products and sums along one axis, whose order depends on nothing but the widths."""
        latent = x
        for index, (weight, bias, products) in enumerate(self.exact_layers):
            np.multiply(weight, latent, out=products)
            latent = products.sum(axis=1) + bias
            if index == 0:
                latent = np.maximum(latent, 0.0)
        if self.tower.normalize:
            latent = latent / max(float(np.sqrt((latent * latent).sum())), SMALLEST_NORM)
        codes = []
        for level, (book, closed) in enumerate(zip(self.exact_books, self.closed, strict=True)):
            code = fixed
            if level > 0 or fixed < 0:
                gaps = book - latent
                distance = (gaps * gaps).sum(axis=1)
                distance[closed] = np.inf
                code = int(distance.argmin())
            latent = latent - book[code]
            codes.append(code)
        return codes, np.float32(np.sqrt((latent * latent).sum()))


def _repeats(book: NDArray[np.float64], closed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K,) True for an open code whose vector an open code of lower index has too: it can never be chosen."""
    repeated = np.ones(len(book), dtype=bool)
    rows = np.flatnonzero(~closed)
    _, first = np.unique(book[rows], axis=0, return_index=True)
    repeated[rows[first]] = False
    return repeated
