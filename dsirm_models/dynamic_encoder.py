"""The ablation "dynamic instead of static embeddings" (DSIRM): clicks may move the encoder, not its projections alone.

How the paper made it is not stated. Here the top layer of the encoder is tuned together with towers and codebooks on
the full DSIRM objective; everything below it stays as it is, so that its output is computed once. The tuned vectors
then take the place of the frozen ones in an ordinary training of the quantizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dsirm_models.artifacts import read_artifact, write_artifact
from dsirm_models.encoder import TextEncoder, mean_pool
from dsirm_models.quantizer_data import PairData, Resident, batch_order
from dsirm_models.quantizer_loss import training_loss
from dsirm_models.quantizer_model import QuantizerConfig, QuantizerModel
from dsirm_models.train_quantizer import learning_rate_factor, start

KIND = "token-states"
TOP_LEARNING_RATE = 5e-5


class TokenStates(NamedTuple):
    """What the encoder's last layer reads, of queries and items."""

    query: NDArray[np.float16]
    """(tokens of all queries, D)."""
    query_starts: NDArray[np.int64]
    """(Q + 1,)."""
    item: NDArray[np.float16]
    item_starts: NDArray[np.int64]

    def save(self, directory: Path) -> None:
        """Write an artifact."""
        tensors = {name: torch.from_numpy(value) for name, value in self._asdict().items()}
        write_artifact(directory, kind=KIND, tensors=tensors, config={})

    @classmethod
    def load(cls, directory: Path) -> TokenStates:
        """Read what `save` wrote."""
        tensors = read_artifact(directory, kind=KIND).tensors
        return cls(**{name: tensor.numpy() for name, tensor in tensors.items()})


def tune_top(
    data: PairData, states: TokenStates, encoder: TextEncoder, config: QuantizerConfig, *, steps: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Tune the top layer for `steps` steps of `config.batch_size` pairs.

    Returns:
        The vectors of queries (Q, D) and items (I, D) afterwards, unit length.

    Raises:
        EncoderError: the encoder's top layer cannot be taken off.
        ValueError: states of other texts than the data's rows.

    """
    if (
        len(states.query_starts) != len(data.query_embeddings) + 1
        or len(states.item_starts) != len(data.item_embeddings) + 1
    ):
        raise ValueError("The token states belong to other queries or items than the data: compute them again.")
    top = encoder.top()
    model = QuantizerModel(in_dim=data.item_embeddings.shape[1], config=config)
    resident = Resident(data, config, torch.device("cpu"))
    start(model, resident, config)
    optimizer = torch.optim.AdamW(
        [
            {"params": model.parameters(), "lr": config.learning_rate, "scale": config.learning_rate},
            {"params": top.parameters(), "lr": TOP_LEARNING_RATE, "scale": TOP_LEARNING_RATE},
        ],
        weight_decay=0.0,
    )
    model.train()
    for step, rows in batch_order(data, config, start=0):
        if step == steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate_factor(step, config)
        batch = resident.batch(rows)
        batch = batch._replace(
            query=_embed(top, states.query, states.query_starts, data.query_index[rows]),
            item=_embed(top, states.item, states.item_starts, data.item_index[rows]),
        )
        loss = training_loss(model, batch, config).total
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    top.eval()
    with torch.inference_mode():
        return _embed_all(top, states.query, states.query_starts), _embed_all(top, states.item, states.item_starts)


def _embed(top: nn.Module, values: NDArray[np.float16], starts: NDArray[np.int64], rows: NDArray[np.integer]) -> Tensor:
    """Rows (B,) of the ragged states -> unit vectors (B, D). Each distinct text goes through the layer once."""
    distinct, place = np.unique(rows, return_inverse=True)
    lengths = starts[distinct + 1] - starts[distinct]
    hidden = torch.zeros(len(distinct), int(lengths.max()), values.shape[1])
    mask = torch.zeros(hidden.shape[:2], dtype=torch.long)
    for at, row in enumerate(distinct):
        hidden[at, : lengths[at]] = torch.from_numpy(values[starts[row] : starts[row + 1]]).float()
        mask[at, : lengths[at]] = 1
    # What BERT's layers add to their attention scores: nothing where there is a token, minus infinity where none is.
    bias = torch.zeros(mask.shape).masked_fill_(mask == 0, torch.finfo(torch.float32).min)[:, None, None, :]
    out = top(hidden, attention_mask=bias)
    out = out[0] if isinstance(out, tuple) else out
    return mean_pool(out, mask)[torch.from_numpy(place)]


def _embed_all(top: nn.Module, values: NDArray[np.float16], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    order = np.argsort(np.diff(starts), kind="stable")
    out = np.empty((len(order), values.shape[1]), dtype=np.float32)
    for begin in range(0, len(order), 64):
        # Ascending rows, because `_embed` sorts them anyway.
        rows = np.sort(order[begin : begin + 64])
        out[rows] = _embed(top, values, starts, rows).numpy()
    return out
