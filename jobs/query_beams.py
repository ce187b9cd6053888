"""SIDs of queries in a release: published ones, or predicted on the spot for queries that the release has none of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs import releases
from jobs.arrays import find, matrix
from jobs.errors import DataError
from jobs.generators import QueryInputs, device, load_for, release_sids
from jobs.home import Home
from jobs.partitions import Partition
from jobs.plan import load_plan
from jobs.requests import RequestInputs, asked_of, request_inputs, user_fields
from schemas.query_sids import SHARDS
from schemas.text import has_words, normalise_query, text_hash

if TYPE_CHECKING:
    from dsirm_models.beam import Beams

Found = list[tuple[int, list[float]]]
"""SIDs with the log-probabilities of their levels, best first."""


class Serving(NamedTuple):
    """A release and what belongs to it."""

    release: str
    encoder_version: str
    codebook_version: str
    generator_version: str


def serving(home: Home, release: str | None = None) -> Serving:
    """A published release, or the current one. Raises DataError where there is none."""
    row = releases.current(home.store) if release is None else releases.find(releases.history(home.store), release)
    if row is None:
        raise DataError("Nothing is published yet: run `dsirm nightly` first.")
    return Serving(**{name: row[name] for name in Serving._fields})


def query_text(query: str) -> str:
    """A query's normal form. Raises DataError where it holds nothing to look up."""
    text = normalise_query(query)
    if not has_words(text):
        raise DataError(f"{query!r} holds no letter or digit, so there is nothing to look up.")
    return text


def published(home: Home, of: Serving, text: str) -> tuple[Found, bool]:
    """The SIDs of a query that the release holds, and whether these are all that exist."""
    part: Partition = {"release": of.release, "shard": text_hash(text) % SHARDS}
    mine = home.store.read_arrow(
        "query_sids", part, columns=["rank", "sid", "logps", "complete"], where=pc.field("query_id") == text_hash(text)
    )
    return _listed(mine)


def published_for(home: Home, of: Serving, text: str, user: str) -> tuple[Found, bool]:
    """The same for a user and a query; nothing where they were not among those searched most, or nobody is known."""
    mine = home.store.read_arrow(
        "request_sids",
        {"release": of.release},
        columns=["rank", "sid", "logps", "complete"],
        where=(pc.field("query_id") == text_hash(text)) & (pc.field("user") == user),
    )
    return _listed(mine)


def _listed(rows: pa.Table) -> tuple[Found, bool]:
    listed = rows.sort_by("rank").to_pylist()
    return [(row["sid"], row["logps"]) for row in listed], bool(listed) and not listed[0]["complete"]


def predicted(home: Home, of: Serving, text: str, beams: int) -> Found:
    """The best SIDs of a query, generated now."""
    return _first(predict(home, of, encoded(home, of, [text]), beams))


def predicted_for(home: Home, of: Serving, text: str, beams: int, user: str, *, everybody: bool) -> tuple[Found, bool]:
    """The same for a user as known at the end of the release's day, and whether they are that user's own.

    Where nothing is known of the user, or the generator reads queries alone, they are `everybody`'s, if asked for.

    Raises:
        DataError: the settings are not those of the release, or its profiles were removed.
    """
    queries = encoded(home, of, [text])
    generator = load_for(home, of.generator_version, of.codebook_version, queries)
    inputs: QueryInputs | RequestInputs = queries
    own = False
    if (fields := user_fields(generator)) is not None:
        plan = load_plan(home, of.release)
        asked = pa.table({"query_id": queries.ids, "user": pa.array([user], pa.string())})
        inputs = request_inputs(home, plan, queries, asked_of(plan, asked), fields)
        own = bool(inputs.known[0])
    if not own and not everybody:
        return [], False
    return _first(_search(home, of, generator, inputs.take(np.arange(1), generator.backend), beams)), own


def _first(found: Beams) -> Found:
    listed = zip(found.sids[0], found.logps[0], strict=True)
    return [(int(sid), logps.tolist()) for sid, logps in listed if sid >= 0]


def encoded(home: Home, of: Serving, texts: list[str]) -> QueryInputs:
    """Normalised queries as a generator reads them; those that the home has no vector of are encoded now.

    Raises:
        DataError: the settings name another encoder than the release was made with.
    """
    from dsirm_models.encoder import encoder_version, load_encoder

    ids, first = np.unique(np.array([text_hash(text) for text in texts], dtype=np.int64), return_index=True)
    distinct = [texts[at] for at in first]
    how = home.settings.encoder
    wanted = encoder_version(how.name, max_tokens=how.max_tokens, precision=how.precision)
    if wanted != of.encoder_version:
        raise DataError(
            f"{of.release} was made with the encoder {of.encoder_version}, the settings ask for {wanted}: use the "
            "profile and settings that it was made with."
        )
    part: Partition = {"encoder_version": of.encoder_version}
    known = home.store.read_arrow(
        "query_embeddings", part, columns=["text_hash", "embedding"], where=pc.field("text_hash").isin(pa.array(ids))
    ).sort_by("text_hash")
    place = find(known["text_hash"].to_numpy(), ids)
    missing = np.flatnonzero(place < 0)
    if not len(missing):
        return QueryInputs(ids, matrix(known["embedding"], "query_embeddings")[place], distinct)
    encoder = load_encoder(how.name, how.max_tokens, precision=how.precision, batch_size=how.batch)
    fresh = encoder.encode([distinct[at] for at in missing])
    vectors = np.empty((len(ids), fresh.shape[1]), dtype=np.float32)
    vectors[missing] = fresh
    if len(missing) < len(ids):
        vectors[place >= 0] = matrix(known["embedding"], "query_embeddings")[place[place >= 0]]
    return QueryInputs(ids, vectors, distinct)


def predict(home: Home, of: Serving, queries: QueryInputs, beams: int) -> Beams:
    """The `beams` best SIDs of each query among those of the release.

    Raises:
        DataError: the generator learned another codebook than the release uses.
    """
    generator = load_for(home, of.generator_version, of.codebook_version, queries)
    return _search(home, of, generator, queries.take(np.arange(len(queries.ids)), generator.backend), beams)


def _search(home: Home, of: Serving, generator: Any, inputs: Any, beams: int) -> Beams:
    from dsirm_models.beam import beam_search
    from dsirm_models.sid_index import SidIndex

    _, _, existing = release_sids(home.store, of.release, of.codebook_version)
    return beam_search(generator, SidIndex(existing).to(device()), inputs, beams)
