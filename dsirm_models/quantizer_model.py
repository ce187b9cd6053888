"""What a quantizer is made of and how it is stored: settings, modules, and the trained artifact.

One configuration serves both papers (DSIRM arXiv 2606.04374, CQ-SID arXiv 2605.14434): DSIRM is the default, CQ-SID
differs in sizes, weights, temperature and `contrast_on="encoder"`; a plain RQ-VAE (TIGER) is contrastive 0,
`use_queries=False`, `category_level1=False`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsirm_models.artifacts import ArtifactError, read_artifact, write_artifact
from dsirm_models.clusters import NONE, Groups, check_groups
from dsirm_models.losses import LossWeights
from dsirm_models.quantizer import ResidualQuantizer
from dsirm_models.towers import Decoder, ProjectionEncoder, seeded_init
from schemas.sids import BITS, LEVELS

KIND = "quantizer"
GROUPS = ("groups.sids", "groups.counts")
"""Tensors of an artifact that hold `TrainedQuantizer.groups`, where any SID is split."""
CHOICES = {
    "query_level1": ("pair", "nearest"),
    "contrast_on": ("quantized", "encoder"),
    "pair_weights": ("loss", "sample", "none"),
}
_AT_LEAST = {
    "dim": 1,
    "hidden": 1,
    "mapped_categories": 0,
    "batch_size": 2,
    "restart_after": 0,
    "max_steps": 1,
    "warmup_steps": 0,
    "eval_every": 1,
    "eval_pairs": 1,
    "checkpoint_every": 1,
    "log_every": 1,
    "kmeans_points": 1,
    "kmeans_iterations": 1,
    "seed": 0,
}


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """All settings of the quantizer and its training. Defaults: DSIRM where the paper says, else our choice.

    Raises:
        ValueError: naming every impossible setting at once.

    """

    dim: int = 64
    """Width of the latent space (not stated in the paper)."""
    hidden: int = 256
    codebook_sizes: tuple[int, ...] = (216, 512, 512)
    mapped_categories: int = 0
    """How many top categories own the first codes of level 1."""
    category_level1: bool = True
    """False ignores all categories (ablation): level 1 is quantized freely."""
    reserve_level1: bool = True
    """Rows without a mapped category take only unmapped codes, if there are any; False: the nearest of all."""
    query_level1: str = "pair"
    """Level 1 of a query in training: its paired item's ("pair") or the nearest of all codes ("nearest")."""
    contrast_on: str = "quantized"
    """InfoNCE on straight-through quantized vectors (DSIRM) or on "encoder" vectors (CQ-SID)."""
    use_queries: bool = True
    """False trains on items alone (TIGER); needs a contrastive weight of 0. Queries then go through the item tower."""
    pair_weights: str = "loss"
    """What a pair's weight does: scales its InfoNCE anchor, decides how often it is drawn, or nothing."""
    normalize_latents: bool = True
    temperature: float = 0.07
    weights: LossWeights = field(default_factory=LossWeights)
    batch_size: int = 256
    ema_decay: float = 0.99
    restart_after: int = 200
    """Steps without a use before a code restarts; 0 = never."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    max_steps: int = 4000
    warmup_steps: int = 200
    """Steps over which the learning rate rises; afterwards it falls on a cosine to a tenth."""
    eval_every: int = 500
    eval_pairs: int = 5000
    """Held-out pairs used to choose the checkpoint, at most."""
    checkpoint_every: int = 500
    log_every: int = 50
    kmeans_points: int = 50_000
    kmeans_iterations: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", tuple(self.codebook_sizes))
        problems = [
            f"{name} is {getattr(self, name)}, it must be at least {least}"
            for name, least in _AT_LEAST.items()
            if getattr(self, name) < least
        ]
        problems += [
            f"{name} is {getattr(self, name)!r}, it must be one of {', '.join(allowed)}"
            for name, allowed in CHOICES.items()
            if getattr(self, name) not in allowed
        ]
        if len(self.codebook_sizes) != LEVELS or not all(1 <= size <= 1 << BITS for size in self.codebook_sizes):
            problems.append(f"codebook_sizes is {self.codebook_sizes}, it must be {LEVELS} sizes of 1..{1 << BITS}")
        elif self.mapped_categories > self.codebook_sizes[0]:
            problems.append(
                f"mapped_categories is {self.mapped_categories}, but level 1 has only {self.codebook_sizes[0]} codes"
            )
        if not 0.0 < self.ema_decay < 1.0:
            problems.append(f"ema_decay is {self.ema_decay}, it must be inside (0, 1)")
        for name in ("temperature", "learning_rate"):
            if not 0.0 < getattr(self, name) < math.inf:
                problems.append(f"{name} is {getattr(self, name)}, it must be finite and above 0")
        if not 0.0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay is {self.weight_decay}, it must be finite and at least 0")
        if not self.use_queries and self.weights.contrastive > 0:
            problems.append("use_queries is off, but InfoNCE (weights.contrastive above 0) needs queries")
        if problems:
            raise ValueError("The quantizer's settings cannot be used: " + "; ".join(problems) + ".")

    @property
    def mapped(self) -> int:
        """Level-1 codes that belong to categories in effect: 0 with `category_level1` off."""
        return self.mapped_categories if self.category_level1 else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready settings."""
        return asdict(self) | {"codebook_sizes": list(self.codebook_sizes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantizerConfig:
        """The inverse of `to_dict`. Raises ValueError for unknown names and for impossible values."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"Unknown quantizer settings: {', '.join(unknown)}.")
        known = dict(values)
        if isinstance(known.get("weights"), Mapping):
            known["weights"] = LossWeights(**known["weights"])
        return cls(**known)


class QuantizerModel(nn.Module):
    """Two towers, the shared quantizer and the decoder, started from a seed. See `towers` for why both start alike."""

    def __init__(self, *, in_dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        sizes = {"in_dim": in_dim, "hidden": config.hidden, "dim": config.dim}
        self.item_tower = ProjectionEncoder(**sizes, normalize=config.normalize_latents)
        self.query_tower = ProjectionEncoder(**sizes, normalize=config.normalize_latents)
        self.decoder = Decoder(dim=config.dim, hidden=config.hidden, out_dim=in_dim)
        self.quantizer = ResidualQuantizer(
            dim=config.dim,
            codebook_sizes=config.codebook_sizes,
            mapped=config.mapped,
            reserve=config.reserve_level1,
            ema_decay=config.ema_decay,
            restart_after=config.restart_after,
        )
        generator = torch.Generator().manual_seed(config.seed)
        seeded_init(self.item_tower, generator=generator)
        seeded_init(self.decoder, generator=generator)
        self.query_tower.load_state_dict(self.item_tower.state_dict())


@dataclass(frozen=True, kw_only=True)
class TrainedQuantizer:
    """A quantizer ready to assign codes: modules in evaluation mode, their settings, and what was measured."""

    model: QuantizerModel
    config: QuantizerConfig
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The caller's own JSON values (versions, fingerprints), stored and returned untouched."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: the step chosen, what it scored, and what the start scored."""
    groups: Groups = NONE
    """The SIDs that are split because too many items share them; see `clusters`."""

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)

    @property
    def in_dim(self) -> int:
        """Width of the embeddings both towers take."""
        return self.model.item_tower.in_dim

    @property
    def mapped_categories(self) -> int:
        """Level-1 codes 0..this-1 belong to one category each."""
        return self.config.mapped

    @property
    def codebooks(self) -> list[Tensor]:
        """L tensors (K_l, dim) float32."""
        return self.model.quantizer.codebooks

    def copy(self) -> TrainedQuantizer:
        """An independent copy: changing its tensors leaves this one as it is."""
        return replace(self, model=copy.deepcopy(self.model), meta=dict(self.meta), report=dict(self.report))

    def with_groups(self, groups: Groups) -> TrainedQuantizer:
        """The same quantizer with other split SIDs."""
        return replace(self, groups=groups)

    def save(self, directory: Path) -> None:
        """Write safetensors + JSON, the manifest last."""
        config = {
            "settings": self.config.to_dict(),
            "in_dim": self.in_dim,
            "meta": dict(self.meta),
            "report": dict(self.report),
        }
        tensors = dict(self.model.state_dict())
        if len(self.groups.sids):
            tensors |= {name: torch.from_numpy(array) for name, array in zip(GROUPS, self.groups, strict=True)}
        write_artifact(directory, kind=KIND, tensors=tensors, config=config)

    @classmethod
    def load(cls, directory: Path, *, device: torch.device | str = "cpu") -> TrainedQuantizer:
        """Read what `save` wrote.

        Raises:
            ArtifactError: missing, half-written, altered, of another kind or shape, or holding NaN or infinite values.

        """
        tensors, stored = read_artifact(directory, kind=KIND)
        config = QuantizerConfig.from_dict(stored["settings"])
        model = QuantizerModel(in_dim=int(stored["in_dim"]), config=config)
        groups = Groups(*(tensors.pop(name).numpy() for name in GROUPS)) if GROUPS[0] in tensors else NONE
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ArtifactError(f"The tensors in {directory} do not fit its settings: {error}") from error
        bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
        if bad:
            raise ArtifactError(f"The quantizer in {directory} holds NaN or infinite values in {', '.join(bad)}.")
        try:
            check_groups(groups, config.codebook_sizes)
        except ValueError as error:
            raise ArtifactError(f"The quantizer in {directory} cannot be used: {error}") from error
        return cls(model=model.to(device), config=config, meta=stored["meta"], report=stored["report"], groups=groups)
