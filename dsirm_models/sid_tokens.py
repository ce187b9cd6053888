"""SIDs as tokens of a language model: one added token per level and code, `<s1_0>` ... `<s3_511>`.

The papers do not state their token format. One token per (level, code) makes a SID exactly three tokens, so decoding
takes exactly three steps, and keeps code 7 of level 1 apart from code 7 of level 2, which mean different things.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def sid_tokens(codebook_sizes: Sequence[int]) -> list[str]:
    """All SID tokens, level by level, codes ascending."""
    return [f"<s{level}_{code}>" for level, size in enumerate(codebook_sizes, start=1) for code in range(size)]


def add_sid_tokens(tokenizer: PreTrainedTokenizerFast, codebook_sizes: Sequence[int]) -> tuple[int, ...]:
    """Add the SID tokens to a tokenizer (those it has already stay) and return the id of each level's code 0.

    The ids of a level are consecutive, so that its logits are one slice of the output layer.

    Raises:
        ValueError: the tokenizer had only some of them, so that they cannot be consecutive.
    """
    from tokenizers import AddedToken

    tokens = sid_tokens(codebook_sizes)
    # special: a query text that spells out "<s1_0>" is then split into ordinary pieces where specials are split.
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(tokens))
    if not torch.equal(ids, torch.arange(int(ids[0]), int(ids[0]) + len(tokens))):
        raise ValueError(
            "The tokenizer holds SID tokens of another codebook: the new ones would not be consecutive. "
            "Start from a tokenizer without SID tokens, or from an artifact of the same codebook sizes."
        )
    starts = [int(ids[0])]
    for size in codebook_sizes[:-1]:
        starts.append(starts[-1] + size)
    return tuple(starts)


@torch.no_grad()
def add_sid_rows(model: Any, *, vocabulary: int, first: int, count: int, seed: int) -> None:
    """Grow the embedding (and the output layer) to `vocabulary` rows and draw rows first..first + count - 1, in place.

    SID rows are drawn per dimension with the mean and spread of the rows before them: they then look like ordinary
    tokens to the layers above, where rows near zero or far out would start the loss high. Some models keep spare,
    untrained rows behind their vocabulary (Qwen3 has 267); SID tokens that fall on those are drawn like the others.
    """
    embedding = model.get_input_embeddings()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if vocabulary > len(embedding.weight):
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        tied = head is None or head.weight is embedding.weight
        for layer in (embedding,) if tied else (embedding, head):
            known = layer.weight[:first].float()
            noise = torch.randn((count, known.shape[1])).to(known.device)
            layer.weight[first : first + count] = (known.mean(dim=0) + known.std(dim=0) * noise).to(layer.weight.dtype)
