"""Settings: one typed TOML file, profiles, and an environment variable for every value.

Later wins: defaults, profile (`--profile`), file (`--settings`, else `HOME/dsirm.toml` where there is one), environment
(`DSIRM_<SECTION>__<KEY>`, the value as in TOML). Unknown keys and impossible values are refused, all at once.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jobs.errors import DataError
from schemas.fingerprint import digest
from schemas.sids import LEVELS, MAX_CODE

PROFILES = Path(__file__).with_name("profiles")
STAGES = ("items", "queries", "users", "align")
ENV_PREFIX = "DSIRM_"
CodebookSize = Annotated[int, Field(ge=2, le=MAX_CODE + 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A group of settings; immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    ADDED: ClassVar[frozenset[str]] = frozenset()
    """Settings that came after releases were named: at its default such a one is left out of every name."""

    def content(self, *aside: str) -> dict[str, Any]:
        """What names are made of: every value as JSON but those `aside`, and those of `ADDED` at their default."""
        unchanged = {name for name in self.ADDED if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude={*aside, *unchanged})


class Storage(Section):
    """Where tables live and how Spark runs."""

    tables: str = Field("", description="Base path or URL of the tables; empty: HOME/tables.")
    spark: dict[str, str] = Field(default_factory=dict, description="Spark properties added to the session's own.")


class Privacy(Section):
    """How people in the log are protected."""

    user_key: str = Field(
        "",
        repr=False,
        description="Key of the hash that makes pseudonyms; empty: the home makes its own on first need.",
    )
    min_query_users: int = Field(
        1, ge=1, le=32, description="Queries of fewer users in the window are neither learned nor published; 1: off."
    )


class Corpus(Section):
    """From the click log to query-item pairs."""

    zone: str = Field("UTC", description="Zone whose calendar days partition the log.")
    window_days: Positive = Field(30, description="Days summed into the corpus.")
    robot_events: Positive = Field(2000, description="A session with more events a day is a robot's.")
    robot_searches: Positive = Field(150, description="A session with more searches a day is a robot's.")
    max_query_chars: Positive = Field(256, description="Longer queries are refused.")
    max_items_per_query: Positive = Field(1000, description="A query keeps its most clicked items.")
    purchase_weight: float = Field(3.0, ge=0, description="A purchase counts as that many clicks.")
    prior_clicks: float = Field(1.0, gt=0, description="Smoothing: clicks and expected clicks added to every pair.")
    head_share: Share = Field(0.5, description="Queries that make up this share of traffic are the head.")
    tail_share: Share = Field(0.2, description="Queries that make up the last share of traffic are the tail.")
    valid_share: Share = Field(0.025, description="Share of queries that choose checkpoints.")
    test_share: Share = Field(0.025, description="Share of queries never seen.")

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{zone!r} is not a time zone such as UTC or Europe/Berlin") from error
        return zone

    @model_validator(mode="after")
    def _shares_fit(self) -> Corpus:
        if self.valid_share + self.test_share > 0.9:
            raise ValueError("valid_share + test_share leave less than a tenth of the queries to learn from")
        if self.head_share + self.tail_share > 1:
            raise ValueError("head_share + tail_share exceed 1")
        return self


class EncoderSettings(Section):
    """The frozen dual encoder."""

    name: str = Field("minilm", description="minilm (comes with the installation), or a Hugging Face name or path.")
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 64
    precision: Literal["fp32", "bf16"] = Field("fp32", description="`dsirm encoder` tells which is faster here.")
    batch: Positive = 64


class QuantizerSettings(Section):
    """The contrastive residual quantizer: DSIRM's by default, CQ-SID's by the profile `cqsid`."""

    ADDED = frozenset({"contrast_on", "unknown_level1", "lone_items", "split_over", "split_groups"})

    codebook_sizes: tuple[CodebookSize, ...] = Field((128, 128, 128), description="Codes at levels 1, 2 and 3.")
    reserved: int = Field(8, ge=0, description="Level-1 codes kept for unmapped and unknown categories.")
    dim: Positive = Field(64, description="Width of the latent space.")
    hidden: Positive = Field(256, description="Width of the projection encoders' hidden layer.")
    tau: float = Field(0.07, gt=0, description="Temperature of InfoNCE.")
    batch: Annotated[int, Field(ge=2)] = 256
    max_steps: Positive = Field(3000, description="Optimiser steps; held-out pairs choose among checkpoints.")
    lr: float = Field(3e-3, gt=0)
    ema_decay: float = Field(0.99, gt=0, lt=1)
    contrastive_weight: float = Field(1.0, ge=0)
    commitment_weight: float = Field(1.0, ge=0)
    reconstruction_weight: float = Field(0.1, ge=0)
    query_level1: Literal["pair", "nearest"] = Field("pair", description="A query's first code in training.")
    contrast_on: Literal["quantized", "encoder"] = Field(
        "quantized", description="What InfoNCE compares: quantized vectors (DSIRM) or the towers' output (CQ-SID)."
    )
    unknown_level1: Literal["reserved", "nearest"] = Field(
        "reserved",
        description="An item without a mapped category takes the nearest unmapped code, or the nearest of all.",
    )
    lone_items: bool = Field(False, description="Train on items without a query too; the contrast leaves them out.")
    split_over: int = Field(0, ge=0, description="A SID with more items is split into groups of that size; 0: never.")
    split_groups: Annotated[int, Field(ge=1, le=1024)] = Field(100, description="Groups of a SID, at most.")
    seed: int = 17

    @model_validator(mode="after")
    def _sizes_fit(self) -> QuantizerSettings:
        if len(self.codebook_sizes) != LEVELS:
            raise ValueError(f"codebook_sizes names {len(self.codebook_sizes)} levels; a SID has {LEVELS}")
        if self.reserved >= self.codebook_sizes[0]:
            raise ValueError(f"reserved = {self.reserved} leaves no code of {self.codebook_sizes[0]} for a category")
        if self.split_over and self.codebook_sizes[2] * self.split_groups > MAX_CODE + 1:
            raise ValueError(
                f"split_groups = {self.split_groups} times {self.codebook_sizes[2]} codes do not fit the third "
                f"index of a SID, which counts to {MAX_CODE + 1}"
            )
        return self


class GeneratorSettings(Section):
    """Query -> SID."""

    ADDED = frozenset({"stages"})
    STEP: ClassVar[tuple[str, ...]] = ("epochs", "steps", "batch", "accumulation", "lr")
    """Settings of the single step, which each stage has of its own."""

    backend: Literal["embedded", "causal_lm"] = "embedded"
    model: str = Field("Qwen/Qwen3-0.6B", description="causal_lm: name or path of the base model on this machine.")
    lora: bool = Field(False, description="causal_lm: train adapters and the new token rows only.")
    beams: Positive = Field(5, description="SIDs predicted per query.")
    epochs: Positive = Field(12, description="embedded: passes over the queries.")
    steps: Positive = Field(2000, description="causal_lm: optimiser steps.")
    batch: Positive = Field(128, description="Queries per optimiser step.")
    accumulation: Positive = Field(1, description="causal_lm: micro-batches that a step is cut into.")
    lr: float = Field(1e-3, gt=0)
    hidden: Positive = Field(256, description="embedded: width.")
    seed: int = 23
    stages: tuple[Literal["items", "queries", "users", "align"], ...] = Field(
        (), description="CQ-SID's progressive training, each stage with its own section; empty: queries alone."
    )

    @model_validator(mode="after")
    def _fits(self) -> GeneratorSettings:
        _divides(self.batch, self.accumulation)
        if self.stages != STAGES[: len(self.stages)] or len(self.stages) == 1:
            raise ValueError(
                f"stages = {list(self.stages)} is not the beginning of {', '.join(STAGES)}: each goes on from the one "
                "before, and queries are what the generator is for"
            )
        return self


def _divides(batch: int, accumulation: int) -> None:
    if batch % accumulation:
        raise ValueError(f"accumulation = {accumulation} does not divide batch = {batch}")


class StageSettings(Section):
    """A supervised stage: title -> SID, query -> SID, or user + query -> SID."""

    epochs: Positive = Field(6, description="embedded: passes over the stage's inputs.")
    steps: Positive = Field(2000, description="causal_lm: optimiser steps.")
    batch: Positive = Field(128, description="Inputs (causal_lm: examples) per optimiser step.")
    accumulation: Positive = Field(1, description="causal_lm: micro-batches that a step is cut into.")
    lr: float = Field(1e-3, gt=0)

    @model_validator(mode="after")
    def _batch_divides(self) -> StageSettings:
        _divides(self.batch, self.accumulation)
        return self


class AlignSettings(Section):
    """EG-GRPO."""

    steps: Positive = Field(1000, description="Optimiser steps, both backends.")
    batch: Positive = Field(64, description="Requests per step; times `group` = rollouts.")
    accumulation: Positive = Field(1, description="Micro-batches that a step is cut into.")
    lr: float = Field(1e-6, gt=0)
    group: Annotated[int, Field(ge=2)] = Field(8, description="SIDs sampled per request.")
    experts: int = Field(2, ge=0, description="True SIDs that join a group, K; 0: plain GRPO.")
    kl: float = Field(1.0, ge=0, description="Weight of the KL to the stage before; 0: none.")
    clip: float = Field(0.2, gt=0, lt=1)
    drop_flat: bool = Field(False, description="Leave groups without variance out of the mean of the loss.")
    correct_experts: bool = Field(False, description="Weigh experts by their truncated importance.")

    @model_validator(mode="after")
    def _batch_divides(self) -> AlignSettings:
        _divides(self.batch, self.accumulation)
        return self


class RecallSettings(Section):
    """Generative recall: lists of items for queries. Off by default; the profile `cqsid` turns it on."""

    ADDED = frozenset({"beams", "items", "requests"})

    beams: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="SIDs of a query whose items are recalled (the paper: 20, 50 or 100); 0: no lists."
    )
    items: Annotated[int, Field(ge=1, le=1000)] = Field(1000, description="Items of a list, at most.")
    requests: int = Field(
        0, ge=0, description="Lists per user and query, at most, the most searched first; needs the stage `users`."
    )
    retrain_at: Share = Field(
        0.05, description="Share of the hit rate lost to items that the generator never saw: train again from there on."
    )

    def content(self, *aside: str) -> dict[str, Any]:
        """As of any section, but for `retrain_at`: it advises, and decides no row."""
        return super().content("retrain_at", *aside)


class Matching(Section):
    """Prefix match."""

    ss: tuple[float, float, float, float] = Field((0.0, 0.25, 0.5, 1.0), description="Score of depth 0, 1, 2 and 3.")

    @field_validator("ss")
    @classmethod
    def _rising(cls, ss: tuple[float, ...]) -> tuple[float, ...]:
        if list(ss) != sorted(ss) or ss[0] < 0 or ss[-1] > 1:
            raise ValueError("ss must rise with depth within 0..1")
        return ss


class RankerSettings(Section):
    """The offline ranker and its evaluation."""

    folds: Annotated[int, Field(ge=2)] = 5
    seeds: Positive = 3
    draws: Positive = Field(2000, description="Bootstrap draws behind every interval.")
    hidden: Positive = Field(64, description="Width of the first layer; the second has half.")
    steps: Positive = Field(300, description="Optimiser steps of a fit; a few thousand pairs need no more.")


class StudySettings(Section):
    """`dsirm evaluate --study`: what SIDs are worth, with baselines, ablations and intervals."""

    seeds: Positive = Field(5, description="Seeds of every variant, and worlds of every marketplace.")
    draws: Positive = Field(10_000, description="Bootstrap draws behind every interval.")
    quantizer_steps: Positive = Field(2000, description="Optimiser steps of a quantizer, at most.")
    generator_epochs: Positive = Field(6, description="Epochs of a generator, at most.")
    dynamic_steps: Positive = Field(100, description="Steps in which `dsirm-dynamic` tunes the encoder's top layer.")
    shares: tuple[Share, ...] = Field(
        (0.0, 0.2, 0.4), description="Marketplaces: share of queries whose shoppers go by what no text tells."
    )
    log_shares: tuple[Share, ...] = Field(
        (0.25,), description="Sizes of the log, against the whole, that the last marketplace is studied at as well."
    )
    world_items: Positive = Field(3000, description="Items of a marketplace.")
    world_queries: Positive = Field(2500, description="Queries with traffic in a marketplace.")
    world_held_out: Positive = Field(200, description="Judged queries of a marketplace that nobody typed.")
    workers: int = Field(0, ge=0, description="Processes; 0: one a core.")


class Gates(Section):
    """What a release must reach to be published."""

    item_coverage: Share = Field(0.98, description="Share of catalogue items with a SID, at least.")
    query_coverage: Share = Field(0.5, description="Share of the window's queries with a SID, at least.")
    traffic_coverage: Share = Field(0.9, description="Share of searches whose query has a SID, at least.")
    pairs_in_catalogue: Share = Field(0.5, description="Share of clicked pairs whose item the catalogue has, at least.")
    items: Share = Field(0.7, description="Catalogue items as a share of the current release's, at least.")
    largest_bucket: Share = Field(0.25, description="Share of all items behind one SID, at most.")
    utilisation: Share = Field(0.1, description="Share of a level's codes that some item uses, at least; every level.")
    volume_low: float = Field(0.3, ge=0, description="Searches of the day over the median of the 7 before, at least.")
    volume_high: float = Field(3.0, gt=0, description="The same, at most. Asked once three days came before.")
    churn_1: Share = Field(0.5, description="Refit: share of items whose level-1 code moved, at most.")
    auc_drop: Share = Field(0.05, description="Ranker AUC below that of the current release, at most.")


class Retention(Section):
    """What `dsirm maintain` keeps beside the current release and the pinned ones."""

    releases: Positive = Field(14, description="Releases published last.")
    daily_days: Positive = Field(90, description="Days of the daily tables and of quarantine; the window at least.")
    vacuum_hours: Positive = Field(168, description="Hours that a replaced file stays for readers that have it open.")


class Settings(Section):
    """Everything that can be set."""

    storage: Storage = Storage()
    privacy: Privacy = Privacy()
    corpus: Corpus = Corpus()
    encoder: EncoderSettings = EncoderSettings()
    quantizer: QuantizerSettings = QuantizerSettings()
    generator: GeneratorSettings = GeneratorSettings()
    stage_items: StageSettings = StageSettings()
    stage_queries: StageSettings = StageSettings()
    stage_users: StageSettings = StageSettings()
    stage_align: AlignSettings = AlignSettings()
    recall: RecallSettings = RecallSettings()
    matching: Matching = Matching()
    ranker: RankerSettings = RankerSettings()
    study: StudySettings = StudySettings()
    gates: Gates = Gates()
    retention: Retention = Retention()

    def config_hash(self) -> str:
        """Hash of what decides a release: all but where things are stored, secrets, gates, retention, the study, and
        stages that the generator does not go through.
        """
        aside = {"storage", "privacy", "gates", "retention", "study"}
        aside |= {f"stage_{name}" for name in STAGES if name not in self.generator.stages}
        sections = {name: getattr(self, name).content() for name in type(self).model_fields if name not in aside}
        # A section that came later, all of it at its defaults, is in no name either.
        named = {name: values for name, values in sections.items() if values}
        return digest({**named, **self.withheld()})[:16]

    @property
    def beams(self) -> int:
        """SIDs generated per query: as many as recall or matching asks for."""
        return max(self.generator.beams, self.recall.beams)

    def stage(self, name: str) -> Section:
        """The section of one of `STAGES`."""
        section: Section = getattr(self, f"stage_{name}")
        return section

    @property
    def personal(self) -> bool:
        """Whether the generator learns who asks, so that searches are kept by user."""
        return "users" in self.generator.stages

    @property
    def recall_tables(self) -> tuple[str, ...]:
        """Tables of a release that are written only where recall is asked for."""
        if not self.recall.beams:
            return ()
        return ("request_sids", "recall_lists") if self.personal and self.recall.requests else ("recall_lists",)

    def corpus_rules(self) -> dict[str, Any]:
        """What decides the corpus, beside its inputs."""
        return {**self.corpus.content(), **self.withheld()}

    def withheld(self) -> dict[str, int]:
        """The rule that withholds rare queries; nothing where it is off, so that hashes are those of before it."""
        least = self.privacy.min_query_users
        return {"min_query_users": least} if least > 1 else {}


def load_settings(
    home: Path, profile: str | None = None, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Settings for a home.

    Raises:
        DataError: unreadable file, unknown profile, key or value; the message lists every problem.

    """
    environ = os.environ if environ is None else environ
    profile = profile or environ.get("DSIRM_PROFILE")
    layers: list[dict[str, Any]] = []
    if profile:
        known = sorted(path.stem for path in PROFILES.glob("*.toml"))
        if profile not in known:
            raise DataError(f"There is no profile {profile!r}. Known: {', '.join(known)}.")
        layers.append(_read_toml(PROFILES / f"{profile}.toml"))
    own = home / "dsirm.toml"
    if file is not None or own.is_file():
        layers.append(_read_toml(file or own))
    layers.append(_from_environment(environ))
    merged: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            if isinstance(values, dict) and isinstance(merged.get(section), dict):
                merged[section] = {**merged[section], **values}
            else:
                merged[section] = values
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, p['loc']))}: {_in_words(p['type'], p['msg'])}" for p in error.errors()]
        raise DataError("The settings cannot be used:\n" + "\n".join(lines)) from None


def _in_words(kind: str, message: str) -> str:
    return "there is no such setting" if kind == "extra_forbidden" else message.removeprefix("Value error, ")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as handle:
            return tomllib.load(handle)
    except OSError as error:
        raise DataError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except RecursionError:
        raise DataError(f"The settings file {path} is nested too deep.") from None
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise DataError(f"The settings file {path} is not TOML: {error}.") from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or "__" not in name:
            continue
        section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        found.setdefault(section, {})[key] = _toml_value(environ[name])
    return found


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
