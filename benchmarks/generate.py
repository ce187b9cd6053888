"""Constrained beam search of the causal-LM generator against Hugging Face `generate`, and the mask of valid codes."""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.figures import Figure, alternating, one_thread, save
from dsirm_models.beam import beam_search
from dsirm_models.causal_lm_generator import CausalLMGenerator
from dsirm_models.causal_lm_loading import create_causal_lm
from dsirm_models.sid_index import SidIndex
from schemas.sids import BITS, MAX_CODE, pack

SIZES = (216, 512, 512)
BEAMS, PROMPT_TOKENS = 50, 64
QUERIES = {"small": 8, "full": 128}
SIDS = {"small": 200_000, "full": 1_100_000}
MASKED_SIDS, MASKED_BEAMS = 1_100_000, 400
WORDS = [f"w{number}" for number in range(500)]
PROMPT = "Query {query} Answer"


def main(size: str) -> None:
    """Measure and save."""
    figures = [decoding(torch.device("cpu"), queries=QUERIES[size], sids=SIDS[size]), _mask()]
    facts = {"beams": BEAMS, "prompt_tokens": PROMPT_TOKENS, "threads": torch.get_num_threads()}
    save("generate", size, figures, facts)


def random_sids(count: int) -> NDArray[np.int64]:
    """Some packed SIDs, with repetition."""
    rng = np.random.default_rng(1)
    codes = [rng.integers(size, size=count, dtype=np.int64) for size in SIZES]
    return codes[0] << 2 * BITS | codes[1] << BITS | codes[2]


@torch.no_grad()
def decoding(device: torch.device, *, queries: int, sids: int) -> Figure:
    """Our beams against Hugging Face's, of a small causal LM in float32; refuses results that differ."""
    packed = np.unique(random_sids(sids))
    index = SidIndex(packed).to(device)
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(WORDS, PROMPT_TOKENS)) for _ in range(queries)]
    with tempfile.TemporaryDirectory() as folder:
        generator = _generator(Path(folder))
    generator.model.to(device)
    ids, mask = generator.read_prompts(texts)
    assert ids.shape[1] == PROMPT_TOKENS, ids.shape
    children: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for depth, first in enumerate(generator.first_ids):
        for key in np.unique(packed >> BITS * (2 - depth)):
            codes = [int(key) >> BITS * at & MAX_CODE for at in range(depth, -1, -1)]
            children[tuple(codes[:-1])].append(first + codes[-1])

    def allowed(_: int, tokens: Tensor) -> list[int]:
        tail = tokens[PROMPT_TOKENS:].tolist()
        return children[tuple(token - first for token, first in zip(tail, generator.first_ids, strict=False))]

    def ours() -> Any:
        return beam_search(generator, index, texts, BEAMS)

    def hugging_face() -> Any:
        # Four queries at once: its cache is copied for every beam.
        return [
            generator.model.generate(
                input_ids=part_ids, attention_mask=part_mask.long(), max_new_tokens=3, num_beams=BEAMS,
                num_return_sequences=BEAMS, do_sample=False, renormalize_logits=True, output_scores=True,
                return_dict_in_generate=True, prefix_allowed_tokens_fn=allowed, eos_token_id=None, pad_token_id=0,
            )
            for part_ids, part_mask in zip(ids.split(4), mask.split(4), strict=True)
        ]  # fmt: skip

    share = _same(ours(), hugging_face(), generator.first_ids, index)
    seconds, theirs = alternating(ours, hugging_face, rounds=3)
    return Figure(
        name="constrained beams of a causal LM", ours=len(texts) / seconds, peer=len(texts) / theirs,
        peer_name="transformers generate + prefix_allowed_tokens_fn", unit="queries/s", limit=10.0,
        higher_is_better=True, note=f"The same SIDs in the same order at {share:.2%} of the places; the others tie.",
    )  # fmt: skip


def _same(ours: Any, theirs: list[Any], first_ids: tuple[int, ...], index: SidIndex) -> float:
    """Share of places with the same SID; refuses a difference that is no tie, and a SID that does not exist."""
    sids = torch.cat([part.sequences[:, -3:] for part in theirs]).cpu() - torch.tensor(first_ids)
    packed = torch.tensor([pack(codes) for codes in sids.tolist()]).view(-1, BEAMS)
    scores = torch.cat([part.sequences_scores for part in theirs]).cpu().view(-1, BEAMS) * 3
    mine, logps = torch.as_tensor(ours.sids), torch.as_tensor(ours.logps)
    index = index.to("cpu")
    assert bool(index.contains(mine).all()) and bool(index.contains(packed).all())
    equal = mine == packed
    gap = (logps.sum(dim=-1) - scores).abs()
    assert bool((equal | (gap < 1e-4)).all()), "the beams differ where scores do not tie"
    return float(equal.float().mean())


def _generator(folder: Path) -> CausalLMGenerator:
    """Four layers, 256 wide, random weights."""
    save_base(
        folder, rows=len(WORDS) + 3, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64,
    )  # fmt: skip
    made = create_causal_lm(folder, codebook_sizes=SIZES, lora=None, prompt=PROMPT, max_query_tokens=PROMPT_TOKENS - 2)
    made.model.eval()
    return made


def save_base(folder: Path, *, rows: int, **shape: int) -> None:
    """A Qwen3 of any shape, random weights in float32; words and the words of the prompt are one token each."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {word: at for at, word in enumerate(["<unk>", "Query", "Answer", *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=rows, max_position_embeddings=256, tie_word_embeddings=True, **shape)
    Qwen3ForCausalLM(config).save_pretrained(folder)


@torch.no_grad()
def _mask() -> Figure:
    """Which of 512 codes may follow each of 400 prefixes, from sorted packed keys and from a dictionary of prefixes."""
    sids = np.unique(random_sids(MASKED_SIDS))
    index = SidIndex(sids)
    prefixes = np.unique(sids >> BITS)
    children = {int(key): [] for key in prefixes}
    for sid in sids.tolist():
        children[sid >> BITS].append(sid & MAX_CODE)
    as_arrays = {key: torch.tensor(codes) for key, codes in children.items()}
    wanted = torch.from_numpy(np.random.default_rng(3).choice(prefixes, MASKED_BEAMS))
    keys = wanted.tolist()

    def ours() -> Tensor:
        return index.child_mask(index.find(wanted, 2), 2, SIZES[2])

    def dictionary() -> Tensor:
        mask = torch.zeros(MASKED_BEAMS, SIZES[2], dtype=torch.bool)
        for row, key in enumerate(keys):
            mask[row, as_arrays[key]] = True
        return mask

    assert torch.equal(ours(), dictionary())
    with one_thread():
        seconds, theirs = alternating(lambda: [ours() for _ in range(50)], lambda: [dictionary() for _ in range(50)])
    return Figure(
        name="mask of valid codes, 400 beams", ours=1000 * seconds / 50, peer=1000 * theirs / 50,
        peer_name="dictionary of prefixes", unit="ms", limit=0.3, note="One thread on either side.",
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
