"""The relevance ranker of DSIRM (papers, section 1): SID match + dense features -> 3-layer MLP -> an ordinal grade.

The match depth of query and item SIDs is a *discrete* feature: it is looked up in a small table and concatenated with
the standardised dense features. "No SID" has a row of its own, since an item that was never assigned says nothing,
while depth 0 says "differs at once".

The output is ordinal by a cumulative link: one latent relevance s(x) and three ordered thresholds t1 <= t2 <= t3 with
`P(grade >= k) = sigmoid(s - t_k)`, fitted by the sum of the three binary cross-entropies. Ordered thresholds make the
four grade probabilities non-negative by construction. Unknown in the paper, chosen here: widths, table size, link,
optimiser.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dsirm_models.artifacts import ArtifactError, read_artifact, write_artifact

GRADES = 4
"""Grades 0..3, from irrelevant to exact."""
NO_SID = -1
"""The `ss_depth` of a pair whose query or item has no SID; 0..3 otherwise."""
DEPTHS = 4

KIND = "ranker"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankerConfig:
    """Settings of the ranker. Choose them on inner folds, never on the folds that are reported."""

    hidden: tuple[int, int] = (64, 32)
    """Widths of the first two layers; the third gives the latent relevance."""
    ss_width: int = 8
    """Columns of the match depth's table."""
    dropout: float = 0.1
    learning_rate: float = 3e-3
    weight_decay: float = 1.0
    """AdamW's, on weight matrices; thresholds and biases are not decayed."""
    steps: int = 300
    """Chosen with `weight_decay` by log loss on simulated held-out queries, 4,000 pairs; raise it with their number."""
    batch_size: int = 512
    """Rows a step; all rows where there are fewer."""

    def __post_init__(self) -> None:
        problems = [
            message
            for wrong, message in (
                (len(self.hidden) != 2 or min(self.hidden, default=0) < 1, "hidden needs two widths of 1 or more"),
                (self.ss_width < 1, "ss_width must be 1 or more"),
                (not 0 <= self.dropout < 1, "dropout must be in [0, 1)"),
                (not self.learning_rate > 0, "learning_rate must be above 0"),
                (not self.weight_decay >= 0, "weight_decay must be 0 or more"),
                (self.steps < 1, "steps must be 1 or more"),
                (self.batch_size < 1, "batch_size must be 1 or more"),
            )
            if wrong
        ]
        if problems:
            raise ValueError("Impossible ranker settings: " + "; ".join(problems) + ".")


class RankerOutput(NamedTuple):
    """Predictions for N pairs."""

    scores: NDArray[np.float64]
    """(N,): the expected grade, 0..3; rank by this."""
    probabilities: NDArray[np.float64]
    """(N, 4): P(grade = 0), ..., P(grade = 3); rows sum to one."""


class OrdinalRanker(nn.Module):
    """Match-depth table + standardised dense features -> MLP -> three cumulative logits."""

    mean: Tensor
    scale: Tensor

    def __init__(self, *, dense_width: int, has_ss: bool, config: RankerConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dense_width))
        self.register_buffer("scale", torch.ones(dense_width))
        # Row 0 is "no SID", row d + 1 depth d.
        self.ss_table = nn.Embedding(DEPTHS + 1, config.ss_width) if has_ss else None
        if self.ss_table is not None:
            # From zero: a random start is noise of that width, and costs where judged queries are few.
            nn.init.zeros_(self.ss_table.weight)
        first, second = config.hidden
        self.layers = nn.Sequential(
            nn.Linear(dense_width + (config.ss_width if has_ss else 0), first),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            # No bias: the thresholds hold the offset.
            nn.Linear(second, 1, bias=False),
        )
        self.first_threshold = nn.Parameter(torch.tensor(-0.5))
        self.steps_up = nn.Parameter(torch.full((GRADES - 2,), -0.5))

    @property
    def thresholds(self) -> Tensor:
        """(3,) in ascending order, whatever the parameters."""
        return torch.cat(
            [self.first_threshold[None], self.first_threshold + functional.softplus(self.steps_up).cumsum(0)]
        )

    def forward(self, dense: Tensor, ss_depth: Tensor | None) -> Tensor:
        """Raw dense features (B, F) and depths (B,) -> logits of `grade >= 1, 2, 3`, (B, 3)."""
        inputs = (dense - self.mean) / self.scale
        if self.ss_table is not None:
            assert ss_depth is not None
            inputs = torch.cat([self.ss_table(ss_depth + 1), inputs], dim=1)
        latent: Tensor = self.layers(inputs)  # (B, 1)
        return latent - self.thresholds


class TrainedRanker:
    """A fitted ranker: predicts, and goes to and from an artifact directory."""

    def __init__(self, *, model: OrdinalRanker, config: RankerConfig) -> None:
        self._model = model.eval()
        self.config = config

    @property
    def dense_width(self) -> int:
        """F, the dense columns that it was fitted with."""
        return len(self._model.mean)

    @property
    def has_ss(self) -> bool:
        """Whether it was fitted with match depths."""
        return self._model.ss_table is not None

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """(3,) ascending thresholds of the latent relevance."""
        return self._model.thresholds.detach().double().numpy()

    def predict(self, *, features: NDArray[np.floating], ss_depth: NDArray[np.integer] | None = None) -> RankerOutput:
        """Features (N, F) and depths (N,) of -1..3, as in training -> expected grades and grade probabilities.

        Raises:
            ValueError: other columns than in training, depths given or missing against training, or values out of
                range.

        """
        dense, depth = _inputs(features, ss_depth)
        if dense.shape[1] != self.dense_width or (depth is not None) != self.has_ss:
            raise ValueError(
                f"The ranker was fitted on {self.dense_width} dense columns {'with' if self.has_ss else 'without'} "
                f"match depths, but is asked about {dense.shape[1]} {'without' if depth is None else 'with'} them."
            )
        with torch.inference_mode():
            at_least = torch.sigmoid(self._model(dense, depth).double()).numpy()
        padded = np.pad(at_least, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
        return RankerOutput(at_least.sum(axis=1), padded[:, :-1] - padded[:, 1:])

    def save(self, directory: Path) -> None:
        """Write an artifact of kind `ranker`, all of it or nothing."""
        shape = {"dense_width": self.dense_width, "has_ss": self.has_ss}
        config = {"settings": asdict(self.config), **shape}
        write_artifact(directory, kind=KIND, tensors=self._model.state_dict(), config=config)

    @classmethod
    def load(cls, directory: Path) -> TrainedRanker:
        """Read what `save` wrote. Raises `ArtifactError` if it is missing, half-written, altered or of other code."""
        artifact = read_artifact(directory, kind=KIND)
        try:
            settings = artifact.config["settings"]
            config = RankerConfig(**{**settings, "hidden": tuple(settings["hidden"])})
            model = OrdinalRanker(
                dense_width=artifact.config["dense_width"], has_ss=artifact.config["has_ss"], config=config
            )
            model.load_state_dict(artifact.tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"The ranker in {directory} was written by other code: {error}") from error
        return cls(model=model, config=config)


def train_ranker(
    *,
    features: NDArray[np.floating],
    ss_depth: NDArray[np.integer] | None = None,
    grades: NDArray[np.integer],
    config: RankerConfig,
    seed: int,
) -> TrainedRanker:
    """Fit the ranker on labelled pairs. The same inputs and seed give the same ranker on a CPU.

    Args:
        features: (N, F) dense features, finite; soft SID scores go here as further columns. Standardised with the mean
            and deviation of these N rows, so the caller passes training rows only.
        ss_depth: (N,) match depth 0..3, or `NO_SID`; None for a ranker without the SID feature.
        grades: (N,) 0..3.
        config: the settings.
        seed: decides initial weights, batches and dropout; torch's global random state is left as it was.

    Raises:
        ValueError: shapes that do not fit, no rows, values that are not finite or out of range.

    """
    dense, depth = _inputs(features, ss_depth)
    target_grades = torch.as_tensor(np.asarray(grades), dtype=torch.long)
    if target_grades.shape != (len(dense),) or not len(dense):
        raise ValueError(f"One grade a row is needed: {len(dense)} rows, grades of shape {tuple(target_grades.shape)}.")
    if int(target_grades.min()) < 0 or int(target_grades.max()) >= GRADES:
        raise ValueError(f"Grades are 0..{GRADES - 1}, not {int(target_grades.min())}..{int(target_grades.max())}.")
    # (N, 3): is the grade at least 1, 2, 3?
    targets = (target_grades[:, None] >= torch.arange(1, GRADES)).float()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OrdinalRanker(dense_width=dense.shape[1], has_ss=depth is not None, config=config)
        model.mean.copy_(dense.double().mean(dim=0))
        deviation = dense.double().std(dim=0, correction=0)
        # A constant column carries nothing; dividing by its rounding error would make noise of it.
        model.scale.copy_(torch.where(deviation > 1e-6 * (1 + model.mean.abs()), deviation, torch.inf))
        loss = _fit(model, dense, depth, targets, config)
    _log.debug("Ranker fitted on %d rows, %d columns: last loss %.4f", len(dense), dense.shape[1], loss)
    return TrainedRanker(model=model, config=config)


def _fit(model: OrdinalRanker, dense: Tensor, depth: Tensor | None, targets: Tensor, config: RankerConfig) -> float:
    """AdamW with a cosine decay to zero; returns the last step's loss."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.steps)
    model.train()
    size = min(config.batch_size, len(dense))
    queue = torch.empty(0, dtype=torch.long)
    loss = torch.zeros(())
    for _ in range(config.steps):
        # Epochs without replacement; the rest of one joins the next, so every batch is full.
        if len(queue) < size:
            queue = torch.cat([queue, torch.randperm(len(dense))])
        rows, queue = queue[:size], queue[size:]
        logits = model(dense[rows], None if depth is None else depth[rows])
        # Summed over the thresholds, averaged over the rows.
        loss = functional.binary_cross_entropy_with_logits(logits, targets[rows]) * (GRADES - 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def _inputs(features: NDArray[np.floating], ss_depth: NDArray[np.integer] | None) -> tuple[Tensor, Tensor | None]:
    """Checked tensors: dense (N, F) float32, depth (N,) int64 or None."""
    array = np.asarray(features, dtype=np.float32)
    if array.ndim != 2:
        raise ValueError(f"Features are rows by columns, not of shape {array.shape}.")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=0))
    if len(bad):
        raise ValueError(f"Feature columns {bad.tolist()} hold values that are not finite; fill them and add a flag.")
    dense = torch.from_numpy(np.ascontiguousarray(array))
    if ss_depth is None:
        return dense, None
    depth = np.asarray(ss_depth)
    if depth.shape != (len(array),) or not np.issubdtype(depth.dtype, np.integer):
        raise ValueError(f"ss_depth is one whole number a row, not {depth.dtype} of shape {depth.shape}.")
    if len(depth) and (depth.min() < NO_SID or depth.max() >= DEPTHS):
        raise ValueError(f"ss_depth is {NO_SID}..{DEPTHS - 1}, not {depth.min()}..{depth.max()}.")
    return dense, torch.from_numpy(depth.astype(np.int64))
