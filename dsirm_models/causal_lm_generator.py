"""The generator of the papers: a causal language model that continues a query with the three tokens of a SID.

DSIRM fine-tunes Qwen3-0.6B, CQ-SID Qwen2.5-0.5B, with cross-entropy on the SID of an item clicked or bought. Any
`AutoModelForCausalLM` with full attention serves, by name or local path; nothing is downloaded and no remote code is
run.

Decoding reads the prompt once. The W beams of a query are then W tokens side by side in *one* row, each allowed to
see the prompt, its own ancestors and itself (a tree-shaped attention mask): the prompt's KV cache is neither copied
per beam nor reordered between steps, and only the logits of the level's own codes are computed, not those of the
whole vocabulary.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dsirm_models.artifacts import seal
from dsirm_models.beam import Step
from dsirm_models.generator_data import Asked, unpack_sids
from dsirm_models.sid_index import SidIndex
from dsirm_models.sid_tokens import add_sid_tokens
from schemas.sids import BITS, LEVELS

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedTokenizerFast

BACKEND = "causal_lm"

PROMPT = "Query: {query}\nSemantic ID: "
"""What the model continues. The query is cut to `max_query_tokens`; the words around it are tokenised apart from it, so
that they are never cut and never merge with it."""

ABOUT, RECENT = "User: {about}\n", "Clicked: {recent}\n"
"""What stands before `PROMPT` where a user asks (CQ-SID stage 3), each where it is known; a SID is its three tokens."""

MAX_ABOUT_TOKENS = 32


class CausalLMState(NamedTuple):
    """Where decoding stands: B queries, W prefixes each."""

    cache: DynamicCache
    """Keys and values of S tokens a row: the left-padded prompt, then the beams of each step."""
    sees: Tensor
    """(B, W, S) bool: which of the S tokens each prefix is made of (prompt and ancestors)."""
    position: Tensor
    """(B,) int64: position of the next token, the same for all beams of a query."""
    depth: int
    """Codes read."""


class CausalLMGenerator:
    """A causal LM with SID tokens. A `LevelScorer` whose queries are a list of texts, with or without who asks."""

    backend = BACKEND

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: PreTrainedTokenizerFast,
        codebook_sizes: tuple[int, ...],
        base: str,
        base_fingerprint: str,
        prompt: str = PROMPT,
        max_query_tokens: int = 48,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Wrap a model whose embedding has a row for every SID token; see `causal_lm_loading` for how one is made.

        Args:
            model: a `PreTrainedModel`, or a PEFT model around one.
            tokenizer: SID tokens are added to it if it lacks them.
            codebook_sizes: codes per level.
            base: name or path of the pre-trained weights.
            base_fingerprint: of those weights.
            prompt: text with one `{query}` in it.
            max_query_tokens: longer queries are cut at the end.
            meta: free JSON values kept with the artifact.

        Raises:
            ValueError: an unusable prompt or an architecture that cannot be decoded this way.
        """
        if prompt.count("{query}") != 1 or max_query_tokens < 1 or len(codebook_sizes) != LEVELS:
            raise ValueError(
                f"A causal-LM generator needs one {{query}} in its prompt (not {prompt!r}), max_query_tokens >= 1 "
                f"(not {max_query_tokens}) and {LEVELS} codebook sizes (not {codebook_sizes})."
            )
        _check_architecture(model.config)
        self.model: Any = model
        self.tokenizer = tokenizer
        self.codebook_sizes = tuple(codebook_sizes)
        self.base = base
        self.base_fingerprint = base_fingerprint
        self.prompt = prompt
        self.max_query_tokens = max_query_tokens
        self.meta: dict[str, Any] = dict(meta or {})
        self.first_ids = add_sid_tokens(tokenizer, codebook_sizes)
        before, after = prompt.split("{query}")
        # What the tokenizer puts before any text (Llama: a begin token; Qwen: nothing).
        self._opening = (
            [self.tokenizer.bos_token_id] if self._ids([""], special=True)[0][:1] == [tokenizer.bos_token_id] else []
        )
        self._before = self._ids([before])[0]
        self._after = self._ids([after])[0]
        self._recent = [self._ids([part])[0] for part in RECENT.split("{recent}")]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def lora(self) -> bool:
        """Is the model a LoRA adapter around frozen weights?"""
        return hasattr(self.model, "peft_config")

    def read_prompts(self, texts: Sequence[str | Asked]) -> tuple[Tensor, Tensor]:
        """B texts -> token ids (B, T) int64 and mask (B, T) bool, left-padded so that all end together."""
        queries = self._ids([_query(text) for text in texts], limit=self.max_query_tokens)
        who = self._read_users(texts)
        prompts = [
            self._opening + user + self._before + ids + self._after for user, ids in zip(who, queries, strict=True)
        ]
        length = max(map(len, prompts))
        ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[False] * (length - len(prompt)) + [True] * len(prompt) for prompt in prompts])
        return ids.to(self.device), mask.to(self.device)

    def _read_users(self, texts: Sequence[str | Asked]) -> list[list[int]]:
        """The tokens that say who asks; none for a plain text.

        Raises:
            ValueError: a recent SID that the codebook does not have.
        """
        out: list[list[int]] = [[] for _ in texts]
        before, after = self._recent
        for tokens, text in zip(out, texts, strict=True):
            if not isinstance(text, Asked):
                continue
            if text.about:
                tokens += self._ids([ABOUT.format(about=text.about)], limit=MAX_ABOUT_TOKENS)[0]
            if text.recent:
                codes = unpack_sids(np.array(text.recent, dtype=np.int64))
                if (codes >= np.array(self.codebook_sizes)).any():
                    raise ValueError(f"A recent SID has codes beyond codebooks of {self.codebook_sizes}.")
                tokens += [*before, *(codes + np.array(self.first_ids)).reshape(-1).tolist(), *after]
        return out

    def log_likelihood(self, texts: Sequence[str | Asked], targets: Tensor, index: SidIndex | None) -> Tensor:
        """Log p(c_l | text, c_<l) of one SID a text, differentiable.

        Args:
            texts: B texts.
            targets: (B, L) codes; every SID exists in `index`.
            index: the softmax is over the valid children of each prefix, as in decoding; None: over the vocabulary.

        Returns:
            (B, L) float32
        """
        ids, mask = self.read_prompts(texts)
        tokens = targets + torch.tensor(self.first_ids, device=targets.device)
        ids = torch.cat([ids, tokens[:, :-1]], dim=1)
        mask = torch.cat([mask, mask.new_ones((len(mask), LEVELS - 1))], dim=1)
        # The last prompt token predicts the first code: prompts end together, so these are the last L positions.
        logits = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=_positions(mask),
            logits_to_keep=LEVELS,
            use_cache=False,
        ).logits.float()
        if index is None:
            return torch.log_softmax(logits, dim=-1).gather(2, tokens[:, :, None]).squeeze(2)
        packed = torch.zeros_like(targets[:, 0])
        nodes = torch.zeros_like(packed)
        out = []
        for depth, (first, size) in enumerate(zip(self.first_ids, self.codebook_sizes, strict=True)):
            codes = targets[:, depth]
            allowed = index.child_mask(nodes, depth, size)
            level = logits[:, depth, first : first + size].masked_fill(~allowed, torch.finfo(logits.dtype).min)
            out.append(torch.log_softmax(level, dim=-1).gather(1, codes[:, None]).squeeze(1))
            packed = packed << BITS | codes
            nodes = index.find(packed, depth + 1)
        return torch.stack(out, dim=1)

    def start(self, queries: Sequence[str | Asked]) -> Step[CausalLMState]:
        """Read B texts: logits (B, 1, K_1)."""
        from transformers import DynamicCache

        ids, mask = self.read_prompts(queries)
        cache = DynamicCache()
        hidden = self._decoder(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=_positions(mask),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1:]
        state = CausalLMState(cache, mask[:, None], mask.sum(dim=1), 0)
        return Step(state, self._level_logits(hidden, 0))

    def extend(self, state: CausalLMState, parents: Tensor, codes: Tensor) -> Step[CausalLMState]:
        """Append codes (B, W) to the prefixes numbered by parents (B, W): logits (B, W, K_l). Grows the cache."""
        batch, width = codes.shape
        depth = state.depth + 1
        own = torch.eye(width, dtype=torch.bool, device=codes.device).expand(batch, -1, -1)
        above = state.sees.gather(1, parents[:, :, None].expand(-1, -1, state.sees.shape[2]))
        sees = torch.cat([above, own], dim=2)
        mask = torch.zeros(sees.shape, dtype=self.model.dtype, device=codes.device)
        mask = mask.masked_fill_(~sees, torch.finfo(mask.dtype).min)[:, None]
        hidden = self._decoder(
            input_ids=codes + self.first_ids[depth - 1],
            attention_mask=mask,
            position_ids=state.position[:, None].expand(-1, width),
            past_key_values=state.cache,
            use_cache=True,
        ).last_hidden_state
        return Step(CausalLMState(state.cache, sees, state.position + 1, depth), self._level_logits(hidden, depth))

    def save(self, directory: Path) -> None:
        """Write the artifact (kind "generator"), whole or not at all, replacing an older one of the name.

        Holds the tokenizer and, fully fine-tuned, the weights (`model/`), or with LoRA the adapter with the SID rows
        (`adapter/`) and the name and fingerprint of the base weights, which must be there to load it.
        """
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self.tokenizer.save_pretrained(partial / "tokenizer")
        if self.lora:
            # The SID rows travel as trainable tokens; "auto" would ask the hub and add the whole embedding.
            self.model.save_pretrained(partial / "adapter", save_embedding_layers=False)
        else:
            self.model.save_pretrained(partial / "model")
        config = {
            "backend": BACKEND,
            "codebook_sizes": list(self.codebook_sizes),
            "lora": self.lora,
            "base": self.base,
            "base_fingerprint": self.base_fingerprint,
            "prompt": self.prompt,
            "max_query_tokens": self.max_query_tokens,
            "meta": self.meta,
        }
        seal(partial, kind="generator", config=config)
        if directory.exists():
            shutil.rmtree(directory)
        partial.rename(directory)

    @property
    def _plain(self) -> Any:
        """The network itself; LoRA layers sit inside it."""
        return self.model.get_base_model() if self.lora else self.model

    def _decoder(self, **inputs: Any) -> Any:
        """The network below its output layer: (B, T, H)."""
        return self._plain.base_model(**inputs)

    def _level_logits(self, hidden: Tensor, depth: int) -> Tensor:
        """Hidden states (B, W, H) -> logits (B, W, K) of the codes of level depth + 1."""
        codes = slice(self.first_ids[depth], self.first_ids[depth] + self.codebook_sizes[depth])
        head = self._plain.get_output_embeddings()
        if type(head) is nn.Linear:
            return functional.linear(hidden, head.weight[codes], None if head.bias is None else head.bias[codes])
        # Wrapped by PEFT, whose trained rows are put in place by its own forward.
        logits: Tensor = head(hidden)[..., codes]
        return logits

    def _ids(self, texts: list[str], *, limit: int | None = None, special: bool = False) -> list[list[int]]:
        """Token ids of texts. What looks like a special token in a text is split into ordinary pieces."""
        encoded: list[list[int]] = self.tokenizer(
            texts,
            add_special_tokens=special,
            split_special_tokens=True,
            truncation=limit is not None,
            max_length=limit,
        )["input_ids"]
        return encoded


def _query(text: str | Asked) -> str:
    return text.query if isinstance(text, Asked) else text


def _positions(mask: Tensor) -> Tensor:
    """Mask (B, T) of left-padded rows -> positions (B, T) counted from the first real token."""
    return (mask.long().cumsum(dim=1) - 1).clamp_(min=0)


def _check_architecture(config: Any) -> None:
    """Refuse models for which decoding beams side by side, or slicing the output layer, would give other scores."""
    problems = [
        f"{name}={value}"
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if (value := getattr(config, name, None)) not in (None, 1, 1.0)
    ]
    layers = getattr(config, "layer_types", None)
    if layers and set(layers) != {"full_attention"}:
        problems.append(f"layer_types={sorted(set(layers))}")
    elif not layers and getattr(config, "sliding_window", None) is not None:
        problems.append(f"sliding_window={config.sliding_window}")
    if problems:
        raise ValueError(
            f"{config.model_type} models of this configuration cannot be decoded here ({', '.join(problems)}): full "
            "attention and plain output logits are needed, as in Qwen2.5, Qwen3 or Llama."
        )
