"""Making and loading causal-LM generators: pre-trained weights + SID tokens, full or LoRA, and their artifacts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dsirm_models.artifacts import read_manifest
from dsirm_models.causal_lm_generator import BACKEND, PROMPT, CausalLMGenerator
from dsirm_models.sid_tokens import add_sid_rows, add_sid_tokens


class Lora(NamedTuple):
    """A low-rank adapter on every linear layer but the output; rows of the SID tokens are trained in full beside it."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05


def create_causal_lm(
    base: str | Path,
    *,
    codebook_sizes: tuple[int, ...],
    lora: Lora | None,
    prompt: str = PROMPT,
    max_query_tokens: int = 48,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    meta: Mapping[str, Any] | None = None,
) -> CausalLMGenerator:
    """Pre-trained weights with fresh SID tokens, ready to be fine-tuned.

    Args:
        base: name (from the local Hugging Face cache) or path of an `AutoModelForCausalLM` with its tokenizer.
        codebook_sizes: codes per level.
        lora: the adapter; None trains every weight.
        prompt: text with one `{query}` in it.
        max_query_tokens: longer queries are cut.
        seed: of the new rows and of the adapter.
        dtype: of the weights; float32 for training (bf16 autocast halves the time, not the precision of the update).
        meta: free JSON values kept with the artifact.

    Raises:
        OSError: the weights are not on this machine (nothing is downloaded).
        ValueError: an unusable architecture, prompt or tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, local_files_only=True, trust_remote_code=False, dtype=dtype, attn_implementation="sdpa"
    )
    fingerprint = weights_fingerprint(model)
    first = add_sid_tokens(tokenizer, codebook_sizes)[0]
    vocabulary = max(first + sum(codebook_sizes), model.get_input_embeddings().weight.shape[0])
    add_sid_rows(model, vocabulary=vocabulary, first=first, count=sum(codebook_sizes), seed=seed)
    if lora is not None:
        model = _attach_lora(model, lora, range(first, first + sum(codebook_sizes)), seed)
    return CausalLMGenerator(
        model=model,
        tokenizer=tokenizer,
        codebook_sizes=codebook_sizes,
        base=str(base),
        base_fingerprint=fingerprint,
        prompt=prompt,
        max_query_tokens=max_query_tokens,
        meta=meta,
    )


def load_causal_lm(
    directory: Path,
    *,
    base: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    trainable: bool = False,
) -> CausalLMGenerator:
    """Read an artifact written by `CausalLMGenerator.save`, in evaluation mode.

    Args:
        directory: the artifact.
        base: where the base weights of a LoRA artifact lie now, if not where they lay in training.
        device: where to put it.
        dtype: of the weights; by default bfloat16 on CUDA and float32 elsewhere. Part of the generator's numeric path.
        trainable: keep a LoRA adapter apart, to be trained on; otherwise it is merged into the weights, which is
        faster.

    Raises:
        ArtifactError: missing, half-written or damaged.
        ValueError: the base weights are not those that the adapter was trained on.
        OSError: the base weights are not on this machine.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = read_manifest(directory, kind="generator")
    if config["backend"] != BACKEND:
        raise ValueError(f"{directory} holds a {config['backend']!r} generator, not a {BACKEND!r} one.")
    device = torch.device(device)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(
        directory / "tokenizer", local_files_only=True, trust_remote_code=False
    )
    source = str(base or config["base"]) if config["lora"] else str(directory / "model")
    model: Any = AutoModelForCausalLM.from_pretrained(
        source, local_files_only=True, trust_remote_code=False, dtype=dtype, attn_implementation="sdpa"
    )
    if config["lora"]:
        if weights_fingerprint(model) != config["base_fingerprint"]:
            raise ValueError(
                f"{source} does not hold the base weights that the adapter {directory} was trained on: "
                "its SIDs would be wrong. Name the folder with the right ones as `base`."
            )
        model = _load_adapter(model, directory / "adapter", config["codebook_sizes"], tokenizer, trainable)
    return CausalLMGenerator(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        codebook_sizes=tuple(config["codebook_sizes"]),
        base=config["base"],
        base_fingerprint=config["base_fingerprint"],
        prompt=config["prompt"],
        max_query_tokens=config["max_query_tokens"],
        meta=config["meta"],
    )


def weights_fingerprint(model: Any) -> str:
    """Hex sha256 that tells pre-trained weights apart, from a sample: a corner of every parameter, as bfloat16.

    bfloat16, so that weights loaded in float32 and in bfloat16 have the same one.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        corner = parameter.detach()[:4].reshape(-1)[:256].to("cpu", torch.bfloat16)
        digest.update(name.encode() + corner.contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _attach_lora(model: Any, lora: Lora, sid_ids: range, seed: int) -> Any:
    """Wrap a model: frozen weights, a seeded adapter, trainable SID rows in the embedding and in the output layer."""
    from peft import LoraConfig, get_peft_model

    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    # Where both layers share one matrix PEFT ties the rows itself; where they do not, both need theirs.
    rows = {names[layer]: [*sid_ids] for layer in (embedding, head)}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        trainable_token_indices=rows,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        return get_peft_model(model, config)


def _load_adapter(model: Any, directory: Path, codebook_sizes: list[int], tokenizer: Any, trainable: bool) -> Any:
    """Put a saved adapter on base weights. The drawn SID rows are replaced by the adapter's."""
    from peft import PeftModel

    first = add_sid_tokens(tokenizer, codebook_sizes)[0]
    vocabulary = max(first + sum(codebook_sizes), model.get_input_embeddings().weight.shape[0])
    add_sid_rows(model, vocabulary=vocabulary, first=first, count=sum(codebook_sizes), seed=0)
    adapted = PeftModel.from_pretrained(model, directory, is_trainable=trainable, local_files_only=True)
    return adapted if trainable else adapted.merge_and_unload()
