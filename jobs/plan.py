"""The plan of a release: what belongs together, fixed before the first job writes.

Reads the commit metadata of the imported tables and `releases`; writes one JSON file, which every later task reads, so
that a log that grows during the night cannot mix two states into one release.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
from pathlib import Path
from typing import NamedTuple

from jobs import releases
from jobs.errors import DataError
from jobs.files import write_json
from jobs.home import Home
from jobs.partitions import label
from jobs.settings import Settings
from schemas.fingerprint import check_release, digest, release_id, version_of

log = logging.getLogger(__name__)
SOURCES = ("click_log", "catalog", "relevance_labels", "users")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything the jobs of one release must agree on."""

    release: str
    as_of_date: str
    days: tuple[str, ...]
    """Days of the lookback window that the log has, oldest first."""
    fit: bool
    """Whether the models are trained, or those of the current release used."""
    encoder_version: str
    codebook_version: str
    generator_version: str
    corpus_memo: str
    inputs: dict[str, str]
    """Source partition -> content fingerprint."""
    parent: str | None
    """Release that was current when the plan was made: what rows are copied from and churn is measured against."""
    seen: int
    """Highest sequence of `releases` at that time."""
    parent_codebook: str | None
    parent_generator: str | None
    config_hash: str
    versions: dict[str, int] = dataclasses.field(default_factory=dict)
    """Imported table -> Delta version that the fingerprints are of: what the jobs read, whatever is imported since."""
    stages: dict[str, str] = dataclasses.field(default_factory=dict)
    """Stage of the generator's training -> its model, that of the last stage being `generator_version`; empty where it
    is trained in one step, or not at all."""

    @property
    def date(self) -> dt.date:
        """The as-of date."""
        return dt.date.fromisoformat(self.as_of_date)

    @property
    def times(self) -> dict[str, dt.datetime]:
        """The columns `event_time` and `created_time` of this release's rows: the end of the as-of day, UTC.

        Never the wall clock, so that computing rows again gives the same rows.
        """
        return dict.fromkeys(("event_time", "created_time"), releases.day_end(self.date))


def make_plan(home: Home, date: dt.date | None = None, *, refit: bool = False) -> Plan:
    """Plan the release of a date (default: the last day of the log) and keep it in the home.

    Raises:
        DataError: no log or catalogue, no event on that date, or an encoder that the current models did not learn with.
    """
    settings = home.settings
    sources = SOURCES if settings.personal else SOURCES[:-1]
    versions = {name: found for name in sources if (found := home.store.version(name)) is not None}
    as_of, days = window(home, date, versions.get("click_log"))
    inputs = _inputs(home, days, versions)
    corpus = {key: mark for key, mark in inputs.items() if not key.startswith(("relevance_labels", "users"))}
    corpus_memo = digest({"inputs": corpus, "settings": settings.corpus_rules(), "date": str(as_of)})
    from dsirm_models.encoder import encoder_version

    encoder = encoder_version(
        settings.encoder.name, max_tokens=settings.encoder.max_tokens, precision=settings.encoder.precision
    )
    rows = releases.history(home.store)
    serving = releases.serving_of(rows)
    parent = _resumed_parent(home, rows, as_of, inputs) if refit else serving
    warm = _Warm(None, None)
    stages: dict[str, str] = {}
    if serving is None or refit:
        warm = _warm_start(home, parent, encoder)
        learned = {"corpus": corpus_memo, "encoder": encoder}
        quantizer = settings.quantizer.content()
        codebook = version_of("quantizer", {**learned, "settings": quantizer, "parent": warm.codebook})
        learned |= {"codebook": codebook}
        stages = _stages(settings, {**learned, "users": inputs.get("users", "")}, warm.generator)
        trained = settings.generator.content("beams")
        single = version_of("generator", {**learned, "settings": trained, "parent": warm.generator})
        generator = [single, *stages.values()][-1]
    elif serving["encoder_version"] != encoder:
        raise DataError(
            f"The current release was made with the encoder {serving['encoder_version']}, the settings ask for "
            f"{encoder}. Vectors of two encoders do not mix: run `dsirm nightly --refit`, or set the encoder back."
        )
    else:
        codebook, generator = serving["codebook_version"], serving["generator_version"]
    content = {"settings": settings.config_hash(), "encoder": encoder, "codebook": codebook, "generator": generator}
    release = release_id(str(as_of), {**content, "inputs": inputs})
    if serving and serving["release"] == release and home.plan_file(release).is_file():
        # What it was made from stays on record: planned anew, it would be its own parent, and train nothing.
        return load_plan(home, release)
    plan = Plan(
        release=release,
        as_of_date=str(as_of),
        days=tuple(map(str, days)),
        fit=serving is None or refit,
        encoder_version=encoder,
        codebook_version=codebook,
        generator_version=generator,
        corpus_memo=corpus_memo,
        inputs=inputs,
        parent=parent["release"] if parent else None,
        seen=int(rows[-1]["sequence"]) if rows else 0,
        parent_codebook=warm.codebook,
        parent_generator=warm.generator,
        config_hash=settings.config_hash(),
        versions=versions,
        stages=stages,
    )
    write_json(home.plan_file(plan.release), dataclasses.asdict(plan))
    if refit:
        asked = {"as_of_date": str(as_of), "inputs": inputs}
        write_json(_pending(home), {**asked, "parent": plan.parent, "release": plan.release})
    return plan


class _Warm(NamedTuple):
    """Models that a training goes on from; None: from scratch."""

    codebook: str | None
    generator: str | None


def _warm_start(home: Home, parent: releases.Row | None, encoder: str) -> _Warm:
    """The parent's models where they are there and have the shape that the settings ask for.

    One that was lost, or damaged and deleted, is no reason to train never again.
    """
    if parent is None or parent["encoder_version"] != encoder:
        return _Warm(None, None)
    codebook, made = parent["codebook_version"], parent["generator_version"]
    if not home.artifact("quantizer", codebook).is_dir():
        log.warning("%s is gone: the refit starts from scratch, and codes will change their meaning", codebook)
        return _Warm(None, None)
    from dsirm_models.artifacts import read_manifest

    quantizer = home.settings.quantizer
    old = read_manifest(home.artifact("quantizer", codebook), kind="quantizer")["settings"]
    shape = (tuple(old["codebook_sizes"]), old["dim"], old["hidden"])
    if shape != (quantizer.codebook_sizes, quantizer.dim, quantizer.hidden):
        return _Warm(None, None)
    if not home.artifact("generator", made).is_dir():
        return _Warm(codebook, None)
    generator = read_manifest(home.artifact("generator", made), kind="generator")
    wanted = home.settings.generator
    hidden = generator.get("sizes", {}).get("hidden", wanted.hidden)
    same = generator["backend"] == wanted.backend and hidden == wanted.hidden
    return _Warm(codebook, made if same else None)


def _stages(settings: Settings, learned: dict[str, str], parent: str | None) -> dict[str, str]:
    """Stage -> the model it makes: named by what it learns from, how, and the model it goes on from."""
    shape = settings.generator.content("beams", "stages", *settings.generator.STEP)
    found: dict[str, str] = {}
    for name in settings.generator.stages:
        how = {"stage": name, **settings.stage(name).content()}
        parent = found[name] = version_of("generator", {**learned, "settings": shape, "stage": how, "parent": parent})
    return found


def _inputs(home: Home, days: list[dt.date], versions: dict[str, int]) -> dict[str, str]:
    """Source partition -> content fingerprint, of everything a release is computed from."""
    wanted = {label({"event_date": day}) for day in days}
    log = home.store.fingerprints("click_log", versions.get("click_log"))
    inputs = {f"click_log/{part}": mark for part, mark in sorted(log.items()) if part in wanted}
    for name in [name for name in SOURCES[1:] if name in versions]:
        marks = home.store.fingerprints(name, versions.get(name))
        inputs |= {f"{name}/{part}".rstrip("/"): mark for part, mark in sorted(marks.items())}
    if "catalog" not in inputs:
        raise DataError("There is no catalogue yet: run `dsirm import` or `dsirm simulate catalogue` first.")
    return inputs


def load_plan(home: Home, release: str) -> Plan:
    """The plan of a release. Raises DataError where none was made or the settings are not those it was made with."""
    path = home.plan_file(check_release(release))
    if not path.is_file():
        raise DataError(f"There is no plan for {release} in {path.parent}: `dsirm plan` makes one.")
    try:
        plan = Plan(**{**(body := json.loads(path.read_text(encoding="utf-8"))), "days": tuple(body["days"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} is damaged: delete it, and `dsirm plan` makes it anew.") from error
    if plan.config_hash != home.settings.config_hash():
        raise DataError(
            f"{release} was planned with other settings ({plan.config_hash}): use the same profile and file."
        )
    return plan


def finish(home: Home) -> None:
    """A refit ended: the next `--refit` is a new one, not the same one resumed."""
    _pending(home).unlink(missing_ok=True)


def window(home: Home, date: dt.date | None, version: int | None = None) -> tuple[dt.date, list[dt.date]]:
    """The as-of date and the days of its lookback window that the log has (or had, in a version)."""
    found = sorted(dt.date.fromisoformat(part["event_date"]) for part in home.store.partitions("click_log", version))
    if not found:
        raise DataError("There is no click log yet: run `dsirm import` or `dsirm simulate clicks` first.")
    as_of = date or found[-1]
    if as_of not in found:
        raise DataError(f"The click log has no event on {as_of}; it runs from {found[0]} to {found[-1]}.")
    first = as_of - dt.timedelta(days=home.settings.corpus.window_days - 1)
    return as_of, [day for day in found if first <= day <= as_of]


def _resumed_parent(
    home: Home, rows: list[releases.Row], as_of: dt.date, inputs: dict[str, str]
) -> releases.Row | None:
    """What a refit starts from: the current release, or what a refit of the same inputs that was cut short did, unless
    that serves no more: it was rolled back, or another took its place.
    """
    pending, serving = _pending(home), releases.serving_of(rows)
    if pending.is_file():
        body = json.loads(pending.read_text(encoding="utf-8"))
        same = body["as_of_date"] == str(as_of) and body["inputs"] == inputs
        # Killed after it was published, it is what serves itself.
        if same and (serving["release"] if serving else None) in (body["parent"], body.get("release")):
            return releases.find(rows, body["parent"]) if body["parent"] else None
    return serving


def _pending(home: Home) -> Path:
    return home.root / "plans" / "refit-in-progress.json"
