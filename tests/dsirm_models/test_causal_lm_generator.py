from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dsirm_models.beam import beam_search, score_sids
from dsirm_models.causal_lm_generator import CausalLMGenerator
from dsirm_models.causal_lm_loading import Lora, create_causal_lm, load_causal_lm
from dsirm_models.generator_data import Asked, TextData
from dsirm_models.generator_training import Progress
from dsirm_models.generators import load_generator
from dsirm_models.sid_index import SidIndex
from dsirm_models.train_causal_lm import CausalLMConfig, TrainedCausalLM, train_causal_lm
from schemas.sids import pack, unpack

SIZES = (4, 5, 6)
WORDS = [
    "red",
    "blue",
    "green",
    "shoe",
    "lamp",
    "desk",
    "sofa",
    "ring",
    "Query",
    ":",
    "Semantic",
    "ID",
    "<",
    ">",
    "_",
    "s",
    "1",
    "0",
]
TEXTS = [f"{colour} {thing}" for colour in WORDS[:3] for thing in WORDS[3:8]]
TINY = {
    "steps": 24,
    "batch_size": 8,
    "learning_rate": 5e-3,
    "evaluate_every": 12,
    "checkpoint_every": 8,
    "lora_dropout": 0.0,
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny_model(kind: str, vocabulary: int, tied: bool) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
    }
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=8))
    return LlamaForCausalLM(LlamaConfig(**shape))


def write_base(folder: Path, *, kind: str = "qwen3", tied: bool = True, seed: int = 0) -> Path:
    """A random model with a word tokenizer, as a folder of pre-trained weights would be."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate(["<pad>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tiny_model(kind, len(vocabulary) + 3, tied).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def toy(*, held_out: bool = False) -> TextData:
    """The thing decides the first two codes, the colour the third."""
    sids = [pack((t % 4, t, c)) for c in range(3) for t in range(5)]
    train = np.array([not held_out or place % 5 > 0 for place in range(15)])
    return TextData(TEXTS, np.arange(15), np.array(sids), np.ones(15), train)


def train(base: Path, data: TextData | None = None, **options: Any) -> TrainedCausalLM:
    settings = {name: options.pop(name) for name in [*options] if name in CausalLMConfig.__dataclass_fields__}
    config = CausalLMConfig(**(TINY | settings))
    return train_causal_lm(data or toy(), base=base, codebook_sizes=SIZES, config=config, **options)


def trained_weights(generator: CausalLMGenerator) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in generator.model.named_parameters() if value.requires_grad}


def assert_close(a: TrainedCausalLM, b: TrainedCausalLM, atol: float) -> None:
    ours, theirs = trained_weights(a.generator), trained_weights(b.generator)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=atol, rtol=0, msg=name)


def naive_logps(generator: CausalLMGenerator, index: SidIndex, text: str, sid: int) -> np.ndarray:
    """The whole prompt and prefix run again for every level, no cache, no batch, no tree."""
    ids, _ = generator.read_prompts([text])
    out, prefix = [], ()
    exists = {unpack(int(s)) for s in index.prefixes(torch.arange(len(index)), 3)}
    for depth, code in enumerate(unpack(sid)):
        tokens = [[generator.first_ids[level] + c for level, c in enumerate(prefix)]]
        whole = torch.cat([ids, torch.tensor(tokens, dtype=torch.int64)], dim=1)
        with torch.no_grad():
            logits = generator.model(input_ids=whole).logits[0, -1].double()
        first = generator.first_ids[depth]
        valid = sorted({other[depth] for other in exists if other[:depth] == prefix})
        out.append(float(logits[first + code] - torch.logsumexp(logits[[first + c for c in valid]], 0)))
        prefix = (*prefix, code)
    return np.array(out)


@pytest.mark.parametrize(("kind", "tied"), [("qwen3", True), ("llama", False)])
@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_beams_from_the_shared_cache_equal_running_every_prompt_again(
    tmp_path: Path, kind: str, tied: bool, lora: Lora | None
) -> None:
    folder = write_base(tmp_path / "base", kind=kind, tied=tied, seed=3)
    generator = create_causal_lm(folder, codebook_sizes=SIZES, lora=lora)
    generator.model.eval()
    sids = np.random.default_rng(0).choice([pack(codes) for codes in np.ndindex(*SIZES)], 25, replace=False)
    index = SidIndex(sids)
    texts = ["red shoe", "green", "blue lamp desk ring sofa"]
    beams = beam_search(generator, index, texts, 4, width=25)
    for row, text in enumerate(texts):
        truth = {int(sid): naive_logps(generator, index, text, int(sid)) for sid in sids}
        best = sorted(truth, key=lambda sid: -truth[sid].sum())[:4]
        assert beams.sids[row].tolist() == best
        np.testing.assert_allclose(beams.logps[row], [truth[sid] for sid in best], atol=1e-4)
    scored = score_sids(generator, index, texts, beams.sids)
    np.testing.assert_allclose(scored, beams.logps, atol=1e-4)
    narrow = beam_search(generator, index, texts, 3, batch_size=1)
    assert np.isin(narrow.sids, sids).all()


def test_full_fine_tuning_learns_a_mapping_and_its_artifact_repeats_it(base: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    data = toy()
    generator, report = train(base, steps=60, learning_rate=1e-2, on_step=lambda progress: losses.append(progress.loss))
    assert np.mean(losses[-5:]) < 0.2 * losses[0]
    assert report.best_step == report.steps == 60
    index = SidIndex(data.sids)
    beams = beam_search(generator, index, TEXTS, 2)
    assert (beams.sids[:, 0] == data.sids).mean() > 0.9
    generator.meta["codebook_version"] = "c1"
    generator.save(tmp_path / "g")
    loaded = load_generator(tmp_path / "g")
    assert loaded.backend == "causal_lm" and loaded.meta == {"codebook_version": "c1"}
    again = beam_search(loaded, index, TEXTS, 2)
    assert np.array_equal(again.sids, beams.sids)
    np.testing.assert_allclose(again.logps, beams.logps, atol=1e-5)
    warm = train(base, data, steps=1, warm_start=tmp_path / "g", on_step=lambda progress: losses.append(progress.loss))
    assert losses[-1] < 0.5 * losses[0] and warm.generator.codebook_sizes == SIZES
    with pytest.raises(ValueError, match="is no warm start"):
        train(base, finetuning="lora", warm_start=tmp_path / "g")


@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_the_new_rows_and_leaves_the_base_alone(tmp_path: Path, tied: bool) -> None:
    folder = write_base(tmp_path / "base", tied=tied, seed=1)
    before = create_causal_lm(folder, codebook_sizes=SIZES, lora=None).model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    losses: list[float] = []
    generator, _ = train(
        folder,
        finetuning="lora",
        lora_rank=4,
        steps=80,
        learning_rate=2e-2,
        on_step=lambda progress: losses.append(progress.loss),
    )
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
    first, count = generator.first_ids[0], sum(SIZES)
    frozen = {
        name.replace(".token_adapter", "").replace(".base_layer", ""): value
        for name, value in generator.model.named_parameters()
        if not value.requires_grad
    }
    for name, value in before.items():
        kept = [other for other_name, other in frozen.items() if other_name.endswith(name)]
        assert all(torch.equal(value, other) for other in kept)
        assert kept or (tied and name == "lm_head.weight")
    generator.save(tmp_path / "g")
    assert not (tmp_path / "g" / "model").exists()
    merged = load_causal_lm(tmp_path / "g")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        now = merged.model.state_dict()[name]
        moved = (now != before[name]).any(dim=1)
        assert moved[first : first + count].all() and not moved[:first].any() and not moved[first + count :].any()
    index = SidIndex(toy().sids)
    apart = load_causal_lm(tmp_path / "g", trainable=True)
    expected = beam_search(generator, index, TEXTS, 3)
    for other in (merged, apart):
        beams = beam_search(other, index, TEXTS, 3)
        assert np.array_equal(beams.sids[:, 0], expected.sids[:, 0])
        np.testing.assert_allclose(beams.logps, expected.logps, atol=1e-3)
    assert trained_weights(apart).keys() == trained_weights(generator).keys()
    other_base = write_base(tmp_path / "other", tied=tied, seed=2)
    with pytest.raises(ValueError, match="does not hold the base weights"):
        load_generator(tmp_path / "g", base=other_base)


@pytest.mark.parametrize("finetuning", ["full", "lora"])
def test_two_micro_batches_of_four_take_the_path_of_one_of_eight(base: Path, finetuning: str) -> None:
    whole, cut = (train(base, finetuning=finetuning, steps=6, learning_rate=1e-3, accumulation=n) for n in (1, 2))
    assert_close(whole, cut, atol=2e-4)


@pytest.mark.parametrize("finetuning", ["full", "lora"])
def test_a_killed_run_resumes_to_the_same_weights(base: Path, tmp_path: Path, finetuning: str) -> None:
    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 19:
            raise Killed

    options: dict[str, Any] = {"data": toy(held_out=True), "finetuning": finetuning, "lora_dropout": 0.1}
    with pytest.raises(Killed):
        train(base, checkpoint_dir=tmp_path, on_step=kill, **options)
    steps: list[int] = []
    resumed = train(base, checkpoint_dir=tmp_path, on_step=lambda progress: steps.append(progress.step), **options)
    whole = train(base, **options)
    assert steps[0] == 17
    assert_close(whole, resumed, atol=0)
    assert whole.report == resumed.report and len(whole.report.evaluations) == 2


def test_the_loss_over_valid_children_is_what_decoding_scores(base: Path) -> None:
    data = toy()
    index = SidIndex(data.sids)
    generator = train(base, steps=4, index=index).generator
    codes = torch.tensor([unpack(int(sid)) for sid in data.sids])
    with torch.no_grad():
        direct = generator.log_likelihood(TEXTS, codes, index).numpy()
        wide = generator.log_likelihood(TEXTS, codes, None).numpy()
    np.testing.assert_allclose(direct, score_sids(generator, index, TEXTS, data.sids), atol=1e-4)
    assert (wide < direct + 1e-6).all()
    with pytest.raises(ValueError, match="does not hold"):
        train(base, index=SidIndex(data.sids[:3]))


def test_a_query_cannot_smuggle_in_sid_tokens_or_cut_the_prompt(base: Path) -> None:
    generator = create_causal_lm(base, codebook_sizes=SIZES, lora=None, max_query_tokens=6)
    ids, mask = generator.read_prompts(["<s1_0> " * 20, "red", ""])
    assert int((ids[0] >= generator.first_ids[0]).sum()) == 0
    head, tail = generator.read_prompts([""])[0][0][:2], generator.read_prompts([""])[0][0][2:]
    assert all(
        row[flags][:2].equal(head) and row[flags][-len(tail) :].equal(tail)
        for row, flags in zip(ids, mask, strict=True)
    )
    assert mask.sum(dim=1).tolist() == [len(head) + len(tail) + extra for extra in (6, 1, 0)]
    assert generator.tokenizer.convert_ids_to_tokens(generator.first_ids[1]) == "<s2_0>"


def test_unsuitable_models_and_settings_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"steps.*finetuning.*accumulation 3 must divide.*prompt"):
        CausalLMConfig(steps=0, finetuning="half", batch_size=8, accumulation=3, prompt="no place")  # type: ignore[arg-type]
    generator = create_causal_lm(base, codebook_sizes=SIZES, lora=None)
    with pytest.raises(ValueError, match="another codebook"):
        beam_search(generator, SidIndex(np.array([pack((4, 0, 0))])), ["red"], 1)
    generator.model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match="sliding_attention"):
        CausalLMGenerator(
            model=generator.model, tokenizer=generator.tokenizer, codebook_sizes=SIZES, base="b", base_fingerprint=""
        )
    with pytest.raises(OSError):
        create_causal_lm(tmp_path / "nowhere", codebook_sizes=SIZES, lora=None)


# With a user ------------------------------------------------------------------------------------------------------


def test_who_asks_stands_before_the_query_and_only_recent_sids_are_sid_tokens(base: Path) -> None:
    generator = create_causal_lm(base, codebook_sizes=SIZES, lora=None)

    def tokens(text: str | Asked) -> list[int]:
        return generator.read_prompts([text])[0][0].tolist()

    alone = tokens("red shoe")
    assert tokens(Asked("red shoe", "", ())) == alone
    recent = (pack((1, 2, 3)), pack((0, 4, 5)))
    asked = tokens(Asked("red shoe", "blue", recent))
    assert asked[-len(alone) :] == alone
    first = generator.first_ids
    assert [token for token in asked if token >= first[0]] == [
        first[level] + code for sid in recent for level, code in enumerate(unpack(sid))
    ]
    assert len(tokens(Asked("red shoe", "blue", ()))) < len(asked)
    assert max(tokens(Asked("<s1_0>", "<s1_0> <s2_1>", ()))) < first[0], "a text is no SID, whoever typed it"
    together, mask = generator.read_prompts(["red shoe", Asked("red shoe", "blue", recent)])
    assert together[0][mask[0]].tolist() == alone
    with pytest.raises(ValueError, match="beyond codebooks"):
        tokens(Asked("red shoe", "", (pack((1, 2, 6)),)))


def test_requests_teach_what_their_users_clicked(base: Path) -> None:
    """Two users ask the same things and want different ones; only what they clicked before tells them apart."""
    data = toy()
    other = np.roll(data.sids, 5)
    users = ((pack((0, 0, 0)),), (pack((1, 1, 1)),))
    texts = [Asked(text, "", recent) for recent in users for text in data.texts]
    both = TextData(texts, np.arange(30), np.concatenate([data.sids, other]), np.ones(30), np.ones(30, dtype=bool))
    index = SidIndex(data.sids)
    generator = train(base, both, index=index, steps=120, batch_size=15, targets_per_query=2).generator
    found = beam_search(generator, index, texts, 1).sids[:, 0]
    assert (found == both.sids).mean() > 0.8


def test_several_sids_of_a_text_are_drawn_at_a_time(base: Path) -> None:
    data = toy()
    once, thrice = (train(base, data, steps=2, targets_per_query=each).generator for each in (1, 3))
    assert not all(torch.equal(value, trained_weights(once)[name]) for name, value in trained_weights(thrice).items())
