"""The learnable parts around the quantizer: two projection encoders into one latent space, and one decoder back.

DSIRM (arXiv 2606.04374) keeps the dual encoder frozen and learns projections of its embeddings. Widths are not stated
there. Chosen here: one hidden layer, unit-length latents (InfoNCE is blind to lengths, so codes need not spend on them;
it also bounds the commitment), both towers started from the same weights because their inputs share the frozen
encoder's space, and a single decoder for both for the same reason.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_NORM = 1e-12
"""Latents shorter than this are divided by this instead: a zero vector stays zero."""


class ProjectionEncoder(nn.Module):
    """in_dim -> hidden -> dim with one ReLU; rows of unit length if `normalize`."""

    def __init__(self, *, in_dim: int, hidden: int, dim: int, normalize: bool = True) -> None:
        super().__init__()
        self.inner = nn.Linear(in_dim, hidden)
        self.outer = nn.Linear(hidden, dim)
        self.normalize = normalize

    @property
    def in_dim(self) -> int:
        """Width of the embeddings this tower takes."""
        return self.inner.in_features

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim) -> (B, dim)."""
        latent: Tensor = self.outer(torch.relu(self.inner(x)))
        return F.normalize(latent, dim=1, eps=SMALLEST_NORM) if self.normalize else latent


class Decoder(nn.Module):
    """dim -> hidden -> out_dim with one ReLU: the frozen embedding again, from a quantized latent of either tower."""

    def __init__(self, *, dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, hidden)
        self.outer = nn.Linear(hidden, out_dim)

    def forward(self, z: Tensor) -> Tensor:
        """(B, dim) -> (B, out_dim)."""
        out: Tensor = self.outer(torch.relu(self.inner(z)))
        return out


def seeded_init(module: nn.Module, *, generator: torch.Generator) -> None:
    """Draw every Linear of `module` anew from `generator` (He-uniform weights, zero biases), on the CPU.

    torch's own initial values come from the global random state, which no caller can be asked to seed.
    """
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                bound = (6.0 / layer.in_features) ** 0.5
                draw = torch.empty(layer.weight.shape).uniform_(-bound, bound, generator=generator)
                layer.weight.copy_(draw)
                layer.bias.zero_()
